"""Writes a GGUF file of a shape of make_model.py with random tensors in llama.cpp's Q4_0, the norms in F32.

    python3 make_gguf.py OUT_FILE [--shape qwen3-0.6b]

4.5 bits a weight, as 4 bits in groups of 64 are with mlx-lm's scales and biases; the embedding is one of these tensors and the
output too (llama.cpp's own quantiser would take 6 bits there: more to read). gpt-oss is as its published files are: the experts
in MXFP4, all else in Q8_0. No tokenizer: token ids go in.
"""

import argparse
import time
from pathlib import Path

import gguf
import numpy as np

from make_model import SHAPES

BLOCK = 32
ARCHITECTURES = {"gpt_oss": "gpt-oss", "qwen3_moe": "qwen3moe"}
Q4_0, Q8_0, MXFP4 = (gguf.GGMLQuantizationType[name] for name in ("Q4_0", "Q8_0", "MXFP4"))


def half(value):
    return np.array([value], dtype=np.float16).view(np.uint8)


# What stands before a block's random values, which are such that weights have about this standard deviation; and the values' bytes.
PACKINGS = {
    Q4_0: (lambda spread: half(spread / 4.6), BLOCK // 2),
    Q8_0: (lambda spread: half(spread / 74), BLOCK),
    # A power of two; the root of the mean square of 4-bit floats is 2.9.
    MXFP4: (lambda spread: np.array([127 + round(np.log2(spread / 2.9))], dtype=np.uint8), BLOCK // 2),
}


def packed(rng, kind, rows, columns, spread):
    scale, values = PACKINGS[kind]
    scale = scale(spread)
    blocks = columns // BLOCK
    data = np.empty((rows, blocks, len(scale) + values), dtype=np.uint8)
    data[:, :, len(scale) :] = np.frombuffer(rng.bytes(rows * blocks * values), dtype=np.uint8).reshape(rows, blocks, values)
    data[:, :, : len(scale)] = scale
    return data.reshape(rows, -1)


def add_family(writer, shape, arch):
    """What single architectures have beside the usual keys."""
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(shape["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(shape["final_logit_softcapping"])
    if arch in ("gemma2", "phi3", "gpt-oss"):
        writer.add_sliding_window(shape["sliding_window"])
    if arch == "phi3":
        writer.add_rope_scaling_orig_ctx_len(shape["original_max_position_embeddings"])
    if arch == "gpt-oss":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(shape["rope_scaling"]["factor"])
        writer.add_rope_scaling_orig_ctx_len(shape["rope_scaling"]["original_max_position_embeddings"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    args = parser.parse_args()
    started = time.time()
    shape = SHAPES[args.shape]
    arch = ARCHITECTURES.get(shape["model_type"], shape["model_type"])
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    experts = shape.get("num_experts") or shape.get("num_local_experts", 0)
    one_expert = shape.get("moe_intermediate_size", shape["intermediate_size"])
    kv_heads, head_dim, inner = shape["num_key_value_heads"], shape["head_dim"], shape["intermediate_size"]
    layers = shape["num_hidden_layers"]
    oss = arch == "gpt-oss"
    kind, expert_kind = (Q8_0, MXFP4) if oss else (Q4_0, Q4_0)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    part = args.out.with_suffix(".part")
    writer = gguf.GGUFWriter(part, arch)
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(shape["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(one_expert)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_vocab_size(shape["vocab_size"])
    add_family(writer, shape, arch)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_MXFP4_MOE if oss else gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("no_vocab")
    rng = np.random.default_rng(7)

    def weight(name, rows, columns, bias=False):
        writer.add_tensor(f"{name}.weight", packed(rng, kind, rows, columns, columns**-0.5), raw_dtype=kind)
        if bias:
            writer.add_tensor(f"{name}.bias", np.zeros(rows, dtype=np.float32))

    def stacked(name, rows, columns):
        data = packed(rng, expert_kind, experts * rows, columns, columns**-0.5).reshape(experts, rows, -1)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=expert_kind)
        if oss:
            writer.add_tensor(f"{name}.bias", np.zeros((experts, rows), dtype=np.float32))

    def norm(name, size):
        writer.add_tensor(f"{name}.weight", np.ones(size, dtype=np.float32))

    weight("token_embd", shape["vocab_size"], hidden)
    norm("output_norm", hidden)
    if not shape.get("tie_word_embeddings", True):
        weight("output", shape["vocab_size"], hidden)
    if shape["rope_scaling"] and not oss:
        # What the published conversions hold beside the base; its values do not matter here.
        writer.add_tensor("rope_freqs.weight", np.ones(head_dim // 2, dtype=np.float32))
    for n in range(layers):
        block = f"blk.{n}."
        norm(block + "attn_norm", hidden)
        if arch == "phi3":
            weight(block + "attn_qkv", (heads + 2 * kv_heads) * head_dim, hidden)
        else:
            weight(block + "attn_q", heads * head_dim, hidden, bias=oss)
            weight(block + "attn_k", kv_heads * head_dim, hidden, bias=oss)
            weight(block + "attn_v", kv_heads * head_dim, hidden, bias=oss)
        weight(block + "attn_output", hidden, heads * head_dim, bias=oss)
        if arch.startswith("qwen3"):
            norm(block + "attn_q_norm", head_dim)
            norm(block + "attn_k_norm", head_dim)
        if oss:
            norm(block + "attn_sinks", heads)
        if arch in ("gemma2", "gpt-oss"):
            # gpt-oss's file has the norm before its experts under this name.
            norm(block + "post_attention_norm", hidden)
        if not oss:
            norm(block + "ffn_norm", hidden)
        if arch == "gemma2":
            norm(block + "post_ffw_norm", hidden)
        if experts:
            # llama.cpp has the router in f32.
            router = rng.standard_normal((experts, hidden), dtype=np.float32) * hidden**-0.5
            writer.add_tensor(f"{block}ffn_gate_inp.weight", router)
            if oss:
                writer.add_tensor(f"{block}ffn_gate_inp.bias", np.zeros(experts, dtype=np.float32))
            stacked(block + "ffn_gate_exps", one_expert, hidden)
            stacked(block + "ffn_up_exps", one_expert, hidden)
            stacked(block + "ffn_down_exps", hidden, one_expert)
            continue
        if arch == "phi3":
            weight(block + "ffn_up", 2 * inner, hidden)
        else:
            weight(block + "ffn_gate", inner, hidden)
            weight(block + "ffn_up", inner, hidden)
        weight(block + "ffn_down", hidden, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.0f} MB in {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
