"""One fresh process of the mlx-lm side of the benchmark of many sessions: its batch generator. Prints "first" and one line of JSON with
the keys of many.c."""

import argparse
import json
import random
import time

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("sessions", type=int)
for name, usual in (("prompt", 64), ("decode", 96), ("repeats", 1), ("gpu", 0)):
    parser.add_argument("--" + name, type=int, default=usual)
args = parser.parse_args()

import mlx.core as mx

# Before mlx_lm is imported: it makes its stream then.
mx.set_default_device(mx.gpu if args.gpu else mx.cpu)

import mlx_lm
from mlx_lm.generate import BatchGenerator

model, tokenizer = mlx_lm.load(args.model)


def prompt_of(count, seed):
    draw = random.Random(seed)
    return [100 + draw.randrange(20000) for _ in range(count)]


def run(prompts, decode):
    """Steps of the generator: (when, how many tokens)."""
    generator = BatchGenerator(model, max_tokens=decode)
    generator.insert(prompts, [decode] * len(prompts))
    began, steps = time.perf_counter(), []
    while responses := generator.next_generated():
        steps.append((time.perf_counter(), len(responses)))
    generator.close()
    whole = [step for step in steps if step[1] == len(prompts)]
    gaps = sorted(b[0] - a[0] for a, b in zip(whole, whole[1:]))
    return {
        "rate": len(gaps) * len(prompts) / (whole[-1][0] - whole[0][0]),
        "whole_rate": sum(count for _, count in steps) / (steps[-1][0] - began),
        "gap_median_s": gaps[len(gaps) // 2],
        "gap_p99_s": gaps[len(gaps) * 99 // 100],
        "gap_max_s": gaps[-1],
        "gaps": len(gaps) * len(prompts),
        "arrived": 0,
        "arrived_rate": 0.0,
        "passes": len(gaps),
        "pass_rows": len(gaps) * len(prompts),
    }


# The generator's own start, which takes what a process has to compile.
mx.eval(model(mx.array([[100]])))
print("first", flush=True)
runs = [run([prompt_of(args.prompt, 7 + n) for n in range(args.sessions)], args.decode) for _ in range(args.repeats)]
print(json.dumps({"side": "mlx-lm", "version": mlx_lm.__version__, "runs": runs}), flush=True)
