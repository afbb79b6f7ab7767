#!/bin/sh
# Sets up what the benchmark of many sessions needs and runs it; arguments go to many.py. See README.md in this folder.
# MLXRT_BENCH_PYTHON: as in python.sh. MLXRT_LLAMA_PYTHON, MLXRT_LLAMA_AMX: as in llama.sh. MLXRT_BENCH_BEFORE: the folder of an
# older libmlxrt.so, which is measured beside this one.
set -eu
cd "$(dirname "$0")/.."

. benches/python.sh
. benches/llama.sh
lib=${MLXRT_LIB:-target/release}
lib=$(cd "$lib" && pwd)
mkdir -p build
${CC:-cc} -O2 -std=gnu99 -Wall -Wextra -Werror -Iinclude benches/many.c -o build/bench-many -L"$lib" -lmlxrt -Wl,-rpath,"$lib" -pthread

exec "$python" benches/many.py --llama-python "$llama" "$@"
