#!/bin/sh
# Sets up everything and runs the tests, once on each database.
#
#   tests/run.sh [--databases "LIST"] [pytest's arguments]
#
# It says first what it will do, and at the end what it leaves on the disk. LIST has versions of PostgreSQL and sqlite, as
# in "15 16 18 sqlite"; without it the tests run on the PostgreSQL that the test project finds (DATABASE_URL,
# TESTPROJECT_POSTGRES, a wheel, the system) and on SQLite. A run that fails
# does not keep the next from running, and the exit status is 1 if any failed. With TESTPROJECT_COVERAGE=1 each run
# leaves its data for "coverage combine". Three tests run at a time, as many of them wait, and whoever is done
# takes over from the others; -n 0 makes it one. Tests marked nightly (tests/nightly.py) are left out; -m "not benchmark"
# runs all.
set -eu

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
# shellcheck source=testproject/bootstrap.sh
. "$ROOT/testproject/bootstrap.sh"

databases="postgresql sqlite"
if [ "${1:-}" = --databases ]; then
    [ $# -ge 2 ] || give_up 'tests/run.sh: --databases needs a list, such as "16 sqlite".'
    databases=$2
    shift 2
fi

environment=${TESTPROJECT_VENV:-$ROOT/.venv}
say "Tests on: $databases$([ $# -eq 0 ] || printf ' (pytest %s)' "$*")"
if [ -d "$environment" ]; then
    say "- environment: $environment, brought up to date"
else
    say "- environment: $environment, made now: about a minute, half a gigabyte"
fi
if [ -n "${DATABASE_URL:-}" ]; then
    say "- PostgreSQL: the server of DATABASE_URL"
else
    say "- PostgreSQL: an embedded server, which stops two seconds after its last user"
fi
[ $# -gt 0 ] || say "- about 3,000 tests on PostgreSQL and 1,800 on SQLite: six to seven minutes on two quiet cores"
make_environment dev
cd "$ROOT"
# Hundreds of the tests' processes would compile the same modules: half of all the time.
unset PYTHONDONTWRITEBYTECODE

# list_what_stays: at the end, also of a run that is interrupted.
list_what_stays() {
    say ""
    say "Left on this machine for the next run, beside caches inside of the checkout; rm -r removes each, at any time:"
    {
        printf '%s\n' "$environment" "${TMPDIR:-/tmp}/pytest-of-$(id -un)"
        "$PYTHON" -m testproject.embedded --folders
    } | while read -r folder; do
        [ ! -d "$folder" ] || du -sh "$folder" >&2
    done
}
trap list_what_stays EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# run_on DATABASE [ARGUMENT…]: run pytest there. It runs in a subshell, so that its variables end with it.
run_on() (
    database=$1
    shift
    case $database in
        sqlite)
            TESTPROJECT_DATABASE=sqlite
            ;;
        postgresql)
            TESTPROJECT_DATABASE=postgresql
            [ -n "${DATABASE_URL:-}" ] || "$PYTHON" -m testproject.embedded || return 1
            ;;
        *)
            TESTPROJECT_DATABASE=postgresql
            TESTPROJECT_POSTGRES=$database
            export TESTPROJECT_POSTGRES
            unset DATABASE_URL
            "$PYTHON" -m testproject.embedded || return 1
            ;;
    esac
    export TESTPROJECT_DATABASE
    if [ -n "${TESTPROJECT_COVERAGE:-}" ]; then
        "$PYTHON" -m coverage run -m pytest -n 3 --dist worksteal "$@"
    else
        "$PYTHON" -m pytest -n 3 --dist worksteal "$@"
    fi
)

# Nothing is proved twice: on the databases after the first, what no database is in; on the others, what is about SQLite.
WITHOUT_DATABASE="--ignore=tests/showdeps --ignore=tests/embedded --ignore=tests/test_packaging.py
    --ignore=tests/test_architecture.py --ignore=tests/test_graph.py --ignore=tests/test_schema.py --ignore=tests/test_selection.py --ignore=tests/test_words.py"

summary=""
failed=0
for database in $databases; do
    printf '\n==> Tests on %s\n' "$database"
    elsewhere=""
    if [ $# -eq 0 ]; then
        [ -z "$summary" ] || elsewhere=$WITHOUT_DATABASE
        case "$database in $databases " in
            "sqlite in "*) ;;
            *" sqlite "*) elsewhere="$elsewhere --ignore=tests/sqlite" ;;
        esac
    fi
    # shellcheck disable=SC2086  # several words
    if run_on "$database" $elsewhere "$@"; then
        summary="$summary  $database passed"
    else
        summary="$summary  $database FAILED"
        failed=1
    fi
done
printf '\n==>%s\n' "$summary"
exit "$failed"
