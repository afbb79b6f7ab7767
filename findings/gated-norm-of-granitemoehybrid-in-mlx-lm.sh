#!/bin/sh
# mlx-lm's granitemoehybrid (Granite 4) normalises what its Mamba 2 layers give over all groups at once.
#
# Expected: with `mamba_n_groups` above one the heads of a group are normalised together and apart from those of the others, as in
# transformers, which takes the inner width divided by the groups; mlx-lm's own nemotron_h does so, too. Models of the same weights then
# give the same logits, up to rounding.
#
# What happens (mlx-lm 0.32.0, mlx 0.32.2, transformers 5.24.0, torch 2.15.0, CPU, f32, 2026-11-30): the two agree within 1e-4 with one
# group. With two or four, logits of a small random model, which spread by about one, are off by some four, other tokens come first at
# most positions, and nothing says so. With the norm of nemotron_h put in, the two agree again, so it is the norm alone.
#
# What to do: nothing with one group, which is transformers' default; with more, put such a norm in, or use transformers.
#
# On Linux, torch from the package index brings some gigabytes for graphics cards, which are not used here.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder" \
    mlx-cpu==0.32.2 mlx==0.32.2 mlx-lm==0.32.0 transformers==5.24.0 torch==2.15.0
PYTHONPATH=$folder TRANSFORMERS_VERBOSITY=error python3 - <<'PYTHON'
import mlx.core as mx
import numpy as np
import torch
from mlx_lm.models import granitemoehybrid, nemotron_h
from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

mx.set_default_device(mx.cpu)
keys = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, shared_intermediate_size=48, num_hidden_layers=3,
    layer_types=["mamba", "attention", "mamba"], num_attention_heads=2, num_key_value_heads=1, attention_bias=False,
    max_position_embeddings=128, position_embedding_type="nope", rms_norm_eps=1e-5, embedding_multiplier=1.0,
    attention_multiplier=0.25, residual_multiplier=1.0, logits_scaling=1.0, num_local_experts=0, num_experts_per_tok=0,
    mamba_n_heads=8, mamba_d_head=8, mamba_expand=2, mamba_d_state=8, mamba_d_conv=4, mamba_chunk_size=16, mamba_conv_bias=True,
    mamba_proj_bias=False, time_step_limit=[0.001, 100.0], tie_word_embeddings=False,
)
noise = np.random.default_rng(0)


def draw(name, shape):
    value = noise.standard_normal(shape)
    if name.endswith(("A_log", "D", "dt_bias")):
        value *= 0.5
    elif name.endswith("norm.weight"):
        value = 1 + 0.2 * value
    elif name.endswith("bias"):
        value *= 0.2
    else:
        value /= np.sqrt(shape[-1])
    return value.astype(np.float32)


def compare(groups):
    config = {**keys, "mamba_n_groups": groups}
    theirs = GraniteMoeHybridForCausalLM(GraniteMoeHybridConfig(**config)).float().eval()
    weights = {name: draw(name, tuple(value.shape)) for name, value in theirs.state_dict().items()}
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    model = granitemoehybrid.Model(granitemoehybrid.ModelArgs.from_dict({"model_type": "granitemoehybrid", **config}))
    model.load_weights(list(model.sanitize({name: mx.array(value) for name, value in weights.items()}).items()))
    tokens = noise.integers(64, size=(1, 20))
    with torch.no_grad():
        want = theirs(torch.from_numpy(tokens)).logits[0].numpy()
    got = np.array(model(mx.array(tokens)))[0]
    for layer in model.layers:
        if layer.layer_type == "mamba":
            mixer = layer.mamba
            norm = nemotron_h.MambaRMSNormGated(mixer.intermediate_size, mixer.norm.eps, mixer.intermediate_size // groups)
            norm.weight = mixer.norm.weight
            mixer.norm = norm
    apart = np.array(model(mx.array(tokens)))[0]
    others = (got.argmax(-1) != want.argmax(-1)).mean()
    off, left = np.abs(got - want).max(), np.abs(apart - want).max()
    print(
        f"groups: {groups}; logits spread by {want.std():.2f}; mlx-lm's are up to {off:.1e} off, {others:.0%} of the tokens others; "
        f"with a norm by the group up to {left:.1e}"
    )
    return off, left


seen = {groups: compare(groups) for groups in (1, 2, 4)}
assert all(left < 1e-4 for _, left in seen.values()), "there is another difference than the norm's"
assert seen[1][0] < 1e-4, "one group gives other logits, too"
assert all(seen[groups][0] > 1 for groups in (2, 4)), "mlx-lm normalises by the group now"
print("as on 2026-11-30: mlx-lm normalises over all groups")
PYTHON
