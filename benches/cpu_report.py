"""Writes CPU.md and the plot from results/cpu-kernels.json.

    python3 cpu_report.py [FOLDER]
"""

import dataclasses
import json
import statistics
import sys
from pathlib import Path

from make_model import SHAPES
from report import number

AFFINE = "4 bits in groups of 64 beside Q4_0"
EARLY, LATER = (128, 1024), (128, 512)


@dataclasses.dataclass
class Model:
    title: str
    shape: str
    packing: str = AFFINE
    prompts: tuple = EARLY
    # By llama.cpp's rate: decode, and prefill of the longer prompt (without AMX, and with it).
    decode: float = 1.6
    prefill: tuple = (1.0, 3.0)
    # Of the reading limit.
    limit: float = 0.85


MODELS = {
    "0.6b": Model("Qwen3-0.6B", "qwen3-0.6b"),
    "1.7b": Model("Qwen3-1.7B", "qwen3-1.7b"),
    "1b": Model("Llama-3.2-1B", "llama-3.2-1b"),
    "moe": Model("Qwen3-MoE, 8 of 64 experts", "qwen3-moe-1.5b", prompts=LATER, prefill=(1.3, 1.3), limit=0.7),
    "gpt-oss": Model(
        "gpt-oss-20b, 4 of its 24 layers",
        "gpt-oss-4-layers",
        "experts in mxfp4 beside MXFP4, all else in 8 bits beside Q8_0",
        LATER,
        1.3,
        (None, None),
        None,
    ),
    "gemma2": Model("Gemma 2 2B", "gemma2-2b", prompts=LATER, decode=1.5, prefill=(None, None), limit=None),
    "phi3": Model("Phi-3-mini, 16 of its 32 layers", "phi3-mini-half", prompts=LATER, decode=1.5, prefill=(None, None), limit=None),
}
FIRST = ("0.6b", "1.7b", "1b")
TITLES = {name: model.title for name, model in MODELS.items()}
SPARE_MEMORY = 150e6
# What is known of the rows that miss their targets; told where they do.
REASONS = {
    "limit": "of a 0.6B token's CPU time about 60 % are products, which read at the limit, 15 % attention, 7 % threads that"
    " wait for each other at the 140 joints of a token, the rest norms, the draw and MLX's dispatch",
    "limit moe": "on that machine dense models reach 52 to 55 % too, so it is not the experts; what it is has not been found",
    "decode": "as with the reading limit below",
    "prefill": "",
    "prefill amx": "",
    "mlx-lm": "",
    "4096": "4,096 tokens of bf16 KV are 470 MB to read beside 335 MB of weights: at the reading limit itself it would be 0.44",
    "8": "as with 4 bits",
    "16": "as with 4 bits",
    "memory": "while the embedding is packed it is there twice, beside all other weights",
    "rows": "eight rows are 15 ms of arithmetic in products alone, where one row waits 10 ms for memory",
    "load": "packing, page faults of new memory and, at 0.6B, the tokenizer of 151,643 tokens",
}


def best_of(values, most=True):
    """(best, median, how many)."""
    values = list(values)
    return ((max if most else min)(values), statistics.median(values), len(values)) if values else None


