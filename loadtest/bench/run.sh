#!/usr/bin/env bash
# Benchmark: `millrace run` beside DuckDB, Polars and PySpark. Installs the peers into a folder of its own.
#
#   loadtest/bench/run.sh [--sizes 3M] [--tools millrace,duckdb] [--rounds 3]     (run.py --help: all options)
#
# MILLRACE_BIN, LOADTEST_BIN: binaries to use instead of building them.
# MILLRACE_CACHE: where peers, events and builds lie (default ~/.cache/millrace; events need 4 GB for 3M, 26 GB for 20M).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${MILLRACE_CACHE:-$HOME/.cache/millrace}
venv=$cache/venv-bench
peers=(duckdb==2.0.0 polars==2.1.0 pyspark==4.2.0 pyarrow matplotlib numpy)

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

install_peers() {
    [[ "$(cat "$venv/.peers" 2>/dev/null)" == "${peers[*]}" ]] && return
    say "installing the peers into $venv (once, about 1.2 GB)"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "${peers[@]}"
    echo "${peers[*]}" >"$venv/.peers"
}

build() { # package binary -> path
    say "building $2"
    (cd "$root" && cargo build --release --quiet --package "$1" --bin "$2" >&2)
    echo "${CARGO_TARGET_DIR:-$root/target}/release/$2"
}

have_java() {
    command -v java >/dev/null && return
    say "no java: PySpark is left out (apt-get install default-jre-headless)"
    return 1
}

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
install_peers
generator=${LOADTEST_BIN:-$(build millrace-loadtest millrace-loadtest)}
millrace=${MILLRACE_BIN:-$(build millrace-client millrace)}
tools=millrace,duckdb,polars
if have_java; then tools+=,pyspark; fi

exec "$venv/bin/python" "$here/run.py" --generator "$generator" --millrace "$millrace" \
    --work "$cache/bench" --tools "$tools" "$@"
