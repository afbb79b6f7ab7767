# Sets $python, for run.sh and text.sh; run in the repository's root.
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
