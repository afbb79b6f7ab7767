#!/bin/sh
# rustc.sh RUSTC ARGUMENTS...: cargo's rustc (.cargo/config.toml), which leaves the paths of this machine out of what it
# makes: panics and debug information name sources as /mlxrt/src/…, /crates/NAME-VERSION/src/… and /rust/….
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cargo=${CARGO_HOME:-${HOME-}/.cargo}
# Of prefixes that match, rustc takes the last.
set -- "$@" "--remap-path-prefix=${RUSTUP_HOME:-${HOME-}/.rustup}/toolchains=/rust" "--remap-path-prefix=$cargo=/cargo"
for crates in "$cargo"/registry/src/*; do
  set -- "$@" "--remap-path-prefix=$crates=/crates"
done
exec "$@" "--remap-path-prefix=$root=/mlxrt"
