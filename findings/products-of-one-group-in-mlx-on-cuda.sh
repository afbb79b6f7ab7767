#!/bin/sh
# A quantised product in MLX on a Hopper GPU is not the product where its inputs are one group. Needs an NVIDIA H100 or H200.
#
# Expected: x @ dequantize(w).T up to rounding, as on every other device, whatever the width.
#
# What happens (mlx 0.32.2 with mlx-cuda-13 0.32.2, H200, 2026-12-01): with 4 or 8 bits, more than one row, and as many inputs as a
# group has, nothing is written to the result: it is what was in that memory before, other numbers on each run and often none that
# are finite. One row is right, and so are two groups and more: a kernel of its own for compute capability 9.0 is chosen unless
# `group_size < k`, so only here.
#
# Who meets it: small test models; layers behind a low rank (Gemma 3n's laurel: 64); quantised keys of heads with 64 numbers (Llama 3.2
# 1B, gpt-oss), whose scores are such a product at every token.
#
# What to do: products of one group by dequantize and matmul. mlxrt does.
#
# With MLX_SITE set to a folder that has the packages, none are installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
site=${MLX_SITE:-$folder/site}
if [ -z "${MLX_SITE:-}" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$site" "mlx[cuda13]==0.32.2" numpy
fi
cat >"$folder/product.py" <<'PYTHON'
import mlx.core as mx
import numpy as np

mx.set_default_device(mx.gpu)


def worst(rows, inputs):
    """The largest error of five runs, as a part of the largest number; infinite where a number is not finite."""
    mx.random.seed(inputs + rows)
    w = mx.random.normal((256, inputs))
    x = mx.random.normal((rows, inputs))
    packed = mx.quantize(w, group_size=64, bits=4)
    wanted = np.array(x @ mx.dequantize(*packed, group_size=64, bits=4).T)
    errors = []
    for _ in range(5):
        # Something else has been in the memory that the product gets.
        others = [mx.full((rows, 256 * n), 7.0) for n in (1, 1, 2, 4)]
        mx.eval(others)
        del others
        y = np.array(mx.quantized_matmul(x, *packed, group_size=64, bits=4))
        errors.append(np.abs(y - wanted).max() / np.abs(wanted).max() if np.isfinite(y).all() else np.inf)
    return max(errors)


wrong = []
for inputs in (64, 128, 192):
    for rows in (1, 4, 40):
        error = worst(rows, inputs)
        if not error < 0.01:
            wrong.append((inputs, rows))
        print(f"4 bits in groups of 64, {inputs} inputs, {rows} rows: error {error:.2g}")
raise SystemExit(0 if wrong == [(64, 4), (64, 40)] else 1)
PYTHON
if PYTHONPATH=$site MLX_ENABLE_TF32=0 python3 "$folder/product.py"; then
    echo "as on 2026-12-01: products of several rows whose inputs are one group are wrong, and no others"
else
    echo "it has changed: other products are wrong, or none"
    exit 1
fi
