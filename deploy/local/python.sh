#!/usr/bin/env bash
# A Python with some packages, in a virtual environment of its own, installed on first use.
#   python.sh install PACKAGE==VERSION...   prints the interpreter's path
# In: MILLRACE_CACHE (default ~/.cache/millrace). Safe to call from several tests at once.
set -euo pipefail
[ "${1:-}" = install ] && [ $# -ge 2 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
shift
cache="${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}"
venv="$cache/python-$(printf '%s\n' "$@" | sort | sha256sum | cut -c1-12)"
mkdir -p "$cache"
exec 9>"$venv.lock"
flock 9
if [ ! -e "$venv/.complete" ]; then
  echo "python: installing $*" >&2
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" >&2
  touch "$venv/.complete"
fi
echo "$venv/bin/python"
