#!/bin/sh
# mlx-wheel.sh LIB: the folder with the unpacked wheel that LIB/libmlx.so came from: cargo keeps those of older builds, too.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
for folder in "$root"/target/release/build/mlx-sys-linux-*/out/mlx; do
  if cmp -s "$folder/mlx/lib/libmlx.so" "$1/libmlx.so"; then
    echo "$folder"
    exit 0
  fi
done
echo "mlx-wheel.sh: no unpacked wheel under target/release has the libmlx.so of $1; run make ship again" >&2
exit 1
