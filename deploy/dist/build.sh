#!/usr/bin/env bash
# Builds `millrace` for production: optimised for what it does while it works, which a first build of it records.
#
#   deploy/dist/build.sh                  prints the binary's path
#   CPU=x86-64-v4 deploy/dist/build.sh    for machines that all have AVX-512 (default x86-64-v3: AVX2)
#
# Three steps: a build that counts, a day of generated events through it (seeded: train.py), and the build proper with the
# counts. From nothing it takes about an hour and a half on 2 cores. The next time the first build takes only what changed, the
# second one is built anew with the new counts.
set -euo pipefail
cd "$(dirname "$0")/../.."

cpu="${CPU:-x86-64-v3}"
host="$(rustc -vV | sed -n 's/^host: //p')"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/millrace/target}"
folder="$CARGO_TARGET_DIR/dist"
profdata="$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"

say() { echo "dist: $*" >&2; }

build() { # folder, flags -> path
  # RUSTFLAGS take the place of those in .cargo/config.toml. With --target they are not those of build scripts.
  RUSTFLAGS="-C link-arg=-fuse-ld=mold -C target-cpu=$cpu $2" CARGO_TARGET_DIR="$folder/$1" \
    cargo build --profile dist --locked --target "$host" -p millrace-client >&2
  echo "$folder/$1/$host/dist/millrace"
}

[[ -x "$profdata" ]] || { say "installing llvm-tools"; rustup component add llvm-tools >&2; }
say "building the load generator"
cargo build --release --locked -p millrace-loadtest >&2

say "building what counts"
counting="$(build counting "-C profile-generate=$folder/counts")"
say "counting"
rm -rf "$folder/counts"
LLVM_PROFILE_FILE="$folder/counts/%p-%m.profraw" MILLRACE_BIN="$counting" LOADTEST_BIN="$CARGO_TARGET_DIR/release/millrace-loadtest" \
  python3 deploy/dist/train.py --work "$folder/training" >&2
"$profdata" merge -o "$folder/merged.profdata" "$folder"/counts/*.profraw

say "building with the counts"
build optimised "-C profile-use=$folder/merged.profdata"
