#!/bin/sh
# Sets up everything and shows what the app does, on a PostgreSQL of its own, or on SQLite where there is none.
set -eu

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
# shellcheck source=testproject/bootstrap.sh
. "$ROOT/testproject/bootstrap.sh"

make_environment demo
cd "$ROOT"

# run ARGUMENT…: show a command of manage.py and run it.
run() {
    printf '\n$ python manage.py %s\n' "$*"
    "$PYTHON" manage.py "$@"
}

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

# The name of the database that is about to be reset, which is never guessed.
name=$("$PYTHON" -c 'from testproject.settings import DATABASES; print(DATABASES["default"]["NAME"])')

# The rows that migrations made are captured before others come: resets go back to them.
run migrate --verbosity 0
run resetdb --capture --allow-database "$name"
run loaddemo --size 200
run showdeps
run resetdb --dry-run --allow-database "$name"
run resetdb --no-input --allow-database "$name"

printf '\nThe environment is %s: python manage.py help lists the commands.\n' ".venv"
