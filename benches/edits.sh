#!/bin/sh
# Makes the model that the benchmark of edited texts needs and runs it; arguments go to edits.py. See README.md in this folder.
# MLXRT_BENCH_PYTHON: as in python.sh.
set -eu
cd "$(dirname "$0")/.."

. benches/python.sh
models=build/bench-models
mkdir -p $models
"$python" benches/edits.py --texts $models/recite.json.new
if [ ! -f $models/recite/config.json ] || ! cmp -s $models/recite.json.new $models/recite.json; then
  "$python" benches/recite.py $models/recite $models/recite.json.new
  mv $models/recite.json.new $models/recite.json
fi

exec "$python" benches/edits.py --mlxrt build/bin/mlxrt --model $models/recite "$@"
