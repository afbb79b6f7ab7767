"""1,000 short texts embedded, side by side with sentence-transformers. benches/embed.sh runs it.

    embed.py make FOLDER             a bert-base shape of random weights (bf16: FOLDER-bf16), and FOLDER/texts.txt
    embed.py run FOLDER THREADS RUNS [OUT]   sentence-transformers on them: texts a second of each run, the best last
    embed.py compare A B DIM         the smallest cosine of rows of two files of f32
"""

import random
import sys
import time
from pathlib import Path

import numpy as np


def words(seed, count):
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    return sorted({"".join(rng.choice(letters) for _ in range(rng.randint(2, 9))) for _ in range(count)})


def make(folder):
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    known = words(1, 20000)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *known]
    tokens = list(dict.fromkeys(tokens))
    inner = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=512, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )
    torch.manual_seed(0)
    model = BertModel(BertConfig()).eval()
    rng = random.Random(2)
    lines = [" ".join(rng.choice(known) for _ in range(rng.randint(4, 28))) for _ in range(1000)]
    for name, dtype in ((folder, torch.float32), (f"{folder}-bf16", torch.bfloat16)):
        path = Path(name)
        model.to(dtype).save_pretrained(path)
        fast.save_pretrained(path)
        (path / "texts.txt").write_text("\n".join(lines) + "\n")


def run(folder, threads, runs, out=None):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(folder, device="cpu")
    texts = Path(folder, "texts.txt").read_text().splitlines()
    rates = []
    for turn in range(runs):
        began = time.perf_counter()
        rows = model.encode(texts)
        rates.append(len(texts) / (time.perf_counter() - began))
        print(f"{rates[-1]:.1f}", flush=True)
        if out and turn == 0:
            np.asarray(rows, np.float32).tofile(out)
    print(f"{max(rates):.1f}")


def compare(a, b, dim):
    a, b = (np.fromfile(name, np.float32).reshape(-1, dim).astype(np.float64) for name in (a, b))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    print(f"smallest cosine 1 - {1 - cosines.min():.1e}, largest error {np.abs(a - b).max() / np.linalg.norm(b, axis=1).max():.1e} of the norm")


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "make":
        make(*rest)
    elif what == "run":
        run(rest[0], int(rest[1]), int(rest[2]), *rest[3:])
    else:
        compare(rest[0], rest[1], int(rest[2]))
