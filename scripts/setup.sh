#!/usr/bin/env bash
# Makes .venv with Tidemill and the named extras: scripts/setup.sh demo | test,check
# 'make' calls it when pyproject.toml, constraints.txt or this file changed; calling it again is safe.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:-all}
say() { printf '%s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.12 python3.11 python3.13; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say "Tidemill needs Python 3.11 or newer, and none was found as python3, python3.12, python3.11"
    say "or python3.13. Install one, or name it: make PYTHON=/path/to/python3.12 ..."
    exit 1
}

make_venv() {
    local python
    python=$(find_python)
    say "Making .venv with $("$python" --version) ..."
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv .venv
    elif command -v uv >/dev/null; then
        uv venv --quiet --seed --python "$(command -v "$python")" .venv
    else
        say "This Python cannot make virtual environments: install the Debian package python3-venv."
        exit 1
    fi
}

# uv installs in a third of pip's time; where it cannot be had or does not reach its index, pip does.
find_uv() {
    command -v uv && return
    [ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --constraint constraints.txt uv || return
    echo .venv/bin/uv
}

# PyTorch comes in several builds of one version, and the one with CUDA weighs gigabytes: which one
# is taken is the business of pip's own configuration, which uv does not read. Once there, it stays.
install_torch() {
    local pin
    pin=$(grep '^torch==' constraints.txt || echo torch)
    .venv/bin/python -m pip install --quiet --compile --constraint constraints.txt "$pin"
}

install_tidemill() {
    local uv quiet=--quiet
    [ -t 2 ] && quiet=
    if uv=$(find_uv 2>/dev/null); then
        # shellcheck disable=SC2086
        "$uv" pip install $quiet --python .venv/bin/python --compile-bytecode \
            --constraint constraints.txt --editable ".[$extras]" && return
        say "uv could not install it; trying pip ..."
    fi
    .venv/bin/python -m pip install $quiet --compile \
        --constraint constraints.txt --editable ".[$extras]"
}

if ! .venv/bin/python -c '' 2>/dev/null; then
    rm -rf .venv
    make_venv
fi
say "Installing Tidemill with [$extras] into .venv, in the versions of constraints.txt;"
say "the first time this takes a minute or two ..."
case ,$extras, in *,torch,* | *,all,* | *,test,*) install_torch ;; esac
install_tidemill
# Some environments forbid writing bytecode later, and every start would then compile anew.
.venv/bin/python -m compileall -q src
# What mypyc and a C compiler make of the gateway is for who tests and measures; 'tidemill native' makes it anew.
case ,$extras, in
*,test,* | *,bench,*) .venv/bin/tidemill native >&2 || say "Gateways run from their sources for now." ;;
esac
case $extras in *demo* | *all* | *test*) touch .venv/.demo ;; esac
case $extras in *test*) touch .venv/.test ;; esac
case $extras in *bench*) touch .venv/.bench ;; esac
say "Done: .venv/bin/tidemill is ready."
