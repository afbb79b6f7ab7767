"""Compares mlxrt with mlx-lm side by side on the same folders and the same machine; see README.md in this folder.

    python3 bench.py [--device cpu|gpu] [--bench PROGRAM] [NAME=FOLDER ...]

Each round starts one fresh process of each side, in turns (A B, B A, ...). Writes results/<device>.json, and from all the
results there are RESULTS.md and the plots (report.py).
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

FOLDERS = {
    "demo": "demo/model",
    "0.6b": "build/bench-models/qwen3-0.6b-4bit",
    "smallest": "tests/fixtures/models/qwen3-4bit",
}
TITLES = {
    "demo": "the demo model",
    "0.6b": "0.6B shape, 4 bits (random weights)",
    "smallest": "smallest model: the overhead per token (2 layers of 64)",
}
# Tokens of a measured request (prompt, decode), requests of each mode in one process (repeats), processes (rounds), and
# of the first, cold request (cold_prompt, cold_decode).
# MLX's quantised matrix product is scalar code on the CPU, a third of a token a second for 0.6B: few tokens there.
SETTINGS = {
    "cpu": {
        "demo": dict(prompt=64, decode=64, repeats=1, rounds=7, cold_prompt=16, cold_decode=8, modes="tokens,text"),
        "0.6b": dict(prompt=8, decode=6, repeats=1, rounds=2, cold_prompt=2, cold_decode=1, modes="tokens"),
        "smallest": dict(prompt=64, decode=512, repeats=3, rounds=7, cold_prompt=16, cold_decode=8, modes="tokens,text"),
    },
    "gpu": {
        "demo": dict(prompt=512, decode=256, repeats=3, rounds=5, cold_prompt=16, cold_decode=8, modes="tokens,text"),
        "0.6b": dict(prompt=2048, decode=256, repeats=3, rounds=5, cold_prompt=16, cold_decode=8, modes="tokens,text"),
        "smallest": dict(prompt=64, decode=512, repeats=3, rounds=5, cold_prompt=16, cold_decode=8, modes="tokens,text"),
    },
}
SIDES = ("mlxrt", "mlx-lm")
PROCESS_TIMEOUT = 1800


def run_process(command, env):
    """One fresh process: its JSON, and by our clock the times from its start to its first token and to its end."""
    with tempfile.TemporaryFile("w+") as errors:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True, env=env, bufsize=1
        )
        try:
            line = process.stdout.readline()
            first = time.perf_counter() - start
            rest = process.communicate(timeout=PROCESS_TIMEOUT)[0]
            end = time.perf_counter() - start
        finally:
            process.kill()
        if process.returncode != 0 or line != "first\n":
            errors.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{errors.read()[-4000:]}")
    result = json.loads(rest)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result.update(start_to_first_token_s=first, start_to_end_s=end, cpu_s=cpu)
    return result


def vocab_size(folder):
    config = json.loads((folder / "config.json").read_text())
    return config.get("vocab_size") or config["text_config"]["vocab_size"]


def commands(args, folder, settings, prompt_file):
    common = ["--model", str(folder), "--device", args.device, "--prompt-file", prompt_file]
    for key in ("modes", "cold_prompt", "cold_decode", "decode", "repeats"):
        common += ["--" + key.replace("_", "-"), str(settings[key])]
    return {"mlxrt": [args.bench, *common], "mlx-lm": [sys.executable, str(HERE / "bench_mlx_lm.py"), *common]}


def measure(args, name, folder, settings, env):
    """All rounds on one folder: the raw results of both sides, in the order they were made."""
    rng = random.Random(7)
    ids = [rng.randrange(vocab_size(folder)) for _ in range(settings["prompt"])]
    raw = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as work:
        prompt_file = os.path.join(work, "prompt")
        Path(prompt_file).write_text(" ".join(map(str, ids)) + "\n")
        # Not counted: puts the files into the page cache and compiles mlx-lm's kernels where it never ran before.
        warm_up = {**settings, "decode": 2, "repeats": 1, "cold_prompt": 1, "cold_decode": 1}
        Path(prompt_file + "-short").write_text(" ".join(map(str, ids[:2])) + "\n")
        for side, command in commands(args, folder, warm_up, prompt_file + "-short").items():
            run_process(command, env[side])
        all_commands = commands(args, folder, settings, prompt_file)
        for n in range(settings["rounds"]):
            for side in SIDES if n % 2 == 0 else reversed(SIDES):
                result = run_process(all_commands[side], env[side])
                raw[side].append(result)
                rates = ", ".join(f"{run['mode']} {run['decode_tokens'] / run['decode_s']:.4g}" for run in result["runs"])
                print(f"{name} {n + 1}/{settings['rounds']} {side}: decode tok/s {rates}", flush=True)
    return raw


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def summarise(raw, settings):
    """Per measure: both sides' medians and spreads, the ratio of the medians, and the ratios of the single rounds."""
    modes = settings["modes"].split(",")
    per_process = {
        "start_to_first_token_s": lambda r: r["start_to_first_token_s"],
        "start_to_end_s": lambda r: r["start_to_end_s"],
        "start_to_prompt_s": lambda r: r["start_to_first_token_s"] - r["cold_first_token_s"],
        "cpu_s": lambda r: r["cpu_s"],
        "load_s": lambda r: r["load_s"],
        "cold_rss_bytes": lambda r: r["cold_rss_bytes"],
        "peak_rss_bytes": lambda r: r["peak_rss_bytes"],
        "mlx_process_peak_bytes": lambda r: r["mlx_process_peak_bytes"],
    }
    per_run = {
        "decode_tps": lambda run: run["decode_tokens"] / run["decode_s"],
        "prefill_tps": lambda run: settings["prompt"] / run["first_token_s"],
        "first_token_s": lambda run: run["first_token_s"],
        "mlx_peak_bytes": lambda run: run["mlx_peak_bytes"],
        "reported_decode_tps": lambda run: run.get("reported_decode_tps"),
        "reported_prefill_tps": lambda run: run.get("reported_prefill_tps"),
    }
    measures = {}

    def add(name, values):
        """values: of each side a list of rounds, each a list of numbers."""
        flat = {side: [value for one in values[side] for value in one] for side in SIDES}
        if not all(flat[side] and None not in flat[side] for side in SIDES):
            return
        sides = {side: summary(flat[side]) for side in SIDES}
        rounds = [statistics.median(a) / statistics.median(b) for a, b in zip(*(values[side] for side in SIDES))]
        ratio = sides["mlxrt"]["median"] / sides["mlx-lm"]["median"]
        measures[name] = {**sides, "ratio": ratio, "round_ratios": rounds}

    for name, get in per_process.items():
        add(name, {side: [[get(r)] for r in raw[side]] for side in SIDES})
    for mode in modes:
        for name, get in per_run.items():
            add(f"{mode}.{name}", {
                side: [[get(run) for run in r["runs"] if run["mode"] == mode] for r in raw[side]] for side in SIDES
            })
    same = all(r["tokens"] == raw["mlxrt"][0]["tokens"] for side in SIDES for r in raw[side])
    return measures, same


