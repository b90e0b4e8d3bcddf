#!/usr/bin/env bash
# Puts the real Great Expectations into a virtual environment, once: the oracle of the quality tests.
#   install.sh DIR        prints nothing but what it does; a second call returns at once
set -euo pipefail
version=1.24.1
dir="$1"
mkdir -p "$(dirname "$dir")"
exec 9>"$dir.lock"
flock 9 # tests run side by side: one of them installs, the others wait
[ "$(cat "$dir/.installed" 2>/dev/null)" = "$version" ] && exit 0
echo "installing great_expectations $version into $dir" >&2
[ -x "$dir/bin/python" ] || python3 -m venv "$dir"
"$dir/bin/pip" install -q "great_expectations==$version" pandas pyarrow sqlalchemy
echo "$version" >"$dir/.installed"
