#!/bin/sh
# Rates on an NVIDIA GPU beside mlx-lm on the same wheel of MLX; writes results/gpu-decode.json and GPU.md. See README.md in this folder.
# MLXRT_LIB: the folder of a libmlxrt that was made with MLX=cuda; MLXRT_BENCH_PYTHON: a Python with mlx[cuda13] and mlx-lm.
set -eu
cd "$(dirname "$0")/.."

: "${MLXRT_LIB:?the folder of a libmlxrt that was made with MLX=cuda}"
: "${MLXRT_BENCH_PYTHON:?a Python with mlx[cuda13]==0.32.2 and mlx-lm==0.32.0}"
lib=$(cd "$MLXRT_LIB" && pwd)
mkdir -p build
for program in bench many adapters; do
  ${CC:-cc} -O2 -std=gnu99 -pthread -Wall -Wextra -Werror -Iinclude benches/$program.c -o build/$program-gpu -L"$lib" -lmlxrt \
    -Wl,-rpath,"$lib" -Wl,--allow-shlib-undefined
done
exec "$MLXRT_BENCH_PYTHON" benches/gpu.py --bench build/bench-gpu --many build/many-gpu --adapters build/adapters-gpu "$@"
