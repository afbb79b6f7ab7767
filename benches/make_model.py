"""Writes a folder of a real model's shape with random weights, as mlx-lm writes it: affine, 4 bits, groups of 64; of gpt_oss as its
folders are, the experts in mxfp4 and all else in 8 bits.

    python3 make_model.py OUT_FOLDER [--shape qwen3-0.6b] [--bits 4|8|16]

The tokenizer is as large as the real one's (151643 tokens and as many merges for Qwen3), since loading it is part of what is measured;
like the real model, the network has some more rows than the tokenizer has tokens.
"""

import argparse
import itertools
import math
import os
import tempfile
import time
from pathlib import Path

SHAPES = {
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
    "llama-3.2-1b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 128000,
        "eos_token_id": 128002,
    },
}
SHAPES["llama-8b"] = {
    **SHAPES["llama-3.2-1b"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "intermediate_size": 14336,
    "tie_word_embeddings": False,
}
SHAPES["qwen3-1.7b"] = {**SHAPES["qwen3-0.6b"], "hidden_size": 2048, "intermediate_size": 6144}
# About 1.5 billion weights, of which a token uses some 430 million.
SHAPES["qwen3-moe-1.5b"] = {
    **SHAPES["qwen3-0.6b"],
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_hidden_layers": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 384,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
# As Qwen3-30B-A3B: a token uses a tenth of the weights.
SHAPES["qwen3-30b-a3b"] = {
    **SHAPES["qwen3-moe-1.5b"],
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "intermediate_size": 6144,
    "tie_word_embeddings": False,
    "num_experts": 128,
    "moe_intermediate_size": 768,
}
# Three layers of linear attention for one of attention, as Qwen3.5-0.8B has them.
SHAPES["qwen3_5-0.8b"] = {
    **SHAPES["qwen3-0.6b"],
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5",
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "intermediate_size": 3584,
    "vocab_size": 248320,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
}
# Five layers with a window of 512 tokens for one without, as Gemma 3 1B has them.
SHAPES["gemma3-1b"] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_size": 1152,
    "num_hidden_layers": 26,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "intermediate_size": 6912,
    "vocab_size": 262144,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
# Scores and logits with soft caps, norms behind each part.
SHAPES["gemma2-2b"] = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "intermediate_size": 9216,
    "vocab_size": 256000,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window": 4096,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
# One matrix for queries, keys and values, one for gate and up: half of Phi-3-mini's 32 layers.
SHAPES["phi3-mini-half"] = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 96,
    "intermediate_size": 8192,
    "vocab_size": 32064,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "sliding_window": 2047,
    "hidden_act": "silu",
    "attention_bias": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 32002,
}
# Layers as gpt-oss-20b has them: four of its 24, and a quarter of its vocabulary, so that these keep their share of a token.
SHAPES["gpt-oss-4-layers"] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2880,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "vocab_size": 50272,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "hidden_act": "silu",
    "attention_bias": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 50000,
    "eos_token_id": 50002,
}
SHAPES["gpt-oss-20b"] = {
    **SHAPES["gpt-oss-4-layers"],
    "num_hidden_layers": 24,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "vocab_size": 201088,
}
TOKENS = {
    "gemma2": 151643,
    "gemma3_text": 151643,
    "gpt_oss": 50000,
    "llama": 128000,
    "phi3": 32000,
    "qwen3": 151643,
    "qwen3_5": 151643,
    "qwen3_moe": 151643,
}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_to_char():
    """The byte-level alphabet: printable bytes stand for themselves, the rest from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    rest = [b for b in range(256) if b not in table]
    table.update({b: chr(256 + n) for n, b in enumerate(rest)})
    return [table[b] for b in range(256)]


def make_tokenizer(size):
    """Byte-level BPE whose merges join two characters, then a pair and a character, then two pairs."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = byte_to_char()
    letters = "etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLUCMFWYPVBGKJQXZ"
    pairs = [(a, b) for a, b in itertools.product("Ġ" + letters, letters)]
    joined = [a + b for a, b in pairs]
    threes = ((a, b) for a, b in itertools.product(joined, letters))
    fours = ((a, b) for a, b in itertools.product(joined, joined))
    tokens, merges = dict.fromkeys(alphabet), []
    for a, b in itertools.chain(pairs, threes, fours):
        if len(tokens) == size:
            break
        if a + b not in tokens:
            tokens[a + b] = None
            merges.append((a, b))
    vocab = {token: n for n, token in enumerate(tokens)}
    assert len(vocab) == size

    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    assert inner.token_to_id("<|im_end|>") == size + 2
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT
    return fast


def experts_in_mxfp4(path, _):
    """gpt_oss's; the rest is as asked."""
    return {"group_size": 32, "bits": 4, "mode": "mxfp4"} if ".experts." in path else True


def random_floats_of_4_bits(model):
    """In place of weights that would have to be rounded to them, which takes MLX many minutes and all memory on a CPU. Of about the
    same size: the root of the mean square of such floats is 2.9."""
    import mlx.core as mx

    for _, module in model.named_modules():
        if getattr(module, "mode", None) == "mxfp4":
            weight, scales = module.weight, module.scales
            inputs = scales.shape[-1] * 32
            shape = (*weight.shape[:-1], 4 * weight.shape[-1])
            module.weight = mx.random.randint(0, 256, shape, dtype=mx.uint8).view(mx.uint32)
            module.scales = mx.full(scales.shape, 127 + round(math.log2(inputs**-0.5 / 2.9)), dtype=mx.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--bits", type=int, choices=(4, 8, 16), default=4, help="16: bf16, not quantised")
    args = parser.parse_args()

    import mlx.core as mx
    import mlx_lm.utils as mlx_utils
    from mlx.utils import tree_flatten
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    started = time.time()
    mx.random.seed(7)
    config = dict(SHAPES[args.shape])
    model_class, args_class = mlx_utils._get_classes(config)
    model = model_class(args_class.from_dict(config))
    # Logits of some size: one stands out, so that both sides pick the same token.
    model.model.norm.weight = mx.full(model.model.norm.weight.shape, 8.0)
    model.set_dtype(mx.bfloat16)
    if args.bits < 16:
        mixed = config["model_type"] == "gpt_oss"
        bits, which = (8, experts_in_mxfp4) if mixed else (args.bits, None)
        model, config = mlx_utils.quantize_model(model, config, group_size=64, bits=bits, mode="affine", quant_predicate=which)
        random_floats_of_4_bits(model)
    # One by one, so that the unquantised weights are not all there at once.
    for _, weight in tree_flatten(model.parameters()):
        mx.eval(weight)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent) as work:
        # Moved into place when complete, so that an interrupted run leaves no half folder.
        (Path(work) / "source").mkdir()
        folder = Path(work) / "model"
        mlx_utils.save(folder, Path(work) / "source", model, TokenizerWrapper(make_tokenizer(TOKENS[config["model_type"]])), config)
        (folder / "README.md").unlink(missing_ok=True)  # the hub's model card
        os.rename(folder, args.out)
    size = sum(f.stat().st_size for f in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.0f} MB in {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
