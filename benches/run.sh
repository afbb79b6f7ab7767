#!/bin/sh
# Sets up what the benchmark needs and runs it; arguments go to bench.py. See README.md in this folder.
set -eu
cd "$(dirname "$0")/.."

. benches/python.sh

lib=${MLXRT_LIB:-target/release}
lib=$(cd "$lib" && pwd)
mkdir -p build
${CC:-cc} -O2 -std=gnu99 -Wall -Wextra -Werror -Iinclude benches/bench.c -o build/bench -L"$lib" -lmlxrt -Wl,-rpath,"$lib"

shape=build/bench-models/qwen3-0.6b-4bit
[ -d $shape ] || "$python" benches/make_model.py $shape

exec "$python" benches/bench.py --bench build/bench "$@"
