#!/bin/sh
# Packing what was unpacked does not give it back: mx.quantize(mx.dequantize(q)) is not q.
#
# Expected: numbers that lie on a grid of 2^bits steps are packed onto that grid. Rounding a rounded number changes nothing, so
# unpacking a quantised weight and packing it again with the same bits and group size gives the same weight.
#
# What happens (mlx 0.32.2, CPU, f32, 2026-11-29): at 4 bits every ninth weight moves by more than a tenth of a step, in every
# seventh group; at 8 bits every sixth. A group's scale is its range over 2^bits - 1, then stretched so that zero gets a
# code of its own. On the stretched grid the numbers do not reach both ends, so what is packed has a smaller range, or a larger
# one is cut off, and the next scale is another one. Only from the second time on it stays.
# So `mlx_lm.fuse`, which unpacks, adds and packs, changes a model even if the adapter adds nothing (its B is zero).
#
# What to do: keep the packed bytes where nothing was added, or do not pack again (`mlx_lm.fuse --dequantize`).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder" \
    mlx-cpu==0.32.2 mlx==0.32.2 numpy
PYTHONPATH=$folder python3 - <<'PYTHON'
import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
weight = mx.array(np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32) * 0.02)
changed = {}
for bits in [2, 3, 4, 5, 6, 8]:
    how = dict(group_size=64, bits=bits)
    packed = mx.quantize(weight, **how)
    step = np.repeat(np.abs(np.array(packed[1])), 64, axis=1)
    for time in ["second", "third"]:
        before = mx.dequantize(*packed, **how)
        packed = mx.quantize(before, **how)
        moved = np.abs(np.array(mx.dequantize(*packed, **how)) - np.array(before)) > 0.1 * step
        changed[bits, time] = moved.mean()
        groups = moved.reshape(-1, 64).any(axis=1).mean()
        print(f"{bits} bits, packed a {time} time: {moved.mean():6.1%} of the weights move, in {groups:6.1%} of the groups")
assert 0.08 < changed[4, "second"] < 0.15, "another share than in mlx 0.32.2"
assert all(changed[bits, "second"] > 0.01 for bits in [3, 4, 5, 6, 8]), "packing again has become exact"
assert all(changed[bits, "third"] == 0 for bits in [2, 3, 4, 5, 6, 8]), "the third time moves weights, too"
print("as on 2026-11-29: mx.quantize is not idempotent")
PYTHON