class Results:
    def __init__(self, data):
        self.data = data
        self.threads = str(data["threads"])

    def runs(self, model, bits, side, prompt):
        """Of llama.cpp, the runs of the better way to wait for its threads."""
        part = self.data["parts"].get(f"{model}/{bits}/{side}/{prompt}")
        runs = part["runs"] if part else []
        ways = {run.get("wait_policy") for run in runs}
        if side != "llama.cpp" or len(ways) < 2:
            return runs

        def speed(way):
            return statistics.median(
                r["decode_tokens"] / r["decode_s"] for run in runs if run.get("wait_policy") == way for r in run["runs"]
            )

        best = max(ways, key=speed)
        return [run for run in runs if run.get("wait_policy") == best]

    def decode(self, *key):
        return best_of(r["decode_tokens"] / r["decode_s"] for run in self.runs(*key) for r in run["runs"])

    def prefill(self, *key):
        return best_of(key[3] / r["first_token_s"] for run in self.runs(*key) for r in run["runs"])

    def first_token(self, *key):
        return best_of((r["first_token_s"] for run in self.runs(*key) for r in run["runs"]), most=False)

    def value(self, name, *key):
        return best_of((run[name] for run in self.runs(*key)), most=False)

    def days(self):
        """The days and machines that something was measured on: a limit is one machine's."""
        return sorted({self.day(part) for part in self.data["parts"].values() if part["runs"]})

    def day(self, part):
        """Parts of older files are of the file's day."""
        machine = part.get("machine", self.data["machine"])
        described = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
        return part.get("date", self.data["date"]), described

    def runs_of(self, day):
        return [run for part in self.data["parts"].values() if self.day(part) == day for run in part["runs"]]

    def models_of(self, day):
        return [name for name in MODELS if any(p["model"] == name and self.day(p) == day for p in self.data["parts"].values() if p["runs"])]

    def bandwidth(self, threads, day):
        """GB/s: the best and the median of the best pass beside each process."""
        return best_of(run["bandwidth_gb_s"][threads] for run in self.runs_of(day))

    def limit(self, day):
        """GB/s: what memory gave beside the luckiest tenth of the processes; a single pass may be far off."""
        return statistics.quantiles([max(run["bandwidth_gb_s"].values()) for run in self.runs_of(day)], n=10)[-1]

    def of_limit(self, *key):
        """Bytes of the weights that a token uses, a second in decode, by the memory's reading speed: of the bests, and of the medians."""
        decode = self.decode(*key)
        if not decode:
            return None
        model, bits, side, prompt = key
        weights = token_bytes(SHAPES[MODELS[model].shape], self.runs(*key)[0]["weight_bytes"]) * 1e-9
        medians = statistics.median(max(run["bandwidth_gb_s"].values()) for run in self.runs(*key))
        limit = self.limit(self.day(self.data["parts"][f"{model}/{bits}/{side}/{prompt}"]))
        return decode[0] * weights / limit, decode[1] * weights / medians, decode[2]

    def read_file(self, model, bits, kind):
        file = self.data["files"].get(f"{model}/{bits}/{kind}")
        return best_of(file["s"], most=False) if file else None


def experts_of(shape):
    return shape.get("num_experts") or shape.get("num_local_experts", 0)


def bits_of(shape):
    """Of a weight, and of an expert's: scales and biases with them. llama.cpp's blocks come to the same."""
    return (8.5, 4.25) if shape["model_type"] == "gpt_oss" else (4.5, 4.5)


def stacked_bytes(shape):
    """One matrix of all experts of a layer."""
    one = shape.get("moe_intermediate_size", shape["intermediate_size"])
    return experts_of(shape) * one * shape["hidden_size"] * bits_of(shape)[1] / 8


def embedding_bytes(shape):
    return shape["vocab_size"] * shape["hidden_size"] * bits_of(shape)[0] / 8


def token_bytes(shape, weights):
    """Of all weights those that a token reads: of the experts those that it is given to, of an untied embedding a row. (Of what is not
    4 bits nothing is left out: those shapes have neither.)"""
    if experts_of(shape):
        unused = 1 - shape["num_experts_per_tok"] / experts_of(shape)
        weights -= unused * 3 * shape["num_hidden_layers"] * stacked_bytes(shape)
    if not shape.get("tie_word_embeddings", True):
        weights -= embedding_bytes(shape)
    return weights


def cell(value, scale=1.0):
    return f"{number(value[0] * scale)} ({number(value[1] * scale)})" if value else "not measured"


def ratio(ours, theirs):
    return (ours[0] / theirs[0], ours[1] / theirs[1]) if ours and theirs else None


def verdict(ok, reason=""):
    if ok is None:
        return ""
    return "reached" if ok else "**not reached**" + (f": {REASONS[reason]}" if REASONS.get(reason) else "")


