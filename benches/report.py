"""Writes RESULTS.md and a plot of each results/<device>.json.

    python3 report.py [FOLDER]
"""

import json
import sys
from pathlib import Path

# Of each measure: name, title, unit, what the ratio (mlxrt / mlx-lm) is to reach. None: told, without a target.
AT_LEAST, AT_MOST = "≥", "≤"
ROWS = [
    ("tokens.decode_tps", "decode, tokens only", "tok/s", (AT_LEAST, 1.0)),
    ("text.decode_tps", "decode, with text", "tok/s", (AT_LEAST, 1.0)),
    ("tokens.prefill_tps", "prefill (prompt / time to first token)", "tok/s", (AT_LEAST, 1.0)),
    ("text.prefill_tps", "prefill, with text", "tok/s", (AT_LEAST, 1.0)),
    ("tokens.first_token_s", "time to first token", "ms", None),
    ("load_s", "load", "ms", None),
    ("mlx_peak", "MLX's peak memory, one request", "MB", (AT_MOST, 1.0)),
    ("mlx_process_peak_bytes", "MLX's peak memory, whole process", "MB", (AT_MOST, 1.0)),
    ("peak_rss_bytes", "the process's peak memory", "MB", (AT_MOST, 0.5)),
    ("cold_rss_bytes", "the same after one short request", "MB", None),
    ("start_to_first_token_s", "process start to first token", "ms", (AT_MOST, 0.2)),
    ("start_to_prompt_s", "of it: until the prompt is taken in", "ms", None),
    ("cpu_s", "CPU time of the whole process", "ms", None),
    ("start_to_end_s", "process start to end", "ms", None),
    ("text.reported_decode_tps", "decode as each side reports it", "tok/s", None),
    ("text.reported_prefill_tps", "prefill as each side reports it", "tok/s", None),
]
SCALE = {"tok/s": 1.0, "ms": 1e3, "MB": 1e-6}


def rows(model):
    """The rows there are: (title, unit, measure, target)."""
    measures = dict(model["measures"])
    for mode in ("tokens", "text"):
        if f"{mode}.mlx_peak_bytes" in measures:
            measures.setdefault("mlx_peak", measures[f"{mode}.mlx_peak_bytes"])
    return [(title, unit, measures[name], target) for name, title, unit, target in ROWS if name in measures]


def reached(ratio, target):
    return ratio >= target[1] if target[0] == AT_LEAST else ratio <= target[1]


def verdict(measure, target):
    if target is None:
        return ""
    if reached(measure["ratio"], target):
        return "reached"
    # Some rounds reached it: the figures do not tell the sides apart from the target.
    near = any(reached(ratio, target) for ratio in measure["round_ratios"])
    return "**not reached**, in some rounds yes" if near else "**not reached**"


def number(value):
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def cell(summary, unit):
    low, middle, high = (number(summary[key] * SCALE[unit]) for key in ("min", "median", "max"))
    return f"{middle} ({low}–{high})"


def table(model):
    lines = ["| | mlxrt | mlx-lm | ratio | target | |", "|---|---:|---:|---:|---:|---|"]
    for title, unit, measure, target in rows(model):
        goal = f"{target[0]} {target[1]:g}" if target else ""
        ours, theirs = cell(measure["mlxrt"], unit), cell(measure["mlx-lm"], unit)
        low, high = min(measure["round_ratios"]), max(measure["round_ratios"])
        ratio = f"{measure['ratio']:.3g} ({low:.3g}–{high:.3g})"
        lines.append(f"| {title}, {unit} | {ours} | {theirs} | {ratio} | {goal} | {verdict(measure, target)} |")
    return lines


def section(result):
    machine = dict(result["machine"])
    where = machine.pop("gpu", None)
    what = ", ".join(filter(None, [where, machine.pop("cpu"), f"{machine.pop('cores')} cores",
                                   f"{machine.pop('memory_gib')} GiB", machine.pop("system")]))
    load = machine.pop("load_average_before")
    versions = ", ".join(f"{name} {version}" for name, version in machine.items())
    lines = [
        f"## On the {result['device'].upper()}", "",
        f"{result['date']}. {what}. mlxrt {result['versions']['mlxrt']}; {versions}. Load average before: {load[0]}.", "",
        f"![ratios](results/{result['device']}.png)", "",
    ]
    for model in result["models"].values():
        s = model["settings"]
        same = "Both sides gave the same tokens." if model["same_tokens"] else "The sides' tokens differ."
        lines += [
            f"### {model['title'][0].upper()}{model['title'][1:]}", "",
            f"Prompt {s['prompt']} tokens, answer {s['decode']}; {s['rounds']} fresh process(es) a side with {s['repeats']}"
            f" request(s) of each mode, after one cold request of {s['cold_prompt']} + {s['cold_decode']} tokens. {same}", "",
            *table(model), "",
        ]
    return lines


def plot(result, path):
    try:
        import matplotlib
    except ImportError:
        print("no plot: this Python has no matplotlib")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = list(result["models"].values())
    wanted = [[row for row in rows(model) if row[3]] for model in models]
    figure, axes = plt.subplots(
        len(models), 1, figsize=(9, 0.6 + sum(0.75 + 0.36 * len(w) for w in wanted)), squeeze=False,
        gridspec_kw={"height_ratios": [len(w) + 1 for w in wanted]}, layout="constrained",
    )
    for axis, model, bars in zip(axes[:, 0], models, wanted):
        bars = bars[::-1]
        ratios = [measure["ratio"] for _, _, measure, _ in bars]
        colours = ["#2a7f62" if reached(ratio, bar[3]) else "#c0504d" for ratio, bar in zip(ratios, bars)]
        axis.set_xscale("log")
        axis.barh(range(len(bars)), [ratio - 1 for ratio in ratios], left=1, color=colours, height=0.62)
        ends = [1, *ratios, *(bar[3][1] for bar in bars)]
        for y, (ratio, bar) in enumerate(zip(ratios, bars)):
            sign, goal = bar[3]
            axis.plot([goal, goal], [y - 0.42, y + 0.42], color="black", linewidth=2)
            axis.text(max(ratio, goal, 1) * 1.03, y, f"{ratio:.2f}   ({sign} {goal:g})", va="center", fontsize=8)
        axis.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=8)
        axis.set_xlim(min(ends) / 1.2, max(ends) * (max(ends) / min(ends)) ** 0.25)
        axis.tick_params(axis="x", labelsize=8)
        axis.set_title(model["title"], fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("mlxrt / mlx-lm; the black mark is the target (≥ for rates, ≤ for memory and time)", fontsize=8)
    figure.savefig(path, dpi=130)


def write(folder):
    lines = [
        "# mlxrt beside mlx-lm", "",
        "Made by `make bench`; what is measured and how is in [README.md](README.md), all figures are in `results/`.",
        "Medians, in parentheses the smallest and the largest; the ratio is mlxrt's median by mlx-lm's, in parentheses the",
        "smallest and the largest of the single rounds.", "",
    ]
    for device in ("cpu", "gpu"):
        file = folder / f"results/{device}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        lines += section(result)
        plot(result, file.with_suffix(".png"))
    (folder / "RESULTS.md").write_text("\n".join(lines))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
