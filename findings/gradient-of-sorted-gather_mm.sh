#!/bin/sh
# mx.gather_mm with sorted indices of two dimensions computes, and has no gradient by the stacked matrices.
#
# Expected: sorted_indices says that the indices come in order, for speed; values and gradients are those without it.
#
# What happens (mlx 0.32.2, CPU, 2026-12-01): where rhs_indices are [rows, 1], which the product takes, the gradient is
# "[scatter_add_axis] Indices of dimension 2 does not match array of dimension 1". With [rows], or unsorted, it is right.
#
# What to do: give sorted indices one dimension, as mlx-lm does.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder" \
    mlx-cpu==0.32.2 mlx==0.32.2
PYTHONPATH=$folder python3 - <<'PYTHON'
import mlx.core as mx

mx.set_default_device(mx.cpu)
experts, wide, out, rows = 6, 24, 20, 90
x, a = mx.random.normal((rows, wide)), mx.random.normal((experts, wide, out))
own = mx.sort(mx.random.randint(0, experts, (rows,)))


def loss(a, dims, in_order):
    own_shape, x_shape = ((rows, 1), (rows, 1, 1, wide)) if dims == 2 else ((rows,), (rows, 1, wide))
    y = mx.gather_mm(x.reshape(x_shape), a, rhs_indices=own.reshape(own_shape), sorted_indices=in_order)
    return (y * y).sum()


right = mx.grad(loss)(a, 1, False)
refused = []
for dims in (1, 2):
    for in_order in (False, True):
        try:
            assert mx.allclose(mx.grad(loss)(a, dims, in_order), right)
        except ValueError as error:
            print(error)
            refused.append((dims, in_order))
assert refused == [(2, True)], f"other gradients than in mlx 0.32.2: {refused}"
print("as on 2026-12-01: no gradient by sorted indices of two dimensions")
PYTHON
