#!/bin/sh
# Builds the text benchmark and runs it; arguments go to text.py. See README.md in this folder.
set -eu
cd "$(dirname "$0")/.."

data=${MLXRT_SHARED:-../shared}/data
if [ ! -d "$data" ]; then
  echo "skipped: the text benchmark needs the published templates and tokenizers, and there is no $data"
  exit 0
fi

. benches/python.sh
${CARGO:-cargo} build --release --locked --manifest-path benches/text/Cargo.toml --target-dir build/bench-text
exec "$python" benches/text.py --bench build/bench-text/release/mlxrt-bench-text "$@"
