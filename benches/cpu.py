"""mlxrt on the CPU beside llama.cpp, mlx-lm and the memory's reading speed; see README.md in this folder.

    benches/cpu.sh [--quick] [--only 0.6b,1b] [--side mlxrt] [--rounds N]

Each round measures the memory and then every part that was asked for, one fresh process each, so that all of them meet
the same busy machine. What a part gave replaces what results/cpu-kernels.json holds of it, after every process: an
interrupted run loses nothing. CPU.md and the plot are written from that file (cpu_report.py).
"""

import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import bench
import cpu_report
from make_model import SHAPES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODELS = ROOT / "build/bench-models"
RESULTS = HERE / "results/cpu-kernels.json"
NAMES = {name: model.shape for name, model in cpu_report.MODELS.items()}
SIDES = ("mlxrt", "llama.cpp", "mlx-lm")
TIMEOUT = 1200


def part(model, side, prompt, decode, bits=4, repeats=2, rounds=None):
    """One kind of process; `rounds`: at most so many."""
    name = f"{model}/{bits}/{side}/{prompt}"
    return dict(name=name, model=model, side=side, prompt=prompt, decode=decode, bits=bits, repeats=repeats, most=rounds)


def plan():
    parts = []
    for model in NAMES:
        for prompt in cpu_report.MODELS[model].prompts:
            for side in ("mlxrt", "llama.cpp"):
                parts.append(part(model, side, prompt, 64))
    for side in ("mlxrt", "llama.cpp"):
        parts.append(part("0.6b", side, 4096, 64, repeats=1, rounds=2))
    for bits in (8, 16):
        parts.append(part("0.6b", "mlxrt", 128, 64, bits=bits))
    # A third of a token a second there.
    for model in ("0.6b", "moe"):
        parts.append(part(model, "mlx-lm", 8, 4, repeats=1, rounds=1))
    return parts


def location(one):
    shape = NAMES[one["model"]]
    return MODELS / (f"{shape}-q4_0.gguf" if one["side"] == "llama.cpp" else f"{shape}-{one['bits']}bit")


def make(one, args):
    """The model of a part, where it is not there yet."""
    where = location(one)
    if where.exists():
        return
    shape = NAMES[one["model"]]
    if one["side"] == "llama.cpp":
        command = [args.llama_python, HERE / "make_gguf.py", where, "--shape", shape]
    else:
        command = [sys.executable, HERE / "make_model.py", where, "--shape", shape, "--bits", str(one["bits"])]
    subprocess.run(list(map(str, command)), check=True)


def bandwidth(*arguments):
    command = [str(ROOT / "build/bandwidth"), *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout)


def measure(one, args, prompt_file, n):
    """One fresh process of a part, in round n."""
    cold = min(16, one["prompt"])
    command = ["--model", location(one), "--prompt-file", prompt_file, "--cold-prompt", cold]
    # mlx-lm gets a short cold request: it is slow, and its decode is measured over few tokens.
    command += ["--cold-decode", 1 if one["side"] == "mlx-lm" else 4, "--decode", one["decode"]]
    command += ["--repeats", 1 if args.quick else one["repeats"]]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if one["side"] == "llama.cpp":
        # Its threads spin while they wait, by default: best on a quiet machine, and ruinous where a thread has to wait for
        # a core. But for every fourth round they sleep; the better way counts.
        if n % 4 != 3:
            env["OMP_WAIT_POLICY"] = "passive"
        command = [args.llama_python, HERE / "bench_llama_cpp.py", *command, "--threads", args.threads]
    elif one["side"] == "mlxrt":
        command = [ROOT / "build/bench", *command, "--device", "cpu", "--modes", "tokens", "--threads", args.threads]
    else:
        command = [sys.executable, HERE / "bench_mlx_lm.py", *command, "--device", "cpu", "--modes", "tokens"]
    result = bench.run_process(list(map(str, command)), env)
    result.pop("tokens", None)
    result["wait_policy"] = env.get("OMP_WAIT_POLICY", "default")
    result["load_average"] = round(os.getloadavg()[0], 2)
    return result


def rows(args):
    """What a step of several rows costs by one of one row, by the best of many, from a test of the crate."""
    command = ["cargo", "test", "--release", "--lib", "runtime::tests::rows", "--", "--ignored", "--nocapture"]
    where = location(dict(model="0.6b", side="mlxrt", bits=4))
    env = {**os.environ, "MLXRT_BENCH_MODEL": str(where), "MLXRT_BENCH_THREADS": str(args.threads)}
    output = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    return json.loads(next(line for line in output.splitlines() if line.startswith("{")))


