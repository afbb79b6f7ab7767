"""Trains the demo model from scratch and writes a model folder in the usual Hugging Face layout.

    python3 train.py --out build            # a GPU, some minutes
    python3 train.py --out build --steps 20 --documents 2000 --batch-tokens 4096 --no-compile   # a try on a CPU
    python3 train.py --out build/draft --draft-of model       # a draft model, a tenth of the size

The text comes from make_text.py. In the last part of the training the weights go through the 4-bit affine rounding that the
model will have in the end, so that the quantised model answers as well as the float one.
"""

import argparse
import json
import math
import multiprocessing as mp
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer

import tokenizer as tk
from make_text import documents

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": tk.VOCAB_SIZE,
    "hidden_size": 384,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "use_cache": True,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
}
# What a draft model has less of.
DRAFT = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1}
GROUP, BITS = 64, 4
ROWS = [64, 128, 256, 512, 1024, 2048]


# ---- text -> tokens ----

def render(doc, to_text):
    return doc["text"] + "<|endoftext|>" if "text" in doc else to_text(doc["messages"], doc.get("tools"))


def encode_part(job):
    """Tokens and loss weights of documents start..start+count: (ids uint16, weights uint8 in tenths, lengths)."""
    tokenizer_json, seed, start, count = job
    tok, to_text = Tokenizer.from_file(tokenizer_json), tk.chat_renderer()
    im_start, im_end = tok.token_to_id("<|im_start|>"), tok.token_to_id("<|im_end|>")
    assistant = tok.encode("assistant\n").ids
    all_ids, all_weights, lengths = [], [], []
    for doc in documents(seed, start, count):
        ids = tok.encode(render(doc, to_text)).ids[: ROWS[-1] + 1]
        if "text" in doc:
            weights = [10] * len(ids)
        else:
            # The answers count in full, the rest a little.
            weights, i = [1] * len(ids), 0
            while i < len(ids):
                if ids[i] == im_start and ids[i + 1: i + 1 + len(assistant)] == assistant:
                    i += 1 + len(assistant)
                    while i < len(ids):
                        weights[i] = 10
                        if ids[i] == im_end:
                            break
                        i += 1
                i += 1
        all_ids += ids
        all_weights += weights
        lengths.append(len(ids))
    return np.array(all_ids, np.uint16), np.array(all_weights, np.uint8), np.array(lengths, np.int64)


def build_rows(parts):
    """One document a row, in tensors by padded length: {T: (ids [n, T+1] int16, weights [n, T+1] uint8)}."""
    ids, weights = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    lengths = np.concatenate([p[2] for p in parts])
    ends = np.cumsum(lengths)
    out, low = {}, 0
    for t in ROWS:
        which = np.nonzero((lengths - 1 > low) & (lengths - 1 <= t))[0]
        low = t
        if len(which):
            x, w = np.zeros((len(which), t + 1), np.int16), np.zeros((len(which), t + 1), np.uint8)
            for r, d in enumerate(which):
                x[r, : lengths[d]] = ids[ends[d] - lengths[d]: ends[d]]
                w[r, : lengths[d]] = weights[ends[d] - lengths[d]: ends[d]]
            out[t] = (torch.from_numpy(x), torch.from_numpy(w))
    return out, int(lengths.sum())


# ---- model ----

def fake_quantise(w, bits=BITS, group=GROUP):
    """MLX's affine rounding of each group of weights; the gradient passes straight through."""
    g = w.detach().bfloat16().float().reshape(-1, group)
    lo, hi = g.amin(1, keepdim=True), g.amax(1, keepdim=True)
    n = 2 ** bits - 1
    low_edge = lo.abs() > hi.abs()
    scale = ((hi - lo) / n).clamp_min(1e-7)
    scale = torch.where(low_edge, scale, -scale)
    edge = torch.where(low_edge, lo, hi)
    q0 = torch.round(edge / scale)
    zero = q0 == 0
    scale = torch.where(zero, scale, edge / torch.where(zero, torch.ones_like(q0), q0))
    bias = torch.where(zero, torch.zeros_like(edge), edge)
    q = torch.round((g - bias) / scale).clamp(0, n)
    rounded = (q * scale.bfloat16().float() + bias.bfloat16().float()).reshape(w.shape)
    return w + (rounded - w).detach()


