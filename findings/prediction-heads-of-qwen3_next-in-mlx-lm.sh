#!/bin/sh
# Whether a prediction head's tensors are left out depends on how the experts lie.
#
# Expectation: mlx-lm does not run prediction heads (mtp), so it leaves their tensors out of a qwen3_next folder, as it does of a qwen3_5
# folder, or refuses them.
# What happens (mlx-lm 0.32.0, mlx 0.32.2, 2026-12-01): of a folder whose experts lie one by one, as the original has them, it leaves
# `mtp.*` out and loads. Of the same weights with the experts in one tensor, as mlx-lm itself writes them, it leaves nothing out, and loading fails for
# parameters that are not in the model. So a converter that keeps the heads makes folders that this reader takes for damaged, though its input
# with the same heads was read.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder/packages" mlx-cpu==0.32.2 mlx==0.32.2 mlx-lm==0.32.0 2>/dev/null
seen=$(PYTHONPATH="$folder/packages" TRANSFORMERS_VERBOSITY=error python3 - 2>/dev/null <<'PY'
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3_next

mx.set_default_device(mx.cpu)
args = qwen3_next.ModelArgs.from_dict({
    "model_type": "qwen3_next", "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 32, "num_attention_heads": 2,
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4, "num_experts": 2, "num_experts_per_tok": 1, "decoder_sparse_step": 1,
    "shared_expert_intermediate_size": 32, "mlp_only_layers": [], "moe_intermediate_size": 32, "rms_norm_eps": 1e-6,
    "vocab_size": 64, "num_key_value_heads": 1, "rope_theta": 1e4, "partial_rotary_factor": 0.5, "max_position_embeddings": 64,
    "head_dim": 16, "full_attention_interval": 4,
})
written = dict(tree_flatten(qwen3_next.Model(args).parameters()))
original = {}
for name, weight in written.items():
    if ".switch_mlp." in name:
        for expert in range(2):
            original[name.replace("switch_mlp", f"experts.{expert}")] = weight[expert]
    else:
        original[name] = weight
head = {"mtp.fc.weight": mx.zeros((32, 64))}
for weights in (original, written):
    model = qwen3_next.Model(args)
    try:
        model.load_weights(list(model.sanitize({**weights, **head}).items()), strict=True)
        print("loads", end=" ")
    except ValueError as error:
        print("fails:", "mtp.fc.weight" in str(error), end=" ")
PY
)
echo "with a head, experts one by one, and in one tensor: $seen"
[ "$seen" = "loads fails: True " ]
