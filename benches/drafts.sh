#!/bin/sh
# Makes the models that the benchmark of draft models needs and runs it; arguments go to drafts.py. See README.md in this folder.
# MLXRT_BENCH_PYTHON: as in python.sh.
set -eu
cd "$(dirname "$0")/.."

. benches/python.sh
models=build/bench-models
mkdir -p $models
[ -f $models/spread/config.json ] || "$python" benches/spread.py demo/model $models/spread --hidden 1536 --intermediate 4096 --layers 24
[ -f $models/spread-draft/config.json ] || "$python" benches/spread.py demo/draft $models/spread-draft --hidden 512 --intermediate 2048 --layers 14

exec "$python" benches/drafts.py --mlxrt build/bin/mlxrt --model $models/spread --draft $models/spread-draft "$@"