def write(result):
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    unfinished = RESULTS.with_suffix(".part")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.rename(RESULTS)


def files(parts, result):
    """Reading each folder's weights, and llama.cpp's file, into memory: what a load cannot be faster than."""
    for one in parts:
        where = location(one)
        paths = sorted(where.glob("*.safetensors")) if where.is_dir() else [where]
        passes = [bandwidth("file", path) for path in paths]
        key = f"{one['model']}/{one['bits']}/{'gguf' if one['side'] == 'llama.cpp' else 'folder'}"
        kept = result["files"].setdefault(key, {"bytes": sum(p["bytes"] for p in passes), "s": []})
        # The first pass may come from the disk.
        kept["s"] += [sum(times) for times in list(zip(*(p["s"] for p in passes)))[1:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"of {','.join(NAMES)}, with commas")
    parser.add_argument("--side", help=f"of {','.join(SIDES)}, with commas")
    parser.add_argument("--prompt", type=int, help="only the parts with this many tokens of prompt")
    parser.add_argument("--bits", type=int, help="only the parts with this many bits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round, few tokens, results thrown away: does it run?")
    parser.add_argument("--add", action="store_true", help="keep what is there of these parts and add rounds to it")
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama-cpp-python and gguf")
    args = parser.parse_args()

    def wanted(one):
        return (
            (not args.only or one["model"] in args.only.split(","))
            and (not args.side or one["side"] in args.side.split(","))
            and (not args.prompt or one["prompt"] == args.prompt)
            and (not args.bits or one["bits"] == args.bits)
        )

    parts = [one for one in plan() if wanted(one)]
    if args.quick:
        parts = [{**one, "prompt": min(one["prompt"], 8), "decode": 3} for one in parts if one["prompt"] <= 128]
        args.rounds = 1
    if not parts:
        raise SystemExit("no part has that model, side, prompt and number of bits")
    for one in parts:
        make(one, args)

    result = {}
    chosen = args.only or args.side or args.prompt or args.bits or args.add
    if RESULTS.exists() and chosen and not args.quick:
        result = json.loads(RESULTS.read_text())
    result["put_together_from"] = result.get("put_together_from", 0) + 1
    # What is kept was measured on another day, maybe on another machine.
    for one in result.get("parts", {}).values():
        for key in ("date", "machine"):
            one.setdefault(key, result[key])
    today = {"date": datetime.date.today().isoformat(), "machine": bench.machine("cpu")}
    result.update(today, threads=args.threads)
    for key in ("parts", "files"):
        result.setdefault(key, {})
    for one in parts:
        kept = result["parts"].get(one["name"])
        # Another day's, or machine's, are no rounds of the same measurement.
        if not args.add or not kept or kept["date"] != today["date"] or kept["machine"]["cpu"] != today["machine"]["cpu"]:
            result["parts"][one["name"]] = {**one, **today, "runs": []}

    with tempfile.TemporaryDirectory() as work:
        for n in range(args.rounds):
            for one in parts if n % 2 == 0 else reversed(parts):
                if one["most"] and n >= one["most"]:
                    continue
                # Beside every process, so that a quiet moment of the machine is as likely to be met by both.
                memory = {str(t): bandwidth("memory", t)["gb_s"] for t in sorted({1, args.threads})}
                rng = random.Random(7)
                ids = [rng.randrange(SHAPES[NAMES[one["model"]]]["vocab_size"]) for _ in range(one["prompt"])]
                prompt_file = Path(work) / "prompt"
                prompt_file.write_text(" ".join(map(str, ids)) + "\n")
                run = measure(one, args, prompt_file, n)
                run["bandwidth_gb_s"] = {t: max(speeds) for t, speeds in memory.items()}
                result["parts"][one["name"]]["runs"].append(run)
                rates = ", ".join(
                    f"prefill {one['prompt'] / r['first_token_s']:.4g}, decode {r['decode_tokens'] / r['decode_s']:.4g}"
                    for r in run["runs"]
                )
                speeds = run["bandwidth_gb_s"]
                print(f"{n + 1}/{args.rounds} {one['name']}: {rates}; memory {speeds}; load {run['load_s']:.3g} s", flush=True)
                if not args.quick:
                    write(result)
            files(parts, result)
    if not chosen:
        result["rows"] = rows(args)
    if args.quick:
        return
    write(result)
    cpu_report.write(HERE)
    print((HERE / "CPU.md").read_text())


if __name__ == "__main__":
    main()
