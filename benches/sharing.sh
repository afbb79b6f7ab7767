#!/bin/sh
# What forks and shared prompts cost, on a dense model's shape with random weights; writes SHARING.md. MLXRT_BENCH_PYTHON: as in
# python.sh, for the first time, which makes the model.
set -eu
cd "$(dirname "$0")/.."

. benches/shape.sh
${CC:-cc} -O2 -std=gnu99 -Wall -Wextra -Werror -Iinclude benches/sharing.c -o build/sharing -L"$lib" -lmlxrt -Wl,-rpath,"$lib"

rows=$(build/sharing $shape 4000 2 | head -4; build/sharing $shape 2000 16 | tail -3)
cat > benches/SHARING.md <<END
# What sessions share

Made by \`make bench-sharing\`: Qwen3-0.6B's shape with random weights in 4 bits, on the CPU's kernels. One run on $(date +%Y-%m-%d),
$(nproc) threads, a shared machine.

| | |
|---|---:|
$rows

"On its own" is the same with \`MLXRT_GEN_NO_PREFIX_CACHE\`. A session that goes on from another's tensors copies them once, so each
holds its own in the end: what is saved is the time to compute them.
END
cat benches/SHARING.md
