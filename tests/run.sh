#!/bin/sh
# Sets up everything and runs the tests, once on each database.
#
#   tests/run.sh [--databases "LIST"] [pytest's arguments]
#
# LIST has versions of PostgreSQL and sqlite, as in "15 16 18 sqlite"; without it the tests run on the PostgreSQL that
# the test project finds (DATABASE_URL, TESTPROJECT_POSTGRES, a wheel, the system) and on SQLite. A run that fails
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

make_environment dev
cd "$ROOT"
# Hundreds of the tests' processes would compile the same modules: half of all the time.
unset PYTHONDONTWRITEBYTECODE

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

summary=""
failed=0
for database in $databases; do
    printf '\n==> Tests on %s\n' "$database"
    if run_on "$database" "$@"; then
        summary="$summary  $database passed"
    else
        summary="$summary  $database FAILED"
        failed=1
    fi
done
printf '\n==>%s\n' "$summary"
exit "$failed"
