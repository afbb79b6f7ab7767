"""One fresh process of the llama.cpp side of the benchmark of many sessions: one llama_decode a step, with a row of each sequence, as
its server makes them. Prints "first" and one line of JSON with the keys of many.c.

Steps feed tokens that are known before, and nothing is sampled; mlxrt's side takes the likeliest token of each row. What arrives
is put behind the rows as the server does it: as much of the waiting prompts as fits into n_batch, which is 2,048 by default.
"""

import argparse
import ctypes
import json
import random
import time

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("sessions", type=int)
for name, usual in (("prompt", 64), ("decode", 96), ("repeats", 1), ("arrivals", 0), ("threads", 2)):
    parser.add_argument("--" + name, type=int, default=usual)
args = parser.parse_args()

import llama_cpp

ARRIVING = 1000


@llama_cpp.llama_log_callback
def errors_only(level, text, _):
    if level == 4:
        print(text.decode(errors="replace"), end="", flush=True)


llama_cpp.llama_log_set(errors_only, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()
model = llama_cpp.llama_model_load_from_file(args.model.encode(), llama_cpp.llama_model_default_params())
if not model:
    raise SystemExit("the model does not load")
sequences = args.sessions + args.arrivals
params = llama_cpp.llama_context_default_params()
params.n_seq_max = sequences
# Each sequence gets an equal part.
params.n_ctx = sequences * (32 + (ARRIVING if args.arrivals else 0) + args.prompt + args.decode)
params.n_threads = params.n_threads_batch = args.threads
context = llama_cpp.llama_init_from_model(model, params)
if not context:
    raise SystemExit("no context")
memory = llama_cpp.llama_get_memory(context)
batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)


def decode(rows):
    """Rows of (token, position, sequence, whether its logits are wanted); on return they are there."""
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
    code = llama_cpp.llama_decode(context, batch)
    if code != 0:
        raise SystemExit(f"llama_decode: {code}")
    for i, row in enumerate(rows):
        if row[3]:
            llama_cpp.llama_get_logits_ith(context, i)


def prompt_of(count, seed):
    draw = random.Random(seed)
    return [100 + draw.randrange(20000) for _ in range(count)]


def rows_of(tokens, at, sequence, most):
    """As many of the tokens from `at` on as fit, the last of them all with its logits."""
    end = min(len(tokens), at + most)
    return [(tokens[i], i, sequence, i + 1 == len(tokens)) for i in range(at, end)]


class Arrivals:
    """Sequences that take in one prompt after the other."""

    def __init__(self, sequences):
        self.at = {sequence: 0 for sequence in sequences}
        self.tokens = {sequence: prompt_of(ARRIVING, sequence) for sequence in sequences}
        self.done = 0

    def rows(self, most):
        rows = []
        for sequence, at in self.at.items():
            rows += rows_of(self.tokens[sequence], at, sequence, most - len(rows))
            self.at[sequence] = rows[-1][1] + 1 if rows and rows[-1][2] == sequence else at
        return rows

    def decoded(self):
        for sequence, at in self.at.items():
            if at == ARRIVING:
                self.done += 1
                self.at[sequence] = 0
                llama_cpp.llama_memory_seq_rm(memory, sequence, -1, -1)


def run():
    llama_cpp.llama_memory_clear(memory, True)
    prompts = [prompt_of(args.prompt, 7 + sequence) for sequence in range(args.sessions)]
    began = time.perf_counter()
    waiting = [row for sequence, prompt in enumerate(prompts) for row in rows_of(prompt, 0, sequence, len(prompt))]
    for at in range(0, len(waiting), params.n_batch):
        decode(waiting[at : at + params.n_batch])
    arrivals = Arrivals(range(args.sessions, sequences))
    first = last = time.perf_counter()
    gaps = []
    for step in range(args.decode - 1):
        rows = [(prompt[step % len(prompt)], len(prompt) + step, sequence, True) for sequence, prompt in enumerate(prompts)]
        decode(rows + arrivals.rows(params.n_batch - len(rows)))
        arrivals.decoded()
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
    gaps.sort()
    return {
        "rate": len(gaps) * args.sessions / (last - first),
        "whole_rate": (len(gaps) + 1) * args.sessions / (last - began),
        "gap_median_s": gaps[len(gaps) // 2],
        "gap_p99_s": gaps[len(gaps) * 99 // 100],
        "gap_max_s": gaps[-1],
        "gaps": len(gaps) * args.sessions,
        "arrived": arrivals.done,
        "arrived_rate": arrivals.done / (last - began),
        "passes": len(gaps),
        "pass_rows": len(gaps) * args.sessions,
    }


decode(rows_of(prompt_of(16, 1), 0, 0, 16))
print("first", flush=True)
runs = [run() for _ in range(args.repeats)]
print(json.dumps({"side": "llama.cpp", "version": llama_cpp.__version__, "runs": runs}), flush=True)