def shape_table(results, model):
    lines = ["| | mlxrt | llama.cpp | ratio | target | |", "|---|---:|---:|---:|---|---|"]
    wanted = MODELS[model]
    amx = "amx" in kernels(results.runs(model, 4, "mlxrt", wanted.prompts[0])).get("path", "")

    def row(title, ours, theirs, target=None, at_least=True, reason="", scale=1.0):
        both = ratio(ours, theirs)
        ok = None
        if target and both:
            ok = both[0] >= target if at_least else both[0] <= target
        goal = f"{'≥' if at_least else '≤'} {target:g}" if target else ""
        shown = f"{number(both[0])} ({number(both[1])})" if both else ""
        lines.append(f"| {title} | {cell(ours, scale)} | {cell(theirs, scale)} | {shown} | {goal} | {verdict(ok, reason)} |")

    long = wanted.prompts[-1]
    for prompt in wanted.prompts:
        keys = [(model, 4, side, prompt) for side in ("mlxrt", "llama.cpp")]
        row(f"decode after {prompt} tokens, tok/s", *map(lambda k: results.decode(*k), keys), wanted.decode, reason="decode " + model)
        # Only of the first three was the short prompt asked too.
        target = wanted.prefill[amx] if prompt == long or model in FIRST else None
        row(f"prefill of {prompt} tokens, tok/s", *map(lambda k: results.prefill(*k), keys), target,
            reason=("prefill amx " if amx else "prefill ") + model)
    row(f"time to first token, {long:,} tokens, s", *map(lambda k: results.first_token(*k), keys))
    row("load, s", *map(lambda k: results.value("load_s", *k), keys))
    row(f"peak memory of the process, {long:,} + 64 tokens, MB",
        *map(lambda k: results.value("peak_rss_bytes", *k), keys), scale=1e-6)
    return lines


def kv_bytes(model, tokens):
    shape = SHAPES[MODELS[model].shape]
    return 2 * 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_dim"] * tokens


def target_table(results):
    lines = ["| | figure | target | |", "|---|---:|---|---|"]

    def row(title, figure, target, ok, reason=""):
        lines.append(f"| {title} | {figure} | {target} | {verdict(ok, reason)} |")

    def share(value):
        return f"{value[0]:.0%} ({value[1]:.0%})"

    for model, title in TITLES.items():
        of_limit, target = results.of_limit(model, 4, "mlxrt", 128), MODELS[model].limit
        if of_limit:
            uses = " of the weights that a token uses" if experts_of(SHAPES[MODELS[model].shape]) else ""
            what = f"{title}, 4 bits" if MODELS[model].packing == AFFINE else title
            row(f"{what}: decode, of the reading limit{uses}", share(of_limit), f"≥ {target * 100:.0f} %" if target else "",
                of_limit[0] >= target if target else None, "limit" if model in FIRST else "limit " + model)
            theirs = results.of_limit(model, 4, "llama.cpp", 128)
            if theirs:
                row(f"{title}: llama.cpp's decode, of the limit", share(theirs), "", None)
    for bits, name in ((8, "8 bits"), (16, "bf16")):
        of_limit = results.of_limit("0.6b", bits, "mlxrt", 128)
        if of_limit:
            rate = results.decode("0.6b", bits, "mlxrt", 128)
            row(f"Qwen3-0.6B, {name}: decode {cell(rate)} tok/s, of the limit", share(of_limit), "≥ 85 %",
                of_limit[0] >= 0.85, str(bits))
    for model in ("0.6b", "moe"):
        slow, fast = results.decode(model, 4, "mlx-lm", 8), results.decode(model, 4, "mlxrt", 128)
        if not slow or not fast:
            continue
        title, target = TITLES[model], 150 if model == "0.6b" else None
        row(f"{title}: decode by mlx-lm's ({cell(slow)} tok/s; 8 tokens of prompt, 4 of answer, there)",
            f"{fast[0] / slow[0]:.0f} ({fast[1] / slow[1]:.0f})", f"≥ {target}" if target else "",
            fast[0] / slow[0] >= target if target else None, "mlx-lm")
        prompt = results.prefill(model, 4, "mlx-lm", 8)
        ours = results.prefill(model, 4, "mlxrt", 128)
        row(f"{title}: prefill by mlx-lm's ({cell(prompt)} tok/s)", f"{ours[0] / prompt[0]:.0f} ({ours[1] / prompt[1]:.0f})", "", None)
    for side in ("mlxrt", "llama.cpp"):
        both = ratio(results.decode("0.6b", 4, side, 4096), results.decode("0.6b", 4, side, 128))
        if both:
            ours = side == "mlxrt"
            row(f"Qwen3-0.6B, {side}: decode at 4,096 tokens ({cell(results.decode('0.6b', 4, side, 4096))} tok/s) by that at 128",
                f"{both[0]:.2f} ({both[1]:.2f})", "≥ 0.75" if ours else "", both[0] >= 0.75 if ours else None, "4096")
    for model in FIRST:
        title = TITLES[model]
        peak = results.value("peak_rss_bytes", model, 4, "mlxrt", 1024)
        if peak:
            weights = results.runs(model, 4, "mlxrt", 1024)[0]["weight_bytes"]
            most = weights + kv_bytes(model, 1024 + 64) + SPARE_MEMORY
            row(f"{title}: peak memory of the process; weights, KV and 150 MB", f"{number(peak[1] * 1e-6)} MB",
                f"≤ {number(most * 1e-6)} MB", peak[1] <= most, "memory")
    for model, title in TITLES.items():
        peak = results.value("mlx_load_peak_bytes", model, 4, "mlxrt", 128) if model not in FIRST else None
        if peak:
            shape, weights = SHAPES[MODELS[model].shape], results.runs(model, 4, "mlxrt", 128)[0]["weight_bytes"]
            most = weights + max(embedding_bytes(shape), stacked_bytes(shape))
            process = results.value("cold_rss_bytes", model, 4, "mlxrt", 128)
            row(f"{title}: MLX's peak memory of the load; the weights and the largest tensor (the process's, {number(process[1] * 1e-6)} MB,"
                " has code, tokenizer and a short request with it)", f"{number(peak[1] * 1e-6)} MB", f"≤ {number(most * 1e-6)} MB",
                peak[1] <= most + 4096, "load memory")  # packed tensors begin at multiples of 64
    for model in FIRST:
        title = TITLES[model]
        load = best_of((run["load_s"] for prompt in (128, 1024) for run in results.runs(model, 4, "mlxrt", prompt)), most=False)
        read = results.read_file(model, 4, "folder")
        if load and read:
            row(f"{title}: load ({cell(load)} s) by reading the file ({cell(read)} s)", f"{load[0] / read[0]:.2g} ({load[1] / read[1]:.2g})",
                "≤ 1.5", load[0] / read[0] <= 1.5, "load")
    rows = results.data.get("rows")
    if rows:
        shares = ", ".join(f"{share:.2f}" for share in rows["by_one"][1:])
        row("Qwen3-0.6B: a step of 2, 4 and 8 rows by one of one row, at 128 tokens, best of 24", shares, "≤ 1.5",
            max(rows["by_one"]) <= 1.5, "rows")
    return lines


