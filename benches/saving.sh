#!/bin/sh
# What it costs to save a session and to load it, on a dense model's shape with random weights; writes SAVING.md. MLXRT_BENCH_PYTHON: as
# in python.sh, for the first time, which makes the model. MLXRT_BENCH_DISK: a folder on the disk that is measured.
set -eu
cd "$(dirname "$0")/.."

. benches/shape.sh
${CC:-cc} -O2 -std=gnu99 -Wall -Wextra -Werror -Iinclude benches/saving.c -o build/saving -L"$lib" -lmlxrt -Wl,-rpath,"$lib"

disk=${MLXRT_BENCH_DISK:-build/bench-saving}
mkdir -p "$disk"
rows=$(build/saving $shape 2000 "$disk")
rmdir "$disk" 2>/dev/null || true
cat > benches/SAVING.md <<END
# Sessions to files and back

Made by \`make bench-saving\`: Qwen3-0.6B's shape with random weights in 4 bits, on the CPU's kernels. The best of five runs, the library and
the plain calls by turns, on $(date +%Y-%m-%d), $(nproc) threads, a shared machine.

| | |
|---|---:|
$rows

What is read was just written, so it comes out of the system's memory, in both columns.
END
cat benches/SAVING.md
