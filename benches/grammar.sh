#!/bin/sh
# Answers under a grammar beside those without, and what compiling takes: the rows of GRAMMAR.md, for the demo model and for a dense
# model's shape with random weights. MLXRT_BENCH_PYTHON: as in python.sh, for the first time, which makes the model.
set -eu
cd "$(dirname "$0")/.."

. benches/shape.sh
mkdir -p build
${CC:-cc} -O2 -std=gnu99 -Wall -Wextra -Werror -Iinclude benches/grammar.c -o build/grammar -L"$lib" -lmlxrt -Wl,-rpath,"$lib"

echo "| model | answer | tokens | tokens/s without | with, or ms | cost of a token |"
echo "|---|---|---:|---:|---:|---:|"
build/grammar demo/model demo 200 21 9
build/grammar $shape 0.6B 48 7 3
