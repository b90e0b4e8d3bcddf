#!/usr/bin/env bash
# Installs the Debian packages that Millrace's build and tests need and this machine lacks.
# Says what it does; does nothing where nothing is missing. Needs root only when something is.
set -euo pipefail

NEEDED=(
  build-essential mold cmake  # compilers and linker
  protobuf-compiler libprotobuf-dev  # the API's code is generated
  libcurl4-openssl-dev libssl-dev libsasl2-dev zlib1g-dev  # librdkafka
  curl                        # readiness of local services
  python3-venv                # oracles: Great Expectations, DuckDB
  postgresql                  # DDL is run against the real one
)
command -v mvn >/dev/null && command -v java >/dev/null || NEEDED+=(maven) # Kafka's broker

missing=()
for package in "${NEEDED[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
for tool in cargo go; do
  command -v "$tool" >/dev/null || { echo "packages: \`$tool\` is missing; install it (Rust 1.95 by rustup, Go 1.24 or newer)" >&2; exit 1; }
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "packages: installing ${missing[*]}"
# Packages must not start system daemons: tests start their own, on loopback.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