def linear(x, w, quantised):
    w = fake_quantise(w) if quantised else w
    return F.linear(x, w.to(x.dtype))


def norm(x, w):
    return F.rms_norm(x.float(), (x.shape[-1],), w.float(), CONFIG["rms_norm_eps"]).to(x.dtype)


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Model(torch.nn.Module):
    """Qwen3, with the parameter names of the Hugging Face layout. Works on [N] tokens of rows of T."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        h, d, hd, kv, m = c["hidden_size"], c["num_attention_heads"] * c["head_dim"], c["head_dim"], c["num_key_value_heads"] * c["head_dim"], c["intermediate_size"]
        std = c["initializer_range"]
        self.w = torch.nn.ParameterDict()

        def matrix(name, out, inp, std):
            self.w[name.replace(".", "/")] = torch.nn.Parameter(torch.randn(out, inp) * std)

        def vector(name, n):
            self.w[name.replace(".", "/")] = torch.nn.Parameter(torch.ones(n))

        matrix("model.embed_tokens.weight", c["vocab_size"], h, std)
        vector("model.norm.weight", h)
        deep = std / math.sqrt(2 * c["num_hidden_layers"])
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            vector(p + "input_layernorm.weight", h)
            vector(p + "post_attention_layernorm.weight", h)
            vector(p + "self_attn.q_norm.weight", hd)
            vector(p + "self_attn.k_norm.weight", hd)
            matrix(p + "self_attn.q_proj.weight", d, h, std)
            matrix(p + "self_attn.k_proj.weight", kv, h, std)
            matrix(p + "self_attn.v_proj.weight", kv, h, std)
            matrix(p + "self_attn.o_proj.weight", h, d, deep)
            matrix(p + "mlp.gate_proj.weight", m, h, std)
            matrix(p + "mlp.up_proj.weight", m, h, std)
            matrix(p + "mlp.down_proj.weight", h, m, deep)
        self.before, self.after, self.loss_of = before_attention, after_attention, loss_of

    def compile_parts(self):
        self.before, self.after, self.loss_of = torch.compile(before_attention), torch.compile(after_attention), torch.compile(loss_of)

    def hidden(self, ids, quantised, dtype):
        """ids [B, T] -> [B*T, hidden]"""
        b, t = ids.shape
        c, w = self.c, self.w
        heads, kv, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        inv = c["rope_theta"] ** (-torch.arange(0, hd, 2, device=ids.device).float() / hd)
        angle = torch.arange(t, device=ids.device).float()[:, None] * inv
        cos, sin = (f(angle).repeat(b, 1)[:, None, :] for f in (torch.cos, torch.sin))
        x = F.embedding(ids.reshape(-1), w["model/embed_tokens/weight"]).to(dtype)
        for i in range(c["num_hidden_layers"]):
            p = {k.rsplit("/", 2)[1]: v for k, v in w.items() if k.startswith(f"model/layers/{i}/")}
            q, k, v = self.before(x, p, cos, sin, heads, kv, hd, quantised)
            q, k, v = (y.view(b, t, heads, hd).transpose(1, 2) for y in (q, k, v))
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = self.after(x, a.transpose(1, 2).reshape(b * t, heads * hd), p, quantised)
        return x

    def loss(self, ids, targets, weights, quantised, dtype):
        return self.loss_of(self.hidden(ids, quantised, dtype), self.w["model/norm/weight"], self.w["model/embed_tokens/weight"], targets.reshape(-1), weights.reshape(-1))


def before_attention(x, p, cos, sin, heads, kv, hd, quantised):
    n = x.shape[0]
    y = norm(x, p["input_layernorm"])
    q = norm(linear(y, p["q_proj"], quantised).view(n, heads, hd), p["q_norm"])
    k = norm(linear(y, p["k_proj"], quantised).view(n, kv, hd), p["k_norm"])
    v = linear(y, p["v_proj"], quantised).view(n, kv, hd)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    return q, k.repeat_interleave(heads // kv, 1), v.repeat_interleave(heads // kv, 1)


def after_attention(x, a, p, quantised):
    x = x + linear(a, p["o_proj"], quantised)
    y = norm(x, p["post_attention_layernorm"])
    return x + linear(F.silu(linear(y, p["gate_proj"], quantised)) * linear(y, p["up_proj"], quantised), p["down_proj"], quantised)


def loss_of(x, norm_w, embed, targets, weights):
    logits = F.linear(norm(x, norm_w), embed.to(x.dtype)).float()
    each = F.cross_entropy(logits, targets, reduction="none")
    return (each * weights).sum() / weights.sum()


# ---- training ----

def batches(rows, tokens, device, seed):
    """Endless (ids, targets, weights) of about `tokens` tokens, each batch from rows of one length."""
    rng = np.random.default_rng(seed)
    keys = [t for t in rows if rows[t][0].shape[0] * t >= tokens] or list(rows)
    share = np.array([rows[t][0].shape[0] * t for t in keys], float)
    data = {t: (rows[t][0].to(device), rows[t][1].to(device)) for t in keys}
    order = {t: np.array([], np.int64) for t in keys}
    while True:
        t = keys[rng.choice(len(keys), p=share / share.sum())]
        b = max(1, tokens // t)
        while len(order[t]) < b:
            order[t] = np.concatenate([order[t], rng.permutation(rows[t][0].shape[0])])
        pick, order[t] = torch.from_numpy(order[t][:b]).to(device), order[t][b:]
        x, w = data[t][0][pick].long(), data[t][1][pick].float() / 10
        yield x[:, :-1], x[:, 1:], w[:, 1:]


@torch.no_grad()
def held_out_loss(model, rows, device, quantised, dtype):
    """Mean loss of the answers' tokens only."""
    total = count = 0.0
    for x, w in rows.values():
        for i in range(0, min(len(x), 512), 64):
            xi, wi = x[i:i + 64].to(device).long(), (w[i:i + 64].to(device) == 10).float()
            h = model.hidden(xi[:, :-1], quantised, dtype)
            n = wi[:, 1:].sum()
            total += (loss_of(h, model.w["model/norm/weight"], model.w["model/embed_tokens/weight"], xi[:, 1:].reshape(-1), wi[:, 1:].reshape(-1)) * n).item()
            count += n.item()
    return total / count


