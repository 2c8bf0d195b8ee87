# Sourced by demo, test and check. `environment NAME STEP...` makes the virtual environment NAME once and sets $python
# to its interpreter; a later call is quick while pyproject.toml, this file and the interpreter are the same.
# shellcheck shell=bash

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# The demo's agent. Its metadata asks for everything that its other models and benchmarks use (litellm, openai, datasets
# with pyarrow, textual: 700 MB, a minute). DefaultAgent, LocalEnvironment and DeterministicModel import only what
# stands here, so the agent is installed without its dependencies and these beside it. The version is exact because
# the list was found by importing that version; `environment` imports it once more, so a wrong list fails at set-up.
agent=mini-swe-agent==2.4.6
agent_needs=('pydantic>=2,<3' 'jinja2>=3,<4' 'python-dotenv>=1' 'platformdirs>=4' 'rich>=13')

say() { printf '%s\n' "$@" >&2; }

die() { say "$@"; exit 1; }

# Debian and Ubuntu ship venv without ensurepip until python3-venv is there, hence both imports.
makes_environments() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1; }

first_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if makes_environments "$candidate"; then
            # Behind a shim stands the interpreter itself; two names of one interpreter share an environment.
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# Installs a Debian package as root; an ordinary user is told the line to type.
install_package() {
    command -v apt-get >/dev/null || die "$2" "Install it with this system's package manager and run this again."
    [ "$(id -u)" = 0 ] || die "$2" "Run:  sudo apt-get install $1"
    say "Installing $1 ..."
    local log
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get install -qy --no-install-recommends "$1" ||
        { apt-get update -q && apt-get install -qy --no-install-recommends "$1"; }; } </dev/null >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt-get could not install $1; its output is in $log."
    fi
    rm -f "$log"
}

# The program of the Debian package of the same name, which is installed where it is missing.
program() {
    command -v "$1" >/dev/null || install_package "$1" "The program $1 is needed."
}

# PostgreSQL's programs, which Debian keeps out of PATH; without a database of its own that would be started at once.
database() {
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && return
    if [ "$(id -u)" = 0 ] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    install_package postgresql "PostgreSQL is needed."
}

base_python() {
    local package
    for package in '' python3-venv python3.11-venv; do
        [ -z "$package" ] || install_package "$package" "Python 3.11 or later with venv and ensurepip is needed (PYTHON=... chooses one)." >&2
        first_python && return
    done
    die "No Python of 3.11 or later was found, nor could apt-get bring one. Set PYTHON to one that has venv and ensurepip."
}

# In the checkout if it is ours; a checkout that belongs to someone else, or that cannot be written, is left as it is.
environment_folder() {
    if [ -O "$checkout" ] && [ -w "$checkout" ]; then
        mkdir -p "$checkout/.venvs"
        printf '%s/.venvs/%s\n' "$checkout" "$1"
        return
    fi
    local home=${HOME:-} cache
    if [ -O "${home:-/nowhere}" ]; then
        cache=${XDG_CACHE_HOME:-$home/.cache}
    elif [ "$(id -u)" = 0 ]; then
        cache=/var/cache # under sudo, HOME can be another user's
    else
        cache=$(mktemp -d)
    fi
    cache=$cache/agent-safety-layer/checkouts/$(printf %s "$checkout" | sha256sum | cut -c1-12)
    mkdir -p "$cache" || die "No folder for a Python environment: $cache cannot be made."
    printf '%s/%s\n' "$cache" "$1"
}

logged() { # WHAT COMMAND...: one line of progress; the output is shown if it fails
    local what=$1
    shift
    say "  $what"
    if ! "$@" </dev/null >>"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die "Setting up failed at: $what. The whole output is in $log"
    fi
}

# environment NAME EXTRAS [agent]: EXTRAS as pip writes them, "" or "[test]".
environment() {
    local name=$1 extras=$2 with_agent=${3:-} base folder stamp log
    base=$(base_python)
    folder=$(environment_folder "$name")
    log=$folder.log
    python=$folder/bin/python
    if [ "${folder%/*}" != "$checkout/.venvs" ]; then
        # Nothing is written into somebody else's checkout, byte code and caches included.
        export PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY="$folder/hypothesis"
        export PYTEST_ADDOPTS="-o cache_dir=$folder/pytest ${PYTEST_ADDOPTS:-}"
    fi
    stamp=$({ "$base" -VV; printf '%s\n' "$base" "$checkout" "$@"; cat "$checkout/pyproject.toml" "${BASH_SOURCE[0]}" "$checkout"/supervisor/agent_safety_layer/_core.c; } | sha256sum)
    exec 9>"$folder.lock"
    flock 9
    if [ "$(cat "$folder/stamp" 2>/dev/null)" != "$stamp" ] || ! "$python" -c '' 2>/dev/null; then
        say "Setting up a Python environment in $folder (once)"
        : >"$log"
        logged "venv, with $base" "$base" -m venv --clear "$folder"
        logged "agent-safety-layer$extras and what it needs" "$python" -m pip install -q -e "$checkout$extras"
        if [ -n "$with_agent" ]; then
            logged "what $agent needs" "$python" -m pip install -q "${agent_needs[@]}"
            logged "$agent itself" "$python" -m pip install -q --no-deps "$agent"
            logged "a look whether it starts" env MSWEA_SILENT_STARTUP=1 MSWEA_GLOBAL_CONFIG_DIR="$folder/mini" "$python" -c \
                'import minisweagent.agents.default, minisweagent.environments.local, minisweagent.models.test_models'
        fi
        printf '%s\n' "$stamp" >"$folder/stamp"
    fi
    exec 9>&-
    PATH=$folder/bin:$PATH
}
