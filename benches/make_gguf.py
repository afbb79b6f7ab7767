"""Writes a GGUF file of a shape of make_model.py with random tensors in llama.cpp's Q4_0, the norms in F32.

    python3 make_gguf.py OUT_FILE [--shape qwen3-0.6b]

4.5 bits a weight, as 4 bits in groups of 64 are with mlx-lm's scales and biases; the embedding is one of these tensors and the
output too (llama.cpp's own quantiser would take 6 bits there: more to read). No tokenizer: token ids go in.
"""

import argparse
import time
from pathlib import Path

import gguf
import numpy as np

from make_model import SHAPES

BLOCK = 32


def q4_0(rng, rows, columns, spread):
    """Random nibbles; one half-precision scale a block, so that weights have about this standard deviation."""
    blocks = columns // BLOCK
    data = np.empty((rows, blocks, 2 + BLOCK // 2), dtype=np.uint8)
    data[:, :, 2:] = np.frombuffer(rng.bytes(rows * blocks * BLOCK // 2), dtype=np.uint8).reshape(rows, blocks, BLOCK // 2)
    data[:, :, :2] = np.array([spread / 4.6], dtype=np.float16).view(np.uint8)
    return data.reshape(rows, blocks * (2 + BLOCK // 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    args = parser.parse_args()
    started = time.time()
    shape = SHAPES[args.shape]
    arch, hidden, heads = shape["model_type"].replace("_", ""), shape["hidden_size"], shape["num_attention_heads"]
    experts = shape.get("num_experts", 0)
    kv_heads, head_dim, inner = shape["num_key_value_heads"], shape["head_dim"], shape["intermediate_size"]
    layers = shape["num_hidden_layers"]
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
        writer.add_expert_feed_forward_length(shape["moe_intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("no_vocab")
    rng = np.random.default_rng(7)

    def weight(name, rows, columns, stacked=None):
        data = q4_0(rng, rows * (stacked or 1), columns, columns**-0.5)
        if stacked:
            data = data.reshape(stacked, rows, -1)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def norm(name, size):
        writer.add_tensor(f"{name}.weight", np.ones(size, dtype=np.float32))

    weight("token_embd", shape["vocab_size"], hidden)
    norm("output_norm", hidden)
    if shape["rope_scaling"]:
        # What the published conversions hold beside the base; its values do not matter here.
        writer.add_tensor("rope_freqs.weight", np.ones(head_dim // 2, dtype=np.float32))
    for n in range(layers):
        block = f"blk.{n}."
        norm(block + "attn_norm", hidden)
        weight(block + "attn_q", heads * head_dim, hidden)
        weight(block + "attn_k", kv_heads * head_dim, hidden)
        weight(block + "attn_v", kv_heads * head_dim, hidden)
        weight(block + "attn_output", hidden, heads * head_dim)
        if arch.startswith("qwen3"):
            norm(block + "attn_q_norm", head_dim)
            norm(block + "attn_k_norm", head_dim)
        norm(block + "ffn_norm", hidden)
        if experts:
            one = shape["moe_intermediate_size"]
            # llama.cpp has the router in f32.
            router = rng.standard_normal((experts, hidden), dtype=np.float32) * hidden**-0.5
            writer.add_tensor(f"{block}ffn_gate_inp.weight", router)
            weight(block + "ffn_gate_exps", one, hidden, experts)
            weight(block + "ffn_up_exps", one, hidden, experts)
            weight(block + "ffn_down_exps", hidden, one, experts)
            continue
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
