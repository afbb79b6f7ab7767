#!/bin/sh
# MLX's caches on CUDA are a fuse: after so many misses in a process's life, every further one is an error. Needs an NVIDIA GPU.
#
# Expected: a cache that is too small costs time. The error says as much: "set … to a larger value … to fix degraded performance".
#
# What happens (mlx 0.32.2 with mlx-cuda-13 0.32.2, H200, 2026-11-30): the cache of CUDA graphs counts what it missed since the process
# began and never begins anew, however seldom it misses. The next graph that it does not know after twice its size (400, so 800) raises
# RuntimeError, and so does each one after that; what it knows goes on. The caches of attention's plans (256) and convolutions have the same
# count. A server reaches it with some hundred lengths of prompts.
#
# What to do: MLX_ENABLE_CACHE_THRASHING_CHECK=0 before MLX is used; then the oldest entry goes, as in other caches. mlxrt sets it.
#
# With MLX_SITE set to a folder that has the packages, none are installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
site=${MLX_SITE:-$folder/site}
if [ -z "${MLX_SITE:-}" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$site" "mlx[cuda13]==0.32.2"
fi
cat >"$folder/misses.py" <<'PYTHON'
import mlx.core as mx

mx.set_default_device(mx.gpu)


def graph(n):
    """n additions that are one graph, which no other n has."""
    x = mx.zeros((4,))
    for _ in range(n):
        x = x + 1
    mx.eval(x)


# Each round has other graphs in a small cache of eight.
worked, failed = 0, []
for n in range(1, 40):
    try:
        graph(n)
        worked += 1
    except RuntimeError as error:
        failed.append(str(error))
try:
    graph(39)
    again = "worked"
except RuntimeError:
    again = "failed"
print(f"{worked} of 39 graphs worked; the last one again: {again}; {failed[0][:60] if failed else 'no error'}")
raise SystemExit(0 if failed and "Cache thrashing" in failed[0] else 3)
PYTHON
run() { PYTHONPATH=$site MLX_CUDA_GRAPH_CACHE_SIZE=8 python3 "$folder/misses.py"; }
echo "as it is:"
run || { echo "the cache is no fuse any more"; exit 1; }
echo "without the check:"
if MLX_ENABLE_CACHE_THRASHING_CHECK=0 run; then echo "the check cannot be turned off any more"; exit 1; fi
echo "as on 2026-11-30: misses are counted for ever, and the next one after twice the cache's size is an error"