def kernels(runs):
    for run in runs:
        info = run.get("device_info")
        if isinstance(info, dict):
            return info.get("kernels", {})
    return {}


def day_lines(results, day, several):
    """When and on what, and how fast its memory was."""
    runs, threads = results.runs_of(day), results.threads
    loads = [run["load_average"] for run in runs]
    one, all_threads = results.bandwidth("1", day), results.bandwidth(threads, day)
    used = kernels(runs)
    features = used.get("features", [])
    of = f" Of it: {', '.join(TITLES[name] for name in results.models_of(day))}." if several else ""
    lines = [
        f"{day[0]}. {day[1]}; {threads} threads on each side. Load average beside the measurements: {min(loads)} to {max(loads)},"
        f" median {statistics.median(loads):.3g}.{of}",
        "",
        f"- mlxrt's kernels: {used.get('path')}; the CPU has {', '.join(features)}"
        + ("" if any("amx" in f for f in features) else "; **no AMX**, on neither side")
        + ".",
    ]
    for run in runs:
        if run["side"] == "llama.cpp":
            without = "; **without AMX** (`MLXRT_LLAMA_AMX=off`)" if "amx" in used.get("path", "") and "AMX" not in run["device_info"] else ""
            lines.append(f"- llama.cpp, llama-cpp-python {run['version']}: {run['device_info']}{without}.")
            break
    lines += [
        f"- Memory read at {number(one[0])} GB/s ({number(one[1])}) by one thread, {number(all_threads[0])}"
        f" ({number(all_threads[1])}) by {threads}, measured beside every process. The limit below is the highest but for a tenth,"
        f" {number(results.limit(day))} GB/s, by the bytes of all weights that a token reads; the median's is the median beside the same"
        " processes.",
        "",
    ]
    return lines


