#!/bin/sh
# A chat that grows, beside mlx-lm; writes CHAT.md. MLXRT_BENCH_PYTHON: as in python.sh.
set -eu
cd "$(dirname "$0")/.."

. benches/python.sh

lib=${MLXRT_LIB:-target/release}
lib=$(cd "$lib" && pwd)
shape=build/bench-models/demo-8192
mkdir -p $shape
cp demo/model/* $shape/
sed -i.old 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 8192/' $shape/config.json
rm $shape/config.json.old
${CC:-cc} -O2 -std=gnu99 -Wall -Wextra -Werror -Iinclude benches/chat.c -o build/chat-turns -L"$lib" -lmlxrt -Wl,-rpath,"$lib"
exec "$python" benches/chat.py $shape build/chat-turns
