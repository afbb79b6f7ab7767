#!/bin/bash
# Type-checks the library for Apple silicon on a Debian machine, where it can be neither linked nor run.
#
# Debian's rustc-web builds the standard library for the target from source. Everything happens in target/check-apple,
# on a copy of the tree; the tree and its Cargo.lock stay as they are. Two things stand in for Xcode:
# - the pinned mlx-sys keeps its manifest, its sources and its bindgen settings, and gets a build script that only binds;
# - the C++ compiler is `true`, so src/mlx/shim.cpp is not compiled.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-apple-darwin
packages="rustc-web cargo-web rust-web-src"
work=$PWD/target/check-apple

fail() {
  echo "check-apple: $1" >&2
  exit 1
}

[ "$(uname -s)" = Linux ] || fail "this check is for Linux; on a Mac, cargo build --release does more."
command -v dpkg-query >/dev/null || fail "this check needs Debian's packages $packages, and dpkg is not here."

# 1. The compiler.
missing=$(for package in $packages; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
done | xargs)
if [ -n "$missing" ]; then
  # shellcheck disable=SC2086 # the names are separate words
  [ "$(id -u)" = 0 ] || fail "install Debian's packages first, as root: apt install --no-install-recommends $missing"
  echo "check-apple: installing $missing"
  apt-get update -qq
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove $missing >/dev/null
fi
export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
cargo=/usr/bin/cargo
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET

# 2. libclang for bindgen: the wheel that the Linux build pins, and gcc's built-in headers.
if [ -z "${LIBCLANG_PATH:-}" ]; then
  pin=mlx-sys-linux/libclang.txt
  if ! cmp -s "$pin" "$work/libclang/pin"; then
    rm -rf "$work/libclang"
    mkdir -p "$work/libclang"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
      --requirement "$pin" --platform "manylinux2014_$(uname -m)" --dest "$work/libclang" \
      || fail "pip could not fetch libclang from PyPI; install python3-pip and allow PyPI, or set LIBCLANG_PATH."
    python3 -m zipfile -e "$work"/libclang/*.whl "$work/libclang"
    rm "$work"/libclang/*.whl
    cp "$pin" "$work/libclang/pin"
  fi
  LIBCLANG_PATH=$(dirname "$(find "$work/libclang" -name 'libclang*.so*' -print -quit)")
  export LIBCLANG_PATH
fi
# The headers of this machine: mlx-c's own types are the same, but its float16 and bfloat16 functions need ARM's headers.
export BINDGEN_EXTRA_CLANG_ARGS="--target=$(gcc -dumpmachine) -I$(gcc -print-file-name=include)"

# 3. The tree, with files not yet committed, and the stand-in for mlx-sys. The tree's files get new times, so that
# the library is always checked again; mlx-sys keeps its times, and with the dependencies is checked once.
mkdir -p "$work"
rm -rf "$work/tree" "$work/mlx-sys"
mkdir "$work/tree"
git ls-files -z --cached --others --exclude-standard \
  | while IFS= read -r -d '' file; do [ ! -f "$file" ] || printf '%s\0' "$file"; done \
  | xargs -0 cp --parents -t "$work/tree"
manifest=$("$cargo" metadata --locked --format-version 1 | python3 -c '
import json, sys
print(*(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "mlx-sys"))')
[ -f "$manifest" ] || fail "Cargo.lock pins no mlx-sys; restore it from the repository."
cp -a "$(dirname "$manifest")" "$work/mlx-sys"
cp -p scripts/check-apple/build.rs "$work/mlx-sys/build.rs"
printf '\n[patch.crates-io]\nmlx-sys = { path = "%s" }\n' "$work/mlx-sys" >>"$work/tree/Cargo.toml"

# 4. The check. cc asks xcrun for nothing when these two are set.
cd "$work/tree"
suffix=${target//-/_}
env "CXX_$suffix=true" "AR_$suffix=true" SDKROOT="$work" MACOSX_DEPLOYMENT_TARGET=14.0 \
  CARGO_TARGET_DIR="$work/target" \
  "$cargo" check --package mlxrt --lib -Zbuild-std=std,panic_abort --target "$target"
echo "check-apple: $target ok (type-checked, never run)"
