#!/bin/sh
# Installs the locked packages into .venv with uv: `set-up.sh` what runs, `set-up.sh tools` also what tests and checks.
# A machine without uv gets one inside .holdfast, by pip. A known failure is reported in one sentence.
set -eu
cd "$(dirname "$0")/../.."

state=$PWD/.holdfast
wanted='uv>=0.13,<0.14'
oldest_python=3.13

fail() {
    echo "$1" >&2
    exit 1
}

# Report the output of a program that failed: as one sentence if the failure is known, else in its own words.
explain() {
    case $1 in
        *"No space left"*|*"Disk quota exceeded"*)
            fail "The disk that has $PWD is full: what runs takes 150 MB, the tools 600 MB more." ;;
        *"No interpreter found"*|*"Failed to inspect Python interpreter"*|*"python-build-standalone"*|*"incompatible with the project's Python requirement"*)
            fail "Python $oldest_python or newer is needed$(found_python); uv found none and could not download one." ;;
        *"error sending request"*|*"Connection refused"*|*"onnectTimeout"*|*"NewConnectionError"*|*"ProxyError"*|\
        *"timed out"*|*"Name or service not known"*|*"emporary failure in name resolution"*|*"dns error"*)
            fail "The package index does not answer: the first make needs the network, or a proxy in HTTPS_PROXY." ;;
        *"Read-only file system"*|*"Permission denied"*)
            fail "$PWD cannot be written to by $(id -un): packages go into .venv, databases and logs into .holdfast." ;;
    esac
    fail "The packages could not be installed. $1"
}

found_python() {
    version=$(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || return 0
    echo " (python3 is $version)"
}

# A virtual environment first; where Debian has split off ensurepip, pip alone can fill a folder. A Python that is too
# old for the platform may still bring uv, which then downloads a newer one.
install_uv() {
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
    export PIP_RETRIES=1 PIP_DEFAULT_TIMEOUT=10
    said=
    for python in python3 python3.14 python3.13 python; do
        "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip --version >/dev/null 2>&1 || continue
        rm -rf "$state/tools"
        if "$python" -m venv "$state/tools" >/dev/null 2>&1; then
            said=$("$state/tools/bin/python" -m pip install --quiet "$wanted" 2>&1) && return
        else
            said=$("$python" -m pip install --quiet --target "$state/tools" "$wanted" 2>&1) && return
        fi
        case $said in *"No matching distribution"*) is_unreachable "$said" || continue ;; esac
        explain "$said"
    done
    [ -z "$said" ] || fail "Python $oldest_python or newer is needed$(found_python)."
    fail "Neither uv nor a Python with pip is here. Install uv (https://docs.astral.sh/uv/) and run make again."
}

# pip calls it "no matching distribution", too, when it could not ask.
is_unreachable() {
    case $1 in *Retrying*|*onnection*|*ProxyError*|*resolution*) return 0 ;; esac
    return 1
}

# uv 0.9 is the oldest that was tried with this lock file.
is_new_enough() {
    version=$("$1" --version 2>/dev/null | cut -d' ' -f2) || return 1
    major=${version%%.*} rest=${version#*.} minor=${rest%%.*}
    [ "${major:-0}" -ge 1 ] || [ "${minor:-0}" -ge 9 ]
}

# The state is our account's alone. The packages are not: PostgreSQL's programs run as another account when we are root.
said=$(umask 077 && mkdir -p "$state" 2>&1) || explain "$said"
for folder in "$state" "$([ -e .venv ] && echo .venv || echo .)"; do
    [ -w "$folder" ] || explain "Permission denied"
done

# A disk that is too small is found here rather than by whatever fills it. A present .venv has taken its share already.
left=$(df -Pk . 2>/dev/null | sed -n '2s/.* \([0-9][0-9]*\)  *[0-9][0-9]*% .*/\1/p') || left=
[ "${1:-}" = tools ] && kilobytes=750000 || kilobytes=150000
[ -e .venv ] || [ "${left:-$kilobytes}" -ge "$kilobytes" ] || explain "No space left"

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
# .python-version names the oldest Python, for pyenv and editors; any newer one will do.
export UV_PROJECT_ENVIRONMENT=.venv UV_PYTHON="${UV_PYTHON:->=$oldest_python}"
export UV_HTTP_RETRIES="${UV_HTTP_RETRIES:-1}" UV_HTTP_CONNECT_TIMEOUT="${UV_HTTP_CONNECT_TIMEOUT:-10}"
if [ "${1:-}" = tools ]; then
    echo "Installing the locked packages and tools into .venv"
    said=$("$uv" sync --locked --quiet 2>&1) || explain "$said"
else
    echo "Installing the locked packages into .venv"
    # inexact: tools that are there stay
    said=$("$uv" sync --locked --quiet --no-default-groups --inexact 2>&1) || explain "$said"
fi
