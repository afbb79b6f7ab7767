#!/bin/sh
# Decoding over quantised keys and values, on a dense model's shape with random weights; writes KV.md. MLXRT_BENCH_PYTHON: as in
# python.sh, for the first time, which makes the model.
set -eu
cd "$(dirname "$0")/.."

. benches/shape.sh
${CC:-cc} -O2 -std=gnu99 -Wall -Wextra -Werror -Iinclude benches/kv.c -o build/kv -L"$lib" -lmlxrt -Wl,-rpath,"$lib"

rows=$(build/kv $shape 128 4096)
cat > benches/KV.md <<END
# Quantised keys and values

Made by \`make bench-kv\`: Qwen3-0.6B's shape with random weights in 4 bits, on the CPU's kernels. One run on $(date +%Y-%m-%d),
$(nproc) threads, a shared machine. All kinds took turns in it; the median of nine turns of twelve tokens counts.

$rows
END
cat benches/KV.md
