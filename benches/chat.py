"""A chat of ten turns that grows to 4,000 tokens: mlxrt's session beside mlx-lm with its prompt cache, one after the other, in
rounds. Writes CHAT.md; chat.sh sets up what it needs.

    python3 chat.py MODEL PROGRAM
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

TURNS, NEW, ANSWER, ROUNDS = 10, 390, 10, 2
HERE = Path(__file__).parent


def new_tokens(turn):
    """As in chat.c."""
    return [100 + (turn * NEW + i) * 7919 % 900 for i in range(NEW)]


def with_mlx_lm(model):
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache

    cache, last, turns = make_prompt_cache(model), [], []
    for turn in range(TURNS):
        # An answer's last token is drawn and not computed.
        prompt = mx.array(last + new_tokens(turn))
        start, first = time.perf_counter(), None
        for token, _ in generate_step(prompt, model, max_tokens=ANSWER, prompt_cache=cache):
            first = first or time.perf_counter() - start
        last = [int(token)]
        turns.append({"total": time.perf_counter() - start, "first": first})
    return turns


def median(runs, turn, key):
    return statistics.median(run[turn][key] for run in runs)


def main():
    folder, program = sys.argv[1:]
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    from mlx_lm import load

    model = load(folder)[0]
    ours, theirs = [], []
    for _ in range(ROUNDS):
        done = subprocess.run([program, folder, *map(str, (TURNS, NEW, ANSWER))], check=True, capture_output=True, text=True)
        ours.append(json.loads(done.stdout))
        theirs.append(with_mlx_lm(model))
    lines = [
        "# A chat of ten turns",
        "",
        f"Made by `make bench-chat`: the demo model's shape with room for 8,192 tokens, {NEW} new tokens and {ANSWER} of an answer each",
        f"turn, on one session; mlx-lm with its prompt cache. Medians of {ROUNDS} rounds, one after the other, on",
        f"{datetime.date.today()}, {os.cpu_count()} threads of a shared machine.",
        "",
        "| turn | tokens before | mlxrt, s | its first token, ms | mlx-lm, s | its first token, ms | ratio of the turns |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for turn in range(TURNS):
        (a, b), (c, d) = [[median(runs, turn, key) for key in ("total", "first")] for runs in (ours, theirs)]
        lines.append(f"| {turn + 1} | {turn * (NEW + ANSWER)} | {a:.3f} | {b * 1e3:.0f} | {c:.2f} | {d * 1e3:.0f} | {a / c:.4f} |")
    a, c = (sum(median(runs, turn, "total") for turn in range(TURNS)) for runs in (ours, theirs))
    lines.append(f"| all | | {a:.2f} | | {c:.1f} | | {a / c:.4f} |")
    (HERE / "CHAT.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


main()
