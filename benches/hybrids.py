"""A hybrid (three layers of linear attention for one of attention, Qwen3.5-0.8B's shape) beside a dense model of about its weights on
the CPU, and a growing chat on it; writes HYBRIDS.md and results/hybrids.json, and CPU.md again, which has the chat too.

    benches/hybrids.sh [--rounds N] [--threads N]
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import bench
import cpu_report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODELS = ROOT / "build/bench-models"
HYBRID, DENSE = "qwen3_5-0.8b", "qwen3-0.6b"
PROMPTS = (128, 1024, 4096)
DECODE = 64
TURNS = 10
MLX_LM_PROMPT = 16


def folder(shape):
    where = MODELS / f"{shape}-4bit"
    if not where.exists():
        command = [sys.executable, HERE / "make_model.py", where, "--shape", shape, "--bits", "4"]
        subprocess.run(list(map(str, command)), check=True)
    return where


def read(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=1200)
    return json.loads(done.stdout.splitlines()[-1])


def rates(shape, prompt, args):
    """Prefill and decode, tokens a second, of one fresh process."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as ids:
        ids.write(" ".join(str((n * 7919) % 100_000) for n in range(prompt)))
        ids.flush()
        command = ["--model", folder(shape), "--prompt-file", ids.name, "--cold-prompt", 16, "--cold-decode", 4]
        command += ["--decode", DECODE, "--repeats", 1, "--device", "cpu", "--modes", "tokens", "--threads", args.threads]
        result = read(ROOT / "build/bench", *command)
    run = result["runs"][0]
    memory = {threads: max(read(ROOT / "build/bandwidth", "memory", threads)["gb_s"]) for threads in {1, args.threads}}
    return {
        "prefill": prompt / run["first_token_s"],
        "decode": run["decode_tokens"] / run["decode_s"],
        "weights": result["weight_bytes"],
        "peak_rss": result["peak_rss_bytes"],
        "bandwidth_gb_s": max(memory.values()),
    }


def mlx_lm(args):
    """The same of mlx-lm, which goes token by token there: of a few."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as ids:
        ids.write(" ".join(str((n * 7919) % 100_000) for n in range(MLX_LM_PROMPT)))
        ids.flush()
        command = ["--model", folder(HYBRID), "--prompt-file", ids.name, "--cold-prompt", 2, "--cold-decode", 1]
        command += ["--decode", 4, "--repeats", 1, "--device", "cpu", "--modes", "tokens"]
        result = read(sys.executable, HERE / "bench_mlx_lm.py", *command)
    run = result["runs"][0]
    rate = run["decode_tokens"] / run["decode_s"]
    return {"prefill": MLX_LM_PROMPT / run["first_token_s"], "decode": rate, "peak_rss": result["peak_rss_bytes"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    runs = {}
    for _ in range(args.rounds):
        for prompt in PROMPTS:
            for shape in (HYBRID, DENSE):
                runs.setdefault(f"{shape}/{prompt}", []).append(rates(shape, prompt, args))
    chats = [read(ROOT / "build/turns", folder(HYBRID), TURNS, args.threads) for _ in range(args.rounds)]
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": bench.machine("cpu"),
        "threads": args.threads,
        "runs": runs,
        "chats": chats,
        "mlx_lm": mlx_lm(args),
    }
    (HERE / "results/hybrids.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "HYBRIDS.md").write_text(page(result))
    cpu_report.write(HERE)


def best(result, shape, prompt, key):
    return max(run[key] for run in result["runs"][f"{shape}/{prompt}"])


def page(result):
    lines = [
        "# A hybrid on the CPU's kernels",
        "",
        "Made by `make bench-hybrids`: Qwen3.5-0.8B's shape (18 layers of linear attention, 6 of attention) with random weights in 4 "
        "bits, beside Qwen3-0.6B's in the same rounds. Best of each; all figures are in [results/hybrids.json](results/hybrids.json).",
        "",
        f"{result['date']}. {result['threads']} threads, rounds: {len(result['chats'])}, on a shared machine.",
        "",
        "| | Qwen3.5-0.8B | Qwen3-0.6B | by weights |",
        "|---|---:|---:|---:|",
    ]
    weights = {shape: result["runs"][f"{shape}/{PROMPTS[0]}"][0]["weights"] for shape in (HYBRID, DENSE)}
    lines.append(f"| weights, MB | {weights[HYBRID] / 1e6:.0f} | {weights[DENSE] / 1e6:.0f} | |")
    for key in ("prefill", "decode"):
        for prompt in PROMPTS:
            a, b = best(result, HYBRID, prompt, key), best(result, DENSE, prompt, key)
            ratio = a * weights[HYBRID] / (b * weights[DENSE])
            what = f"prefill of {prompt}" if key == "prefill" else f"decode after {prompt}"
            lines.append(f"| {what} tokens, tok/s | {a:.1f} | {b:.1f} | {ratio:.2f} |")
    theirs = result["mlx_lm"]
    lines += [
        "",
        "The last column is the rate times the weights' bytes, by the same of the dense model.",
        "",
        "| the hybrid | figure | target | |",
        "|---|---:|---|---|",
        *targets(result, weights[HYBRID]),
        "",
        f"mlx-lm 0.32.0 in the same run, with a prompt of {MLX_LM_PROMPT} tokens: {theirs['prefill']:.2f} tok/s of prefill, "
        f"{theirs['decode']:.2f} of decode.",
        "",
        *cpu_report.chat(result),
    ]
    return "\n".join(lines) + "\n"


def targets(result, weights):
    """Rows. The limit is the best reading of the memory beside all processes but a tenth, by the bytes of all weights."""
    speeds = [run["bandwidth_gb_s"] for runs in result["runs"].values() for run in runs]
    limit = statistics.quantiles(speeds, n=10, method="inclusive")[-1]
    theirs, prefill = result["mlx_lm"], best(result, HYBRID, 1024, "prefill")
    dense = best(result, DENSE, 1024, "prefill") * result["runs"][f"{DENSE}/1024"][0]["weights"]
    decode = best(result, HYBRID, 128, "decode")
    late = best(result, HYBRID, PROMPTS[-1], "decode") / decode
    peak = min(run["peak_rss"] for run in result["runs"][f"{HYBRID}/{PROMPTS[0]}"])

    def row(title, figure, target, ok):
        return f"| {title} | {figure} | {target} | {'reached' if ok else '**not reached**'} |"

    return [
        row("prefill of 1,024 tokens by mlx-lm's", f"{prefill / theirs['prefill']:.0f}", "≥ 10", prefill >= 10 * theirs["prefill"]),
        row("prefill of 1,024 tokens by the dense model's, by weights", f"{prefill * weights / dense:.2f}", "≥ 0.7", prefill * weights >= 0.7 * dense),
        row(f"decode after 128 tokens, of the reading limit ({limit:.1f} GB/s)", f"{decode * weights / limit / 1e9:.0%}", "≥ 75 %", decode * weights >= 0.75e9 * limit),
        row(f"decode after {PROMPTS[-1]:,} tokens by that after 128", f"{late:.2f}", "≥ 0.85", late >= 0.85),
        row(f"the process's peak memory, {PROMPTS[0]} + {DECODE} tokens, by mlx-lm's ({theirs['peak_rss'] / 1e6:.0f} MB)", f"{peak / theirs['peak_rss']:.2f}", "≤ 1", peak <= theirs["peak_rss"]),
    ]


if __name__ == "__main__":
    main()