def markdown(results):
    data, days = results.data, results.days()
    lines = [
        "# mlxrt's CPU kernels beside llama.cpp",
        "",
        "Made by `make bench-cpu`; what is measured and how is in [README.md](README.md), all figures are in"
        " [results/cpu-kernels.json](results/cpu-kernels.json).",
        "",
        "**Best of N, because the machine is shared**, and in parentheses the median; the ratio is best by best, and median by"
        " median. Targets are judged by the best, peak memory by the median."
        " Where the load differs from process to process, so may the ratios: N is small.",
        "",
    ]
    goes = data["put_together_from"]
    if goes > 1:
        lines.append(
            f"**Put together from {goes} runs of the script**, one after another: both sides of a row were measured in turns, but"
            " not every process has its counterpart."
        )
    lines += ["Of llama.cpp only the rounds with its better way to wait are told (threads that sleep, or that spin).", ""]
    for day in days:
        lines += day_lines(results, day, len(days) > 1)
    lines += [
        "![rates](results/cpu-kernels.png)",
        "",
    ]
    for model, title in TITLES.items():
        runs = results.runs(model, 4, "mlxrt", 128) + results.runs(model, 4, "llama.cpp", 128)
        if not runs:
            continue
        count = [results.decode(model, 4, side, 128) for side in ("mlxrt", "llama.cpp")]
        weights = {run["side"]: run["weight_bytes"] for run in runs}
        sizes = ", ".join(f"{side} {number(size * 1e-6)} MB" for side, size in weights.items())
        times = ", ".join(f"{side} {c[2]}" for side, c in zip(("mlxrt", "llama.cpp"), count) if c)
        lines += [f"## {title}: {MODELS[model].packing}", "", f"Weights: {sizes}. N: {times}.", ""]
        lines += [*shape_table(results, model), ""]
    lines += ["## The other targets", "", *target_table(results), ""]
    return "\n".join(lines)


def chat(hybrids):
    """Of results/hybrids.json, the lines of its chat."""
    lines = [
        "## A chat of ten turns",
        "",
        "One session on Qwen3.5-0.8B's shape, a hybrid, the whole history given each time. Medians over the rounds.",
        "",
        "| turn | tokens of the prompt | reused | first token, ms |",
        "|---|---:|---:|---:|",
    ]
    names = {"again": "the last answer again", "edited": "the last turn edited", "fresh": "the same in a fresh session"}
    for turn in zip(*hybrids["chats"]):
        first = statistics.median(one["first_s"] for one in turn) * 1e3
        name = names.get(turn[0]["name"], turn[0]["name"])
        lines.append(f"| {name} | {turn[0]['prompt']} | {turn[0]['cached']} | {first:.0f} |")
    return lines


def plot(results, path):
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: no plot")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4))
    panels = (("decode after 128 tokens", results.decode, 128), ("prefill of 128 tokens", results.prefill, 128),
              ("prefill of 1,024 tokens", results.prefill, 1024))
    for axis, (title, get, prompt) in zip(axes, panels):
        models = [m for m in FIRST if get(m, 4, "mlxrt", prompt)]
        for offset, side in enumerate(("mlxrt", "llama.cpp")):
            bars = [(n, get(m, 4, side, prompt)) for n, m in enumerate(models)]
            bars = [(n, value) for n, value in bars if value]
            drawn = axis.bar([n + 0.38 * offset for n, _ in bars], [v[0] for _, v in bars], 0.36, label=side)
            axis.scatter([n + 0.38 * offset for n, _ in bars], [v[1] for _, v in bars], color="black", s=14, zorder=3,
                         label="median" if offset else None)
            axis.bar_label(drawn, [number(v[0]) for _, v in bars], fontsize=8)
        if prompt == 128 and get == results.decode:
            for n, m in enumerate(models):
                limit = results.limit(results.day(results.data["parts"][f"{m}/4/mlxrt/{prompt}"])) * 1e9 / results.runs(m, 4, "mlxrt", prompt)[0]["weight_bytes"]
                axis.hlines(limit, n - 0.2, n + 0.58, color="red", label="reading limit" if n == 0 else None)
        axis.set_xticks([n + 0.19 for n in range(len(models))], [TITLES[m] for m in models])
        axis.set_title(title)
        axis.set_ylabel("tok/s, best of N")
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(folder):
    results = Results(json.loads((folder / "results/cpu-kernels.json").read_text()))
    page = markdown(results)
    hybrids = folder / "results/hybrids.json"
    if hybrids.exists():
        hybrids = json.loads(hybrids.read_text())
        when = f"Of {hybrids['date']}, {hybrids['machine']['cpu']}, by `make bench-hybrids`; more of it is in [HYBRIDS.md](HYBRIDS.md)."
        title, *rest = chat(hybrids)
        page += "\n".join(["", title, "", when, *rest]) + "\n"
    (folder / "CPU.md").write_text(page)
    plot(results, folder / "results/cpu-kernels.png")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
