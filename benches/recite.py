"""Makes a model of Qwen3-0.6B's shape that answers given prompts with given texts, greedily, word for word.

    python3 recite.py build/bench-models/recite texts.json

texts.json: [{"prompt": …, "answer": …}, …], asked by its chat template. The tokenizer is trained on this repository's own files, so that code
has tokens as long as elsewhere; the network has as many rows as Qwen3's.

Every token has a random code of 64 signs. Fourteen heads of the first block look at the fourteen tokens before (queries and keys are constants,
turned by rope), so that behind it a row holds its own code and those of the fourteen. Each place in an answer is a neuron of the second
block that fires where all fifteen are as they are there, and writes the code of the token that comes next, which the output
layer, the embedding itself, finds. All else is zeros. So the tokens are those of the texts, and the time is that of the shape.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from make_model import CHAT, SHAPES, SPECIALS
from spread import write

GROUP, CODE, BEFORE = 64, 64, 14
TOKENS = 16_000
# The last column is the same in every row, eight times a sign.
ONE, SIZE_OF_ONE = 1023, 8.0


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("to", type=Path)
    p.add_argument("texts")
    args = p.parse_args()
    packing = {"group_size": GROUP, "bits": 4, "mode": "affine"}
    config = {**SHAPES["qwen3-0.6b"], "quantization": packing, "bos_token_id": TOKENS, "eos_token_id": TOKENS + 2}
    tokenizer = make_tokenizer()
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    assert hidden == ONE + 1 and config["tie_word_embeddings"]
    places = places_of(tokenizer, json.loads(Path(args.texts).read_text()))
    assert len(places) <= inner, f"{len(places)} places in answers"
    codes = np.random.default_rng(1).choice([-1.0, 1.0], (vocab, CODE)).astype(np.float32)

    out = {}
    embedding = np.zeros((vocab, hidden), np.float32)
    embedding[:, :CODE], embedding[:, ONE] = codes, SIZE_OF_ONE
    packed(out, "model.embed_tokens", embedding)
    last = np.zeros(hidden, np.float32)
    last[:CODE] = 1
    out["model.norm.weight"] = bf16(last)
    # What norms multiply with in front of the first block's attention and of the second's MLP.
    first, second = (math.sqrt(hidden / (n * CODE + SIZE_OF_ONE**2)) for n in (1, 1 + BEFORE))
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        q, k, v = (np.zeros((n * dim, hidden), np.float32) for n in (heads, kv_heads, kv_heads))
        o = np.zeros((hidden, heads * dim), np.float32)
        gate, up, down = (np.zeros(shape, np.float32) for shape in ((inner, hidden), (inner, hidden), (hidden, inner)))
        if layer == 0:
            # The highest frequencies, which tell neighbours apart.
            turns = config["rope_theta"] ** (-np.arange(16) * 2 / dim)
            for head in range(kv_heads):
                k[head * dim + np.arange(16), ONE] = 1
                v[head * dim + np.arange(CODE), np.arange(CODE)] = 1 / first
            for head in range(BEFORE):
                angle = -(head + 1) * turns
                q[head * dim + np.arange(16), ONE] = np.cos(angle)
                q[head * dim + dim // 2 + np.arange(16), ONE] = np.sin(angle)
                o[(head + 1) * CODE + np.arange(CODE), head * dim + np.arange(CODE)] = 1
        if layer == 1:
            steep = 0.7
            for neuron, (before, then) in enumerate(places):
                for at, token in enumerate(before):
                    gate[neuron, at * CODE : (at + 1) * CODE] = steep * codes[token]
                # All fifteen: one less gives 64 less, or 32 where the codes are alike.
                gate[neuron, ONE] = -steep * (len(before) * CODE - 14) / SIZE_OF_ONE
                up[neuron, ONE] = 1 / (second * SIZE_OF_ONE)
                down[:CODE, neuron] = 4 * codes[then]
        for part, weight in (("self_attn.q_proj", q), ("self_attn.k_proj", k), ("self_attn.v_proj", v), ("self_attn.o_proj", o)):
            packed(out, f"{name}.{part}", weight)
        for part, weight in (("mlp.gate_proj", gate), ("mlp.up_proj", up), ("mlp.down_proj", down)):
            packed(out, f"{name}.{part}", weight)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[f"{name}.{norm}.weight"] = bf16(np.ones(hidden, np.float32))
        for norm in ("q_norm", "k_norm"):
            out[f"{name}.self_attn.{norm}.weight"] = bf16(np.full(dim, 6, np.float32))

    args.to.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(args.to)
    write(args.to / "model.safetensors", out)
    (args.to / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{args.to}: {len(places)} places in answers")


def make_tokenizer():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    root = Path(__file__).resolve().parent.parent
    files = [str(file) for kind in ("src/**/*.rs", "benches/*.py", "demo/**/*.py", "tests/**/*.py", "tests/**/*.c", "*.md", "docs/*.md", "cli/**/*.rs") for file in sorted(root.glob(kind))]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.train(files, trainers.BpeTrainer(vocab_size=TOKENS, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    assert inner.get_vocab_size() == TOKENS
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=SPECIALS[2], pad_token=SPECIALS[0], clean_up_tokenization_spaces=False)
    fast.chat_template = CHAT
    return fast


def places_of(tokenizer, texts):
    """Of each place in an answer the fifteen tokens before it, the last one first, and the one that comes."""
    places = {}
    for text in texts:
        asked = tokenizer.apply_chat_template([{"role": "user", "content": text["prompt"]}], add_generation_prompt=True, tokenize=False)
        asked = tokenizer.encode(asked, add_special_tokens=False)
        answer = tokenizer.encode(text["answer"], add_special_tokens=False) + [tokenizer.eos_token_id]
        all_of = asked + answer
        for at in range(len(asked), len(all_of)):
            before = tuple(reversed(all_of[at - BEFORE - 1 : at]))
            assert places.setdefault(before, all_of[at]) == all_of[at], f"two ways to go on from {tokenizer.decode(before[::-1])!r}"
    return list(places.items())


def packed(out, name, weight):
    """In 4 bits: of each group the numbers are 0 and one size with either sign, which are exact."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, columns // GROUP, GROUP)
    size = np.abs(groups).max(-1)
    # 0, 1, 2 for -size, 0, size.
    q = (np.sign(groups) + 1).astype(np.uint32).reshape(rows, columns // 8, 8)
    word = np.zeros(q.shape[:2], np.uint32)
    for at in range(8):
        word |= q[:, :, at] << np.uint32(4 * at)
    out[f"{name}.weight"] = ("U32", word)
    out[f"{name}.scales"] = bf16(size)
    out[f"{name}.biases"] = bf16(-size)


def bf16(array):
    bits = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    return "BF16", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


if __name__ == "__main__":
    main()
