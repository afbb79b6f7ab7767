#!/bin/sh
# The Go chat server under 1 to 20 clients; arguments go to server.py. Needs an installed mlxrt, as `make bench-server` makes it, and Go.
# MLXRT_BENCH_PYTHON: as in python.sh.
set -eu
cd "$(dirname "$0")/.."

. benches/python.sh
"$python" -c "import openai" 2>/dev/null || "$python" -m pip install --quiet --disable-pip-version-check openai
models=build/bench-models
mkdir -p $models
[ -f $models/spread/config.json ] || "$python" benches/spread.py demo/model $models/spread --hidden 1536 --intermediate 4096 --layers 24
(cd bindings/go && go build -o ../../build/chatserver ./examples/chatserver)

exec "$python" benches/server.py --server build/chatserver --model $models/spread "$@"
