#!/bin/sh
# Builds the CPU kernels alone for aarch64 Linux and runs their tests under qemu-user, with dotprod and without.
# Wants: rustup target add aarch64-unknown-linux-gnu; Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
for cpu in max cortex-a53; do
	export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu -L /usr/aarch64-linux-gnu"
	echo "qemu's $cpu:"
	"${CARGO:-cargo}" test --release --lib --manifest-path "$root/src/kernels/Cargo.toml" --target $target --target-dir "$root/target/neon" -- "$@"
done
