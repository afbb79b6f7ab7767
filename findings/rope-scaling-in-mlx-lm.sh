#!/bin/sh
# mlx-lm reads keys of two rope scalings and computes without them: yarn's `truncate` and longrope's `short_factor`.
#
# Expected: `truncate: false`, which gpt-oss's config.json has, leaves the bounds of yarn's ramp where they fall, between two pairs of a
# head, as in transformers and in the model's own code. `short_factor` is what Phi 3's queries and keys are turned by up to
# `original_max_position_embeddings` tokens, and `long_factor` beyond that, as in transformers.
#
# What happens (mlx-lm 0.32.0, mlx 0.32.2, 2026-11-30): with and without `truncate: false` the wavelengths are the same, those of rounded
# bounds, which for gpt-oss are up to 43 % off; and a sequence of one token is turned by the long factors, whatever the short ones are.
# A short prompt then gets other logits than the model was trained for, and nothing says so.
#
# What to do: compare with transformers where a config has one of the keys.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder" \
    mlx-cpu==0.32.2 mlx==0.32.2 mlx-lm==0.32.0
PYTHONPATH=$folder python3 - <<'PYTHON'
import math

import mlx.core as mx
import numpy as np
from mlx_lm.models.rope_utils import initialize_rope

mx.set_default_device(mx.cpu)
dims, base = 64, 150000.0
# gpt-oss-20b's.
yarn = dict(rope_type="yarn", factor=32.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=4096)


def wavelengths(**more):
    return np.array(initialize_rope(dims, base, False, {**yarn, **more}, 131072)._freqs)


def bound(turns):
    return dims * math.log(4096 / (turns * 2 * math.pi)) / (2 * math.log(base))


low, high = bound(32.0), bound(1.0)
plain = base ** (np.arange(0, dims, 2) / dims)
ramp = np.clip((np.arange(dims // 2) - low) / (high - low), 0, 1)
right = 1 / (ramp / (32.0 * plain) + (1 - ramp) / plain)
kept, rounded = wavelengths(truncate=False), wavelengths()
off = np.abs(kept / right - 1).max()
print(f"yarn: truncate changes mlx-lm's wavelengths: {not np.array_equal(kept, rounded)}; they are up to {off:.0%} off")
assert np.array_equal(kept, rounded), "mlx-lm reads truncate now"
assert 0.3 < off < 0.6, "another difference than in mlx-lm 0.32.0"

long = dict(rope_type="longrope", original_max_position_embeddings=4096, long_factor=[2.0] * 4)
x = mx.ones((1, 1, 1, 8))
turned = [
    np.array(initialize_rope(8, 10000.0, False, {**long, "short_factor": [short] * 4}, 131072)(x, offset=3))
    for short in (1.0, 1.5)
]
print(f"longrope: the short factors change what a token at position 3 is turned by: {not np.array_equal(*turned)}")
assert np.array_equal(*turned), "mlx-lm reads short_factor now"
print("as on 2026-11-30: mlx-lm computes without both keys")
PYTHON
