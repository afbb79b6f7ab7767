"""Decode and prefill on an NVIDIA GPU, mlxrt beside mlx-lm on the same folders and the same wheel of MLX; see README.md in this folder.

    python3 gpu.py --bench PROGRAM --many PROGRAM --adapters PROGRAM [--report] [--rounds N] [--folders FOLDER] [SHAPE-BITS ...]

Each round starts one fresh process of each side, in turns. Writes results/gpu-decode.json, where models that are not measured now stay as
they were, and of it GPU.md and its plot; --report: only these.
"""

import argparse
import datetime
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cpu_report
from make_model import SHAPES

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "gpu-decode.json"
MODELS = ["qwen3-0.6b-4", "qwen3-0.6b-16", "llama-8b-4", "llama-8b-8", "llama-8b-16", "qwen3-30b-a3b-4", "gpt-oss-20b-4"]
PROMPTS = (512, 2048)
SESSIONS = (1, 2, 4, 8)
SETTINGS = {"modes": "tokens,drawn", "cold_prompt": 16, "cold_decode": 16, "decode": 256, "repeats": 3}
# What a step has to read, of the memory's rate for copies (measured once: 4.3 TB/s).
MEMORY = 4.3e12


def process(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=1200)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or len(lines) < 2 or lines[0] != "first":
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(lines[-1])


def alone(args, folder, prompt):
    """Decode and prefill of one session, by rounds: {side: [{mode, decode, prefill, peak}]}"""
    rng = random.Random(7)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(" ".join(str(100 + rng.randrange(20000)) for _ in range(prompt)))
        file.flush()
        common = ["--model", folder, "--device", "gpu", "--prompt-file", file.name]
        for key, value in SETTINGS.items():
            common += ["--" + key.replace("_", "-"), value]
        commands = {"mlxrt": [args.bench, *common], "mlx-lm": [sys.executable, HERE / "bench_mlx_lm.py", *common]}
        sides = {side: [] for side in commands}
        for turn in range(args.rounds):
            for side in sorted(commands, reverse=turn % 2 == 1):
                runs = process(commands[side])["runs"]
                sides[side] += [
                    {
                        "mode": run["mode"],
                        "decode": run["decode_tokens"] / run["decode_s"],
                        "prefill": prompt / run["first_token_s"],
                        "peak": run["mlx_peak_bytes"],
                    }
                    for run in runs
                ]
    return sides


def together(args, folder):
    """Rates of several sessions, by rounds: {side: {sessions: [rate]}}"""
    sides = {"mlxrt": {}, "mlx-lm": {}}
    for count in args.sessions:
        common = [folder, count, "--prompt", 512, "--decode", 256, "--repeats", 3, "--gpu", 1]
        commands = {"mlxrt": [args.many, *common], "mlx-lm": [sys.executable, HERE / "many_mlx_lm.py", *common]}
        for side, command in commands.items():
            sides[side][str(count)] = [run["rate"] for run in process(command)["runs"]]
    return sides


def adapted(args, folder):
    """Rates without an adapter and with one of rank 16 on all projections, best of the rounds, and the median of the ratios."""
    done = subprocess.run([args.adapters, folder, "256", "5"], capture_output=True, text=True, timeout=600, check=True)
    without, with_one, ratio = done.stdout.strip().splitlines()[:3]
    last = lambda line: line.strip("| ").split("|")[1].strip()
    return {"without": float(last(without)), "with": float(last(with_one)), "ratio": float(re.search(r"\((.*)\)", last(ratio))[1])}


def median(runs, key, mode="tokens"):
    """Of the runs that took the largest logit, or drew."""
    return statistics.median(run[key] for run in runs if run.get("mode", "tokens") == mode)


def measure(args):
    folders = Path(args.folders)
    found = json.loads(Path(args.results).read_text()) if Path(args.results).exists() else {}
    if found.get("gpu") != gpu():
        found = {"gpu": gpu()}
    of = lambda key: found.setdefault(key, {})

    def say(name, *what):
        """And what was measured stays measured when the rest fails."""
        print(name, *what, flush=True)
        Path(args.results).write_text(json.dumps(found, indent=1) + "\n")

    for name in args.models or MODELS:
        shape, bits = name.rsplit("-", 1)
        folder = folders / name
        if not folder.exists():
            subprocess.run([sys.executable, HERE / "make_model.py", folder, "--shape", shape, "--bits", bits], check=True)
        of("dates")[name] = datetime.date.today().isoformat()
        of("weights")[name] = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for prompt in PROMPTS:
            of("alone").setdefault(name, {})[str(prompt)] = sides = alone(args, folder, prompt)
            say(name, prompt, {mode: {side: round(median(runs, "decode", mode), 1) for side, runs in sides.items()} for mode in ("tokens", "drawn")})
        if bits == "4":
            of("together")[name] = sides = together(args, folder)
            say(name, {side: {n: round(statistics.median(rates)) for n, rates in of.items()} for side, of in sides.items()})
        if "num_experts" not in SHAPES[shape] and "num_local_experts" not in SHAPES[shape]:
            of("adapters")[name] = rates = adapted(args, folder)
            say(name, rates)
    return found


def read(name, weights):
    """Of all weights the bytes that a token reads."""
    shape, bits = name.rsplit("-", 1)
    return cpu_report.token_bytes(SHAPES[shape], weights) if bits == "4" else weights