def first_match(path, key):
    try:
        for line in open(path):
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return None


def command_output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def machine(device):
    """What the figures depend on, and nothing that says whose machine it is."""
    cpu = first_match("/proc/cpuinfo", "model name") or command_output("sysctl", "-n", "machdep.cpu.brand_string")
    out = {
        "cpu": cpu or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average_before": [round(x, 2) for x in os.getloadavg()],
    }
    if device == "gpu":
        gpu = command_output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
        out["gpu"] = gpu or cpu
    for package in ("mlx", "mlx-cpu", "mlx-cuda", "mlx-cuda-12", "mlx-cuda-13", "mlx-lm", "transformers", "tokenizers"):
        try:
            out[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="NAME=FOLDER", help="; ".join(f"{k}={v}" for k, v in FOLDERS.items()))
    parser.add_argument("--device", choices=list(SETTINGS), default="cpu")
    parser.add_argument("--bench", default=str(ROOT / "build/bench"), help="bench.c, built")
    parser.add_argument("--lib-dir", help="for the mlxrt side only: put in front of LD_LIBRARY_PATH")
    parser.add_argument("--out", type=Path, default=HERE, help="where results/ and RESULTS.md go")
    parser.add_argument("--rounds", type=int, help="instead of the table's")
    parser.add_argument("--quick", action="store_true", help="one round, few tokens: to try the benchmark itself")
    args = parser.parse_args()

    folders = dict(pair.split("=", 1) for pair in args.folders) if args.folders else FOLDERS
    env = {side: {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"} for side in SIDES}
    if args.lib_dir:
        old = os.environ.get("LD_LIBRARY_PATH")
        env["mlxrt"]["LD_LIBRARY_PATH"] = args.lib_dir + (f":{old}" if old else "")
    result = {"date": datetime.date.today().isoformat(), "device": args.device, "machine": machine(args.device), "models": {}}
    for name, where in folders.items():
        folder = Path(where) if Path(where).is_absolute() else ROOT / where
        if not (folder / "config.json").is_file():
            print(f"{name}: skipped, there is no model folder {where}", flush=True)
            continue
        settings = dict(SETTINGS[args.device].get(name, SETTINGS[args.device]["demo"]))
        if args.rounds:
            settings["rounds"] = args.rounds
        if args.quick:
            settings.update(prompt=min(settings["prompt"], 8), decode=min(settings["decode"], 4), repeats=1, rounds=1)
            settings["cold_prompt"] = min(settings["cold_prompt"], 8)
        raw = measure(args, name, folder, settings, env)
        measures, same = summarise(raw, settings)
        for side in SIDES:
            for r in raw[side]:
                del r["tokens"]
        result["versions"] = {side: raw[side][0]["version"] for side in SIDES}
        result["models"][name] = {
            "title": TITLES.get(name, name),
            "settings": settings,
            "same_tokens": same,
            "measures": measures,
            "raw": raw,
        }
    if not result["models"]:
        raise SystemExit("nothing was measured")
    results = args.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{args.device}.json").write_text(json.dumps(result, indent=1) + "\n")
    report.write(args.out)
    print((args.out / "RESULTS.md").read_text())


if __name__ == "__main__":
    main()
