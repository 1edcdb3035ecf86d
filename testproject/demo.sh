#!/bin/sh
# Sets up everything and shows what the app does, on a PostgreSQL of its own, or on SQLite where there is none.
set -eu

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
# shellcheck source=testproject/bootstrap.sh
. "$ROOT/testproject/bootstrap.sh"

make_environment demo
cd "$ROOT"

# Once for all commands, so that they agree and the remark comes once.
if [ -z "${DATABASE_URL:-}" ] && [ "${TESTPROJECT_DATABASE:-}" != sqlite ]; then
    status=0
    "$PYTHON" -m testproject.embedded 2>/dev/null || status=$?
    if [ "$status" -eq 3 ]; then
        printf 'No PostgreSQL was found: the demo goes on with SQLite.\n'
        TESTPROJECT_DATABASE=sqlite
        export TESTPROJECT_DATABASE
    elif [ "$status" -ne 0 ]; then
        "$PYTHON" -m testproject.embedded
    fi
fi

# The command as it can be pasted: with the variables that choose the database, from this folder.
manage="${PYTHON#"$ROOT"/} manage.py"
for variable in DATABASE_URL TESTPROJECT_POSTGRES_BASE TESTPROJECT_POSTGRES TESTPROJECT_DATABASE; do
    eval "value=\${$variable:-}"
    [ -z "$value" ] || manage="$variable='$value' $manage"
done

# run ARGUMENT…: show a command of manage.py and run it.
run() {
    printf '\n$ %s %s\n' "$manage" "$*"
    "$PYTHON" manage.py "$@"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# measure ARGUMENT…: show a run of tests and run it; Django's own times are in $setup and $tests.
measure() {
    printf '\n$ %s test %s\n' "$manage" "$*"
    "$PYTHON" -u manage.py test --no-input "$@" >"$log" 2>&1 || {
        cat "$log" >&2
        exit 1
    }
    grep -E '^(testdb: (building|template|test database) |Ran |Total database setup)' "$log"
    setup=$(sed -n 's/^Total database setup took \([0-9.]*\)s$/\1/p' "$log")
    tests=$(sed -n 's/^Ran .* in \([0-9.]*\)s$/\1/p' "$log")
}

# The name of the database that is about to be reset, which is never guessed.
name=$("$PYTHON" -c 'from testproject.settings import DATABASES; print(DATABASES["default"]["NAME"])')

printf '\n==> A database, made, filled and reset\n'
# The rows that migrations made are captured before others come: resets go back to them.
run migrate --verbosity 0
run resetdb --capture --allow-database "$name"
run loaddemo --size 200
run resetdb --dry-run --allow-database "$name"
run resetdb --no-input --allow-database "$name"

printf '\n==> Ten tests that commit, with Django, then with a reset and a template\n'
reset="testproject.ten_tests.ResetTests --timing --testrunner testdb_app.runner.ResetDiscoverRunner --testdb-templates"
measure testproject.ten_tests.FlushTests --timing
django_setup=$setup django_tests=$tests
"$PYTHON" manage.py testtemplates --drop --no-input >/dev/null # so that the first run is a first one
# shellcheck disable=SC2086  # several words
measure $reset
first_setup=$setup first_tests=$tests
# shellcheck disable=SC2086
measure $reset

# row LABEL DJANGO FIRST LATER: one line of the table.
row() {
    printf '%-36s%12s%15s%15s\n' "$@"
}
printf '\n'
row 'seconds' 'Django' 'the first run' 'each later run'
row 'set-up of the test database' "$django_setup" "$first_setup" "$setup"
row 'ten tests that commit' "$django_tests" "$first_tests" "$tests"

cat <<END

==> To go on, in $ROOT

  $manage showdeps
  $manage showdeps --format html --output graph.html
  $manage loaddemo --size 1000
  $manage resetdb --allow-database '$name'

Kept: the environment ${PYTHON%/bin/python}, the database with the rows of its migrations, and the template of the tests.
END
if [ "${TESTPROJECT_DATABASE:-}" != sqlite ] && [ -z "${DATABASE_URL:-}" ]; then
    printf 'The server stops by itself, and starts with the next command. Its files, which rm -r removes:\n'
    "$PYTHON" -m testproject.embedded --folders | sed 's/^/  /'
fi
