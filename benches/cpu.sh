#!/bin/sh
# Sets up what the CPU benchmark needs and runs it; arguments go to cpu.py. See README.md in this folder.
# MLXRT_BENCH_PYTHON: as in python.sh. MLXRT_LLAMA_PYTHON, MLXRT_LLAMA_AMX: as in llama.sh.
set -eu
cd "$(dirname "$0")/.."

. benches/python.sh
. benches/llama.sh

lib=${MLXRT_LIB:-target/release}
lib=$(cd "$lib" && pwd)
mkdir -p build
warnings="-std=gnu99 -Wall -Wextra -Werror"
# shellcheck disable=SC2086
${CC:-cc} -O2 $warnings -Iinclude benches/bench.c -o build/bench -L"$lib" -lmlxrt -Wl,-rpath,"$lib"
# shellcheck disable=SC2086
${CC:-cc} -O3 -march=native $warnings benches/bandwidth.c -o build/bandwidth -pthread

exec "$python" benches/cpu.py --llama-python "$llama" "$@"
