"""Many sessions at once on the CPU, beside llama.cpp and mlx-lm; see README.md in this folder.

    benches/many.sh [--quick] [--side mlxrt] [--load arrivals] [--rounds N] [--add]

Each round starts one fresh process of every part that was asked for, in turns, forwards and backwards. What a part gave replaces what
results/many.json holds of it, after every process. MANY.md and the plot are written from that file (many_report.py).
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import bench
import many_report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODELS = ROOT / "build/bench-models"
SHAPE = "qwen3-0.6b"
RESULTS = HERE / "results/many.json"
SIDES = ("mlxrt", "before", "llama.cpp", "mlx-lm")
# What the sessions have besides themselves.
LOADS = {"plain": {}, "arrivals": {"arrivals": 2}, "one adapter": {"adapters": 1}, "an adapter each": {"adapters": 8}}
# Seconds of a process: mlx-lm may not be done by then, and is told as that.
LIMIT = {"mlx-lm": 400}


def part(side, sessions, load="plain", rounds=None, **sizes):
    """One kind of process; `rounds`: at most so many."""
    sizes = {"prompt": 64, "decode": 96, **LOADS[load], **sizes}
    return dict(name=f"{side}/{sessions}/{load}", side=side, sessions=sessions, load=load, most=rounds, sizes=sizes)


def plan(before):
    parts = []
    ours = ("mlxrt", "before") if before else ("mlxrt",)
    for sessions in (1, 2, 4, 8, 16):
        parts += [part(side, sessions) for side in (*ours, "llama.cpp")]
    parts += [part(side, 8, "arrivals") for side in ours]
    # Each of its steps has 2,000 tokens to take in.
    parts.append(part("llama.cpp", 8, "arrivals", rounds=1, decode=12))
    # llama.cpp has the adapters of a whole pass.
    parts += [part(side, 8, load) for load in ("one adapter", "an adapter each") for side in ours]
    # Several seconds a token there.
    parts += [part("mlx-lm", sessions, rounds=1, prompt=2, decode=3) for sessions in (1, 4, 8)]
    return parts


def make(side, args):
    """The model of a side, where it is not there yet."""
    where = MODELS / (f"{SHAPE}-q4_0.gguf" if side == "llama.cpp" else f"{SHAPE}-4bit")
    if not where.exists():
        python, script = (args.llama_python, "make_gguf.py") if side == "llama.cpp" else (sys.executable, "make_model.py")
        subprocess.run([python, str(HERE / script), str(where), "--shape", SHAPE], check=True)
    return where


def measure(one, args, n):
    """One fresh process of a part, in round n; None where it took too long."""
    side = one["side"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if side == "llama.cpp":
        # As in cpu.py.
        if n % 4 != 3:
            env["OMP_WAIT_POLICY"] = "passive"
        command = [args.llama_python, HERE / "many_llama_cpp.py"]
    elif side == "mlx-lm":
        command = [sys.executable, HERE / "many_mlx_lm.py"]
    else:
        command = [ROOT / "build/bench-many"]
        if side == "before":
            env["LD_LIBRARY_PATH"] = args.before
    command += [make(side, args), one["sessions"]]
    sizes = {**one["sizes"], "prompt": 4, "decode": 16} if args.quick and side != "mlx-lm" else one["sizes"]
    if side != "mlx-lm":
        sizes = {**sizes, "threads": args.threads}
    for key, value in sizes.items():
        command += [f"--{key}", value]
    bench.PROCESS_TIMEOUT = LIMIT.get(side, 1800)
    try:
        result = bench.run_process(list(map(str, command)), env)
    except subprocess.TimeoutExpired:
        return None
    result["wait_policy"] = env.get("OMP_WAIT_POLICY", "default")
    result["load_average"] = round(os.getloadavg()[0], 2)
    return result


def write(result):
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    unfinished = RESULTS.with_suffix(".part")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.rename(RESULTS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", help=f"of {','.join(SIDES)}, with commas")
    parser.add_argument("--load", help=f"of {','.join(LOADS)}, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round, few tokens, results thrown away: does it run?")
    parser.add_argument("--add", action="store_true", help="keep what is there of these parts and add rounds to it")
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama-cpp-python and gguf")
    parser.add_argument("--before", default=os.environ.get("MLXRT_BENCH_BEFORE"), help="the folder of an older libmlxrt.so")
    args = parser.parse_args()

    chosen = args.side or args.load or args.add
    parts = [
        one
        for one in plan(args.before)
        if (not args.side or one["side"] in args.side.split(",")) and (not args.load or one["load"] in args.load.split(","))
    ]
    if not parts:
        raise SystemExit("no part has that side and load")
    rounds = 1 if args.quick else args.rounds
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() and chosen and not args.quick else {"parts": {}}
    result.update(date=datetime.date.today().isoformat(), machine=bench.machine("cpu"), threads=args.threads)
    for one in parts:
        if one["name"] not in result["parts"] or not args.add:
            result["parts"][one["name"]] = {**one, "runs": []}
    for n in range(rounds):
        for one in parts if n % 2 == 0 else reversed(parts):
            if one["most"] and n >= one["most"]:
                continue
            run = measure(one, args, n)
            result["parts"][one["name"]]["runs"].append(run)
            told = ", ".join(f"{r['rate']:.4g} tok/s, gap {1e3 * r['gap_median_s']:.4g} ms" for r in run["runs"]) if run else "took too long"
            print(f"{n + 1}/{rounds} {one['name']}: {told}", flush=True)
            if not args.quick:
                write(result)
    if not args.quick:
        many_report.write(HERE)
        print((HERE / "MANY.md").read_text())


if __name__ == "__main__":
    main()
