#!/bin/sh
# mlx-lm's qwen3_5 does not read `layer_types`: `full_attention_interval` alone says which layers are linear.
#
# Expected: layer_types names each layer's kind, and the interval counts only where there is no such list, as in transformers. A
# folder that transformers wrote then loads.
#
# What happens (mlx-lm 0.32.0, mlx 0.32.2, transformers 5.24.0, torch 2.15.0, 2026-11-30): every fourth layer has full attention, or
# every nth by full_attention_interval, whatever the list says. transformers makes the list from the interval and leaves the interval
# out of the config.json it writes. So a folder of a model that it made with an interval of 2 does not load: mlx-lm refuses the weights
# as "parameters not in model", with no word about layer_types. With the interval written back the logits agree within 1e-4. A list
# that is not regular, which transformers reads, no interval can say.
#
# What to do: write full_attention_interval beside a regular layer_types if it is not 4.
#
# On Linux, torch from the package index brings some gigabytes for graphics cards, which are not used here.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder" \
    mlx-cpu==0.32.2 mlx==0.32.2 mlx-lm==0.32.0 transformers==5.24.0 torch==2.15.0
PYTHONPATH=$folder TRANSFORMERS_VERBOSITY=error python3 - "$folder/models" <<'PYTHON'
import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.models import qwen3_5
from mlx_lm.utils import load_model
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.utils import logging

mx.set_default_device(mx.cpu)
logging.disable_progress_bar()
folder = Path(sys.argv[1])
keys = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, linear_conv_kernel_dim=4,
    # More than usual, as norms of such short vectors would else enlarge what was rounded before them.
    rms_norm_eps=1e-3,
    rope_parameters=dict(
        rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True
    ),
)
# Not used: there are no pictures.
vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=32)
noise = np.random.default_rng(0)
short = {"linear_attention": "linear", "full_attention": "full"}


def made(**more):
    """transformers' model with random weights and, written by it, its folder; the config.json of that."""
    config = Qwen3_5Config(
        text_config={**keys, **more}, vision_config=vision, image_token_id=60, video_token_id=61, vision_start_token_id=62,
        vision_end_token_id=63,
    )
    model = Qwen3_5ForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for value in model.parameters():
            scale = 0.3 if value.ndim == 1 else value[0].numel() ** -0.5
            value.copy_(torch.from_numpy(noise.standard_normal(tuple(value.shape)) * scale))
    model.save_pretrained(folder)
    return model, json.loads((folder / "config.json").read_text())


def named(config):
    return [short[kind] for kind in config["text_config"]["layer_types"]]


other = ["full_attention", "linear_attention", "linear_attention", "full_attention"]
for what, more in [
    ("a regular list", dict(layer_types=["linear_attention", "full_attention"] * 2)),
    ("another list", dict(layer_types=other)),
    ("another list and an interval of 2", dict(layer_types=other, full_attention_interval=2)),
]:
    model, config = made(**more)
    theirs = ["linear" if hasattr(layer, "linear_attn") else "full" for layer in model.model.language_model.layers]
    here = ["linear" if layer.is_linear else "full" for layer in qwen3_5.Model(qwen3_5.ModelArgs.from_dict(config)).layers]
    print(f"{what}: {' '.join(named(config))}\n    transformers: {' '.join(theirs)}\n    mlx-lm:       {' '.join(here)}")
    every = more.get("full_attention_interval", 4)
    assert theirs == named(config), "transformers goes by something else than layer_types"
    assert here == ["linear" if n % every else "full" for n in range(1, 5)], "mlx-lm does not go by the interval alone now"

theirs, config = made(full_attention_interval=2)
kept = "full_attention_interval" in config["text_config"]
print(f"made with an interval of 2: layer_types in config.json: {' '.join(named(config))}; an interval there: {kept}")
assert not kept, "transformers writes the interval now"
refused = None
try:
    load_model(folder)
except ValueError as error:
    refused = str(error).splitlines()[0].strip()
print(f"mlx-lm loads the folder: {refused}")
assert refused and "parameters not in model" in refused, "mlx-lm loads it now, or says something else"

config["text_config"]["full_attention_interval"] = 2
(folder / "config.json").write_text(json.dumps(config))
tokens = noise.integers(60, size=(1, 20))
with torch.no_grad():
    want = theirs(torch.from_numpy(tokens)).logits[0].numpy()
off = np.abs(np.array(load_model(folder)[0](mx.array(tokens)))[0] - want).max()
print(f"with the interval written back: logits, which spread by {want.std():.2f}, are up to {off:.1e} off")
assert off < 1e-4, "there is another difference than the list"
print("as on 2026-11-30: mlx-lm does not read layer_types of qwen3_5")
PYTHON
