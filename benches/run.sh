#!/bin/sh
# Sets up what the benchmark needs and runs it; arguments go to bench.py. See README.md in this folder.
set -eu
cd "$(dirname "$0")/.."

# MLXRT_BENCH_PYTHON: a Python that has mlx, mlx-lm and (for the plot) matplotlib.
python=${MLXRT_BENCH_PYTHON:-}
if [ -z "$python" ]; then
  venv=build/bench-venv
  packages="mlx==0.32.2 mlx-lm==0.32.0 matplotlib"
  [ "$(uname)" = Darwin ] || packages="mlx-cpu==0.32.2 $packages"
  python=$venv/bin/python
  if [ "$(cat $venv/packages 2>/dev/null || true)" != "$packages" ]; then
    echo "installing $packages into $venv"
    if ! python3 -m venv $venv; then
      echo "python3 cannot make a venv (Debian: apt install python3-venv); or set MLXRT_BENCH_PYTHON" >&2
      exit 1
    fi
    # shellcheck disable=SC2086
    $python -m pip install --quiet --disable-pip-version-check $packages
    echo "$packages" > $venv/packages
  fi
fi

lib=${MLXRT_LIB:-target/release}
lib=$(cd "$lib" && pwd)
mkdir -p build
${CC:-cc} -O2 -std=gnu99 -Wall -Wextra -Werror -Iinclude benches/bench.c -o build/bench -L"$lib" -lmlxrt -Wl,-rpath,"$lib"

shape=build/bench-models/qwen3-0.6b-4bit
[ -d $shape ] || "$python" benches/make_model.py $shape

exec "$python" benches/bench.py --bench build/bench "$@"