def gpu():
    name = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return name.stdout.strip().splitlines()[0]


def report(found):
    lines = [
        "# On an NVIDIA GPU",
        "",
        f"By `make bench-gpu`: one {found['gpu']}, MLX 0.32.2's CUDA wheel on both sides, mlx-lm 0.32.0. Random weights in real shapes; medians of *n*",
        f"requests, {SETTINGS['repeats']} in each process, sides in turns; {SETTINGS['decode']} tokens after each prompt. *Limit*: how many tokens a second the memory allows, if a step did",
        "nothing but read the weights that a token uses once (4.3 TB/s).",
        "",
        "![rates of decoding](results/gpu-decode.png)",
        "",
        "| model | day | n | prompt | decode, tok/s: mlxrt | mlx-lm | ratio | limit | prefill, tok/s: mlxrt | mlx-lm | ratio | peak, GB: mlxrt | mlx-lm |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, prompts in found["alone"].items():
        for prompt, sides in prompts.items():
            own, other = ({key: median(sides[side], key) for key in ("decode", "prefill", "peak")} for side in ("mlxrt", "mlx-lm"))
            limit = MEMORY / read(name, found["weights"][name])
            lines.append(
                f"| {name} bits | {found['dates'][name]} | {sum(run.get('mode', 'tokens') == 'tokens' for run in sides['mlxrt'])} | {prompt} | {own['decode']:.0f} | {other['decode']:.0f} | {own['decode'] / other['decode']:.2f} | {limit:.0f} "
                f"| {own['prefill']:.0f} | {other['prefill']:.0f} | {own['prefill'] / other['prefill']:.2f} "
                f"| {own['peak'] / 1e9:.2f} | {other['peak'] / 1e9:.2f} |"
            )
    lines += [
        "",
        "Tokens drawn with temperature 0.7 and top_p 0.95, in the same processes behind the same prompts; *greedy* is the rate of the table above.",
        "",
        "| model | prompt | mlxrt, tok/s | by greedy | mlx-lm, tok/s | by greedy | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, prompts in found["alone"].items():
        for prompt, sides in prompts.items():
            if not any(run.get("mode") == "drawn" for run in sides["mlxrt"]):
                continue
            (own, own_by), (other, other_by) = (
                (median(sides[side], "decode", "drawn"), median(sides[side], "decode", "drawn") / median(sides[side], "decode"))
                for side in ("mlxrt", "mlx-lm")
            )
            lines.append(f"| {name} bits | {prompt} | {own:.0f} | {own_by:.2f} | {other:.0f} | {other_by:.2f} | {own / other:.2f} |")
    lines += [
        "",
        "Sessions at once, each behind a prompt of 512 tokens; mlx-lm's batch generator beside. *Step*: the time of a pass by that of one session's.",
        "",
        "| model | sessions | mlxrt, tok/s | by one session | step | mlx-lm, tok/s | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, sides in found["together"].items():
        one = statistics.median(sides["mlxrt"]["1"])
        for count, rates in sides["mlxrt"].items():
            rate, other = statistics.median(rates), statistics.median(sides["mlx-lm"][count])
            by_one = rate / one
            lines.append(f"| {name} bits | {count} | {rate:.0f} | {by_one:.2f} | {int(count) / by_one:.2f} | {other:.0f} | {rate / other:.1f} |")
    if found.get("adapters"):
        lines += [
            "",
            "An adapter of rank 16 on all projections, in turns with the same requests without it; the ratio of times is the median of five rounds.",
            "",
            "| model | without, tok/s | with it | time of a token by that without |",
            "|---|---:|---:|---:|",
        ]
        for name, rates in found["adapters"].items():
            lines.append(f"| {name} bits | {rates['without']:.0f} | {rates['with']:.0f} | {rates['ratio']:.2f} |")
    notes = HERE / "gpu-notes.md"
    text = "\n".join(lines) + "\n"
    if notes.exists():
        text += "\n" + notes.read_text()
    (HERE / "GPU.md").write_text(text)
    plot(found)


def plot(found):
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: no plot")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(found["alone"])
    figure, axes = plt.subplots(figsize=(9, 4))
    for at, side in enumerate(("mlxrt", "mlx-lm")):
        rates = [median(found["alone"][name]["512"][side], "decode") for name in names]
        bars = axes.bar([i + (at - 0.5) * 0.38 for i in range(len(names))], rates, width=0.36, label=side)
        axes.bar_label(bars, [f"{rate:.0f}" for rate in rates], fontsize=8)
    axes.set_xticks(range(len(names)), [f"{name} bits" for name in names], fontsize=8)
    axes.set_ylabel("tokens a second, one session, prompt of 512")
    axes.legend()
    figure.tight_layout()
    figure.savefig(HERE / "results" / "gpu-decode.png", dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"usually {' '.join(MODELS)}")
    parser.add_argument("--bench")
    parser.add_argument("--many")
    parser.add_argument("--adapters")
    parser.add_argument("--sessions", type=lambda text: [int(n) for n in text.split(",")], default=SESSIONS)
    parser.add_argument("--folders", default="build/bench-models")
    parser.add_argument("--results", default=RESULTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    os.chdir(HERE.parent)
    if not args.report:
        measure(args)
    report(json.loads(Path(args.results).read_text()))


if __name__ == "__main__":
    main()
