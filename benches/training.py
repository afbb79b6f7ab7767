"""Trains the same LoRA adapter with mlxrt and with mlx-lm, in turns, and prints what it cost as Markdown rows.

    python3 training.py MODEL DATA [--steps N] [--rounds N] [--device cpu|gpu]

MODEL is a folder, DATA one with train.jsonl and valid.jsonl. Both sides: rank 16 on all projections of all layers, batches
of 4, Adam, the same number of steps; each is a fresh process. The rate is what each side reports of its steps, without its
start and without measuring the validation loss; the peak is that of MLX's allocator, as each side reports it, and of the
process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEYS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MODULES = [("mlp." if key in ("gate_proj", "up_proj", "down_proj") else "self_attn.") + key for key in KEYS]


def run(command, env=None):
    """Standard output and the process's peak in bytes."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=errors, text=True, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"{command[0]} failed: {errors.read()}")
        return output.read(), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), time.monotonic() - started


def mlxrt(args, work, steps):
    command = [ROOT / "build/bin/mlxrt", "train", args.model, "--data", Path(args.data) / "train.jsonl", "--json"]
    command += ["--out", Path(work) / "mlxrt", "--overwrite", "--device", args.device, "--keys", ",".join(KEYS)]
    command += ["--rank", 16, "--batch-size", 4, "--steps", steps, "--report-every", args.report, "--optimizer", "adam"]
    text, peak, seconds = run(command)
    events = [json.loads(line) for line in text.splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    rates = [event["tokens_per_second"] for event in steps]
    return dict(rate=max(rates), mlx_peak=steps[-1]["peak_bytes"], peak=peak, loss=steps[-1]["loss"], seconds=seconds)


def mlx_lm(args, work, steps):
    config = {
        "model": args.model,
        "train": True,
        "data": args.data,
        "fine_tune_type": "lora",
        "optimizer": "adam",
        "num_layers": -1,
        "batch_size": 4,
        "iters": steps,
        "val_batches": 1,
        "learning_rate": 1e-5,
        "steps_per_report": args.report,
        "steps_per_eval": 100000,
        "save_every": 100000,
        "adapter_path": str(Path(work) / "mlx-lm"),
        "max_seq_length": 2048,
        "lora_parameters": {"rank": 16, "scale": 20.0, "dropout": 0.0, "keys": MODULES},
    }
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    path = Path(work) / "reports"
    _, peak, seconds = run([sys.executable, "-c", MLX_LM, args.device, json.dumps(config), path], env)
    reports = [json.loads(line) for line in path.read_text().splitlines()]
    return dict(
        rate=max(report["tokens_per_second"] for report in reports),
        mlx_peak=int(reports[-1]["peak_memory"] * 1e9),
        peak=peak,
        loss=reports[-1]["train_loss"],
        seconds=seconds,
    )


# Its own trainer, with a line of JSON for each report in a file.
MLX_LM = """
import json, sys, types
import mlx.core as mx
from mlx_lm import lora
from mlx_lm.tuner.callbacks import TrainingCallback
class Report(TrainingCallback):
    def on_train_loss_report(self, info):
        print(json.dumps({key: float(value) for key, value in info.items()}), file=output, flush=True)
output = open(sys.argv[3], "w")
mx.set_default_device(getattr(mx, sys.argv[1]))
options = {**lora.CONFIG_DEFAULTS, **json.loads(sys.argv[2])}
lora.get_reporting_callbacks = lambda *_, **__: Report()
lora.run(types.SimpleNamespace(**options))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--their-steps", type=int, help="where mlx-lm is too slow for as many")
    parser.add_argument("--report", type=int, default=5, help="steps of one reported rate, of which the best counts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    args = parser.parse_args()
    sides = {"mlxrt": (mlxrt, args.steps), "mlx-lm": (mlx_lm, args.their_steps or args.steps)}
    runs = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as work:
        for n in range(args.rounds):
            for side in list(sides)[:: 1 if n % 2 == 0 else -1]:
                program, steps = sides[side]
                runs[side].append(program(args, work, steps))
                print(f"{side}: {runs[side][-1]}", file=sys.stderr)
    best = {side: max(run["rate"] for run in of) for side, of in runs.items()}
    least = {side: min(run["mlx_peak"] for run in of) for side, of in runs.items()}
    process = {side: min(run["peak"] for run in of) for side, of in runs.items()}
    row = "| {} | {} | {} | {:.2f} | {} |".format
    rate = best["mlxrt"] / best["mlx-lm"]
    verdict = lambda reached: "reached" if reached else "**not reached**"
    print(row("training, tok/s", f"{best['mlxrt']:.3g}", f"{best['mlx-lm']:.3g}", rate, f"≥ 1: {verdict(rate >= 1)}"))
    share = least["mlxrt"] / least["mlx-lm"]
    reached = f"≤ 1: {verdict(share <= 1)}"
    print(row("peak of MLX's memory, MB", round(least["mlxrt"] / 1e6), round(least["mlx-lm"] / 1e6), share, reached))
    share = process["mlxrt"] / process["mlx-lm"]
    print(row("peak of the process, MB", round(process["mlxrt"] / 1e6), round(process["mlx-lm"] / 1e6), share, ""))


if __name__ == "__main__":
    main()
