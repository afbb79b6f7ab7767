#!/bin/sh
# Sets up what the benchmark of hybrids needs and runs it; arguments go to hybrids.py. MLXRT_BENCH_PYTHON: as in python.sh.
set -eu
cd "$(dirname "$0")/.."

. benches/python.sh

lib=${MLXRT_LIB:-target/release}
lib=$(cd "$lib" && pwd)
mkdir -p build
for program in bench turns; do
  ${CC:-cc} -O2 -std=gnu99 -Wall -Wextra -Werror -Iinclude benches/$program.c -o build/$program -L"$lib" -lmlxrt -Wl,-rpath,"$lib"
done
${CC:-cc} -O3 -march=native -std=gnu99 -Wall -Wextra -Werror benches/bandwidth.c -o build/bandwidth -pthread

exec "$python" benches/hybrids.py "$@"
