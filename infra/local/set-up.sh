#!/bin/sh
# Installs the locked packages into .venv with uv: `set-up.sh` what runs, `set-up.sh tools` also what tests and checks.
# A machine without uv gets one inside .holdfast, by pip.
set -eu
cd "$(dirname "$0")/../.."

state=$PWD/.holdfast
wanted='uv>=0.13,<0.14'

# uv 0.9 is the oldest that was tried with this lock file.
is_new_enough() {
    version=$("$1" --version 2>/dev/null | cut -d' ' -f2) || return 1
    major=${version%%.*} rest=${version#*.} minor=${rest%%.*}
    [ "${major:-0}" -ge 1 ] || [ "${minor:-0}" -ge 9 ]
}

# A virtual environment first; where Debian has split off ensurepip, pip alone can fill a folder.
install_uv() {
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
    for python in python3 python3.14 python3.13 python; do
        command -v "$python" >/dev/null || continue
        rm -rf "$state/tools"
        if "$python" -m venv "$state/tools" >/dev/null 2>&1; then
            "$state/tools/bin/python" -m pip install --quiet "$wanted" && return
        fi
        "$python" -m pip install --quiet --target "$state/tools" "$wanted" && return
    done
    echo "Neither uv nor a Python with pip is here. Install uv (https://docs.astral.sh/uv/) and run make again." >&2
    exit 1
}

uv=$(command -v uv || true)
if [ -z "$uv" ] || ! is_new_enough "$uv"; then
    uv=$state/tools/bin/uv
    if ! is_new_enough "$uv"; then
        echo "Installing uv into .holdfast/tools"
        install_uv
    fi
    own_uv=yes
fi

# Our own uv leaves nothing outside the tree, nor does any uv when there is no home to use.
if [ -n "${own_uv:-}" ] || [ -z "${HOME:-}" ] || [ ! -w "$HOME" ]; then
    mkdir -p "$state/tmp"
    export UV_CACHE_DIR="$state/cache" UV_PYTHON_INSTALL_DIR="$state/python" TMPDIR="$state/tmp"
fi
export UV_PROJECT_ENVIRONMENT=.venv
if [ "${1:-}" = tools ]; then
    echo "Installing the locked packages and tools into .venv"
    "$uv" sync --locked --quiet
else
    echo "Installing the locked packages into .venv"
    "$uv" sync --locked --quiet --no-default-groups --inexact  # inexact: tools that are there stay
fi
