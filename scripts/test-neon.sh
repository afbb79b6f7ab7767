#!/bin/sh
# Builds the CPU kernels alone for aarch64 Linux and runs their tests under qemu-user, with dotprod and without.
# Wants: rustup target add aarch64-unknown-linux-gnu; Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
crate=$root/target/neon
target=aarch64-unknown-linux-gnu
mkdir -p "$crate/src"
cat > "$crate/Cargo.toml" <<TOML
[package]
name = "mlxrt-kernels"
version = "0.0.0"
edition = "2021"
[dependencies]
half = "2"
libc = "0.2"
[workspace]
TOML
cat > "$crate/src/lib.rs" <<RUST
#![allow(dead_code)]
#[path = "$root/src/dtype.rs"]
pub mod dtype;
#[path = "$root/src/kernels/mod.rs"]
pub mod kernels;
RUST
cp "$root/Cargo.lock" "$crate/Cargo.lock"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
for cpu in max cortex-a53; do
	export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu -L /usr/aarch64-linux-gnu"
	echo "qemu's $cpu:"
	"${CARGO:-cargo}" test --release --lib --manifest-path "$crate/Cargo.toml" --target $target --target-dir "$crate/target" -- "$@"
done