@torch.no_grad()
def answer(model, tok, to_text, messages, device, dtype, limit=160):
    ids = tok.encode(to_text(messages, None, True)).ids
    start, stop = len(ids), tok.token_to_id("<|im_end|>")
    while len(ids) - start < limit:
        x = model.hidden(torch.tensor([ids], device=device), True, dtype)[-1:]
        logits = F.linear(norm(x, model.w["model/norm/weight"]), model.w["model/embed_tokens/weight"].to(dtype))
        ids.append(int(logits.argmax()))
        if ids[-1] == stop:
            break
    return tok.decode(ids[start:])


PROMPTS = ["Hello!", "Tell me a short story about a fox.", "What is the capital of France?", "What is 7 + 5?", "Why is the sky blue?", "Who are you?", "Write a haiku about the sea.", "Name three fruits."]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", required=True, help="folder for the model")
    p.add_argument("--documents", type=int, default=300_000)
    p.add_argument("--steps", type=int, default=6000)
    p.add_argument("--minutes", type=float, default=0, help="end the training after this time, with the schedule fitted to it")
    p.add_argument("--batch-tokens", type=int, default=65536)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--quantised-part", type=float, default=0.25, help="the last part of the training that runs with rounded weights")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--workers", type=int, default=mp.cpu_count())
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--draft-of", metavar="FOLDER", help="make a draft model for the model in this folder, with its tokenizer")
    args = p.parse_args()
    out = Path(args.out)
    began = time.time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")

    to_text = tk.chat_renderer()
    config = CONFIG | (DRAFT if args.draft_of else {})
    sample = min(args.documents, 40_000)
    if args.draft_of:
        tok = Tokenizer.from_file(str(Path(args.draft_of) / "tokenizer.json"))
    else:
        tok = tk.train(render(d, to_text) for d in documents(args.seed, 0, sample))
    tk.save(tok, out, CONFIG["max_position_embeddings"])
    print(f"tokenizer: {tok.get_vocab_size()} entries, {time.time() - began:.0f} s", flush=True)
    step = 2000
    jobs = [(str(out / "tokenizer.json"), args.seed, s, min(step, args.documents - s)) for s in range(0, args.documents, step)]
    with mp.get_context("spawn").Pool(args.workers) as pool:
        rows, total = build_rows(pool.map(encode_part, jobs, chunksize=1))
        held_out, _ = build_rows(pool.map(encode_part, [(str(out / "tokenizer.json"), args.seed + 1000, 0, min(2000, args.documents // 50 + 1))]))
    print(f"text: {args.documents} documents, {total / 1e6:.1f} M tokens, rows {({t: len(r[0]) for t, r in rows.items()})}, {time.time() - began:.0f} s", flush=True)

    model = Model(config).to(device)
    if not args.no_compile:
        model.compile_parts()
    count = sum(v.numel() for v in model.parameters())
    print(f"model: {count / 1e6:.2f} M parameters on {device}", flush=True)
    matrices, vectors = [v for v in model.parameters() if v.dim() == 2], [v for v in model.parameters() if v.dim() == 1]
    opt = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.95), fused=device == "cuda")
    source = batches(rows, args.batch_tokens, device, args.seed)
    start, n, done, seen = time.time(), 0, 0.0, 0
    while done < 1:
        quantised = done >= 1 - args.quantised_part
        lr = args.lr * min(1, (n + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for g in opt.param_groups:
            g["lr"] = lr
        ids, targets, weights = next(source)
        loss = model.loss(ids, targets, weights, quantised, dtype)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        n += 1
        seen += ids.numel()
        if n % 20 == 0 and device == "cuda":
            torch.cuda.synchronize()
        done = (time.time() - start) / (60 * args.minutes) if args.minutes else n / args.steps
        if n % 250 == 0 or n <= 2 or done >= 1:
            print(f"step {n}  loss {loss.item():.4f}  lr {lr:.5f}  {'4 bits' if quantised else 'float'}  {seen / 1e6:.0f} M tokens  {time.time() - start:.0f} s", flush=True)

    model.before, model.after = before_attention, after_attention
    print(f"held-out loss: {held_out_loss(model, held_out, device, True, dtype):.4f} with 4 bits, {held_out_loss(model, held_out, device, False, dtype):.4f} without", flush=True)
    weights = {k.replace("/", "."): v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in model.w.items()}
    half = len(weights) // 2
    names, index = sorted(weights), {}
    for i, part in enumerate([names[:half], names[half:]], 1):
        file = f"model-{i:05}-of-00002.safetensors"
        save_file({k: weights[k] for k in part}, out / file, metadata={"format": "pt"})
        index.update({k: file for k in part})
    tk.write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": 2 * count}, "weight_map": index})
    ends = {"eos_token_id": tok.token_to_id("<|im_end|>"), "pad_token_id": tok.token_to_id("<|endoftext|>"), "bos_token_id": None}
    tk.write_json(out / "config.json", config | ends)
    for q in PROMPTS:
        print(json.dumps([q, answer(model, tok, to_text, [{"role": "user", "content": q}], device, dtype)], ensure_ascii=False), flush=True)
    print(f"done in {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
