# shellcheck shell=bash
# What .ci/run and .ci/nightly share. They source it in the root of the repository.

export CI=true
unset DATABASE_URL TESTPROJECT_POSTGRES TESTPROJECT_DATABASE TESTPROJECT_PYTHON TESTPROJECT_VENV TESTPROJECT_DJANGO
python=.venv/bin/python

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failures=()

# step NAME COMMAND…: run a command; a failure is remembered and does not end the run.
step() {
    local name=$1
    shift
    printf '\n### %s\n' "$name"
    "$@" </dev/null || failures+=("$name")
}

# install_packages [chromium chromedriver mariadbd]: what the tests use of Debian's: PostgreSQL 15 with its extensions (a wheel brings
# 16 and 18), pgbouncer, Graphviz, and what else is named. Their packages would make a cluster and start services; nobody asked for that.
install_packages() {
    local missing=()
    [[ -x /usr/lib/postgresql/15/bin/postgres ]] || missing+=(postgresql-15)
    [[ -e /usr/share/postgresql/15/extension/pg_partman.control ]] || missing+=(postgresql-15-partman)
    [[ -e /usr/share/postgresql/15/extension/postgis.control ]] || missing+=(postgresql-15-postgis-3)
    [[ -x /usr/sbin/pgbouncer ]] || missing+=(pgbouncer)
    command -v dot >/dev/null || missing+=(graphviz)
    local command package
    for command in "$@"; do
        case $command in
            chromedriver) package=chromium-driver ;;
            mariadbd) package=mariadb-server ;;
            *) package=$command ;;
        esac
        command -v "$command" >/dev/null || [[ -x /usr/sbin/$command ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
        echo "Missing: run 'apt-get install ${missing[*]}' as root." >&2
        return 1
    fi
    local settings=/etc/postgresql-common/createcluster.conf policy=/usr/sbin/policy-rc.d made=""
    if [[ ! -e $settings ]]; then
        mkdir -p "$(dirname $settings)"
        echo "create_main_cluster = false" >$settings
    fi
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=$policy
    fi
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            -o Dpkg::Options::=--force-confold "${missing[@]}" >/dev/null
    local status=$?
    [[ -z $made ]] || rm -f "$made"
    return $status
}

# tests DATABASES [ARGUMENT…]: run pytest with the arguments on each of the databases.
tests() {
    local databases=$1
    shift
    tests/run.sh --databases "$databases" "$@" 2>&1 | tee -a "$log"
}

# find_python VERSION: print a Python of that version, from PATH, pyenv or uv.
find_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1"*/bin/python "$(uv python find "$1" 2>/dev/null)"; do
        if [[ -n $candidate ]] && "$candidate" -c 'import ensurepip' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# newer_django PYTHON DJANGO DATABASES FOLDER…: tests in an environment of their own.
newer_django() {
    local python
    if ! python=$(find_python "$1"); then
        echo "Skipped: there is no Python $1 here (looked on PATH, in pyenv and in uv)." | tee -a "$log"
        return
    fi
    TESTPROJECT_PYTHON=$python TESTPROJECT_VENV=$PWD/.venv-$1-django$2 TESTPROJECT_DJANGO="Django~=$2.0" \
        tests "$3" "${@:4}"
}

# checks: what needs no database.
checks() {
    step "Style" "$python" -m ruff check
    step "Format" "$python" -m ruff format --check
    step "Types" "$python" -m mypy
    step "Spelling" "$python" -m codespell_lib
    step "Documentation" "$python" -m sphinx --quiet -W --keep-going --nitpicky docs build/docs
}

# finish: repeat the closing lines of the test runs, and end with 1 if anything failed.
finish() {
    printf '\n### Closing lines of the test runs (load %s)\n' "$(cut -d' ' -f1-3 /proc/loadavg 2>/dev/null)"
    grep -E '^==> Tests on |^Skipped: |^=+ .* in [0-9.]+s.* =+$' "$log"
    if ((${#failures[@]})); then
        printf 'Failed: %s\n' "${failures[@]}"
        exit 1
    fi
    printf 'All of it passed in %d minutes.\n' $((SECONDS / 60))
}
