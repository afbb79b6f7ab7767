"""Writes MANY.md and the plot from results/many.json.

    python3 many_report.py [FOLDER]
"""

import json
import statistics
import sys
from pathlib import Path

from cpu_report import best_of, ratio
from report import number

TITLES = {"mlxrt": "mlxrt", "before": "mlxrt, before", "llama.cpp": "llama.cpp", "mlx-lm": "mlx-lm"}
COUNTS = (1, 2, 4, 8, 16)


class Results:
    def __init__(self, data):
        self.data = data

    def processes(self, side, sessions, load="plain"):
        """Of llama.cpp, those of the better way to wait for its threads."""
        part = self.data["parts"].get(f"{side}/{sessions}/{load}")
        done = [run for run in part["runs"] if run] if part else []
        ways = {}
        for run in done:
            ways.setdefault(run["wait_policy"], []).append(run)
        if side != "llama.cpp" or len(ways) < 2:
            return done
        return max(ways.values(), key=lambda runs: statistics.median(r["rate"] for run in runs for r in run["runs"]))

    def took_too_long(self, *key):
        part = self.data["parts"].get("{}/{}/{}".format(*(*key, "plain")[:3]))
        return bool(part) and None in part["runs"]

    def runs(self, *key):
        return [r for run in self.processes(*key) for r in run["runs"]]

    def value(self, name, *key, most=True, scale=1.0):
        return best_of((r[name] * scale for r in self.runs(*key)), most)

    def sides(self):
        there = {part["side"] for part in self.data["parts"].values()}
        return [side for side in TITLES if side in there]


def cell(value):
    return f"{number(value[0])} ({number(value[1])})" if value else ""


def share(both):
    return f"{number(both[0])} ({number(both[1])})" if both else ""


def rates(results):
    sides = results.sides()
    heads = [f"{TITLES[side]}, tok/s" for side in sides]
    against = [side for side in sides if side not in ("mlxrt", "mlx-lm")]
    heads += [f"mlxrt by {TITLES[side].removeprefix('mlxrt, ')}" for side in against] + ["mlxrt by one session of it", "tokens a pass"]
    lines = ["| sessions | " + " | ".join(heads) + " |", "|---:|" + "---:|" * len(heads)]
    alone = results.value("rate", "mlxrt", 1)
    for sessions in COUNTS:
        ours = results.value("rate", "mlxrt", sessions)
        row = []
        for side in sides:
            slow = results.took_too_long(side, sessions)
            row.append("not done" if slow else cell(results.value("rate", side, sessions)))
        row += [share(ratio(ours, results.value("rate", side, sessions))) for side in against]
        runs = results.runs("mlxrt", sessions)
        passes = sum(r["passes"] for r in runs)
        row += [share(ratio(ours, alone)), number(sum(r["pass_rows"] for r in runs) / passes) if passes else ""]
        lines.append(f"| {sessions} | " + " | ".join(row) + " |")
    return lines


def gap_cells(results, *key):
    """Median, 99th percentile, and the second by the first."""
    runs = results.runs(*key)
    if not runs:
        return ["", "", ""]
    middle, late = ([1e3 * r[name] for r in runs] for name in ("gap_median_s", "gap_p99_s"))
    quotient = statistics.median(b / a for a, b in zip(middle, late))
    return [number(statistics.median(middle)), number(statistics.median(late)), number(quotient)]


def gaps(results):
    sides = [side for side in results.sides() if side != "mlx-lm"]
    heads = [f"{TITLES[side]}: median | p99 | p99 by median" for side in sides]
    lines = ["| sessions | " + " | ".join(heads) + " |", "|---:|" + "---:|" * 3 * len(sides)]
    for sessions in COUNTS:
        cells = [text for side in sides for text in gap_cells(results, side, sessions)]
        lines.append(f"| {sessions} | " + " | ".join(cells) + " |")
    return lines


def arrivals(results):
    lines = ["| | tok/s | prompts/s | gap, ms: median | p99 | p99 by median | most |", "|---|---:|---:|---:|---:|---:|---:|"]
    for side in results.sides():
        runs = results.runs(side, 8, "arrivals")
        if runs:
            cells = [cell(results.value("rate", side, 8, "arrivals")), cell(results.value("arrived_rate", side, 8, "arrivals"))]
            cells += gap_cells(results, side, 8, "arrivals")
            cells.append(number(statistics.median(1e3 * r["gap_max_s"] for r in runs)))
            lines.append(f"| {TITLES[side]} | " + " | ".join(cells) + " |")
    return lines


def adapters(results):
    lines = ["| | tok/s | by none |", "|---|---:|---:|"]
    for side in ("mlxrt", "before"):
        none = results.value("rate", side, 8)
        for load, title in (("plain", "none"), ("one adapter", "one, of all"), ("an adapter each", "eight, one of each")):
            value = results.value("rate", side, 8, load)
            if value:
                lines.append(f"| {TITLES[side]}: {title} | {cell(value)} | {share(ratio(value, none))} |")
    return lines


def of_before(results):
    runs = results.runs("before", 8)
    if not runs:
        return ""
    shares = any(r["passes"] for r in runs)
    return " *Before* is an older library" + ("." if shares else ", in which sessions took turns and shared no pass.")


def busy(loads, threads):
    """What to make of figures that were measured beside other work."""
    if statistics.median(loads) <= 1.5 * threads:
        return []
    return [
        "**The machine had other work all the time**: each side had about the part of it that the load says, so rates are below what a"
        " quiet machine gives, and one row's sides, measured in turns, say more than its numbers.",
        "",
    ]


def markdown(results):
    data, machine = results.data, results.data["machine"]
    loads = [run["load_average"] for part in data["parts"].values() for run in part["runs"] if run]
    sizes = data["parts"]["mlxrt/8/plain"]["sizes"]
    counts = [len(part["runs"]) for part in data["parts"].values() if part["side"] != "mlx-lm"]
    lines = [
        "# Many sessions at once",
        "",
        "Made by `make bench-many`; what is measured and how is in [README.md](README.md#many-sessions), all figures are in"
        " [results/many.json](results/many.json). **Best of N, and in parentheses the median**; ratios are best by best, and median by"
        " median. Gaps are medians of the processes.",
        "",
        f"{data['date']}. {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']};"
        f" {data['threads']} threads on each side. Load average beside the measurements: {min(loads)} to {max(loads)}, median"
        f" {statistics.median(loads):.3g}. N: {min(counts)} to {max(counts)} processes.",
        "",
        f"Qwen3-0.6B's shape, 4 bits in groups of 64 beside Q4_0; prompts of {sizes['prompt']} tokens that differ,"
        f" {sizes['decode']} tokens of answer." + of_before(results),
        "",
        *busy(loads, data["threads"]),
        "![rates and gaps](results/many.png)",
        "",
        "## All sessions together",
        "",
        *rates(results),
    ]
    slow = data["parts"].get("mlx-lm/8/plain")
    if slow:
        lines += ["", f"mlx-lm's are of {slow['sizes']['prompt']} tokens of prompt and {slow['sizes']['decode']} of answer."]
    lines += ["", "## Between two tokens of a session, ms", "", *gaps(results), ""]
    if results.runs("mlxrt", 8, "arrivals"):
        lines += ["## Eight sessions while two others take in one prompt of 1,000 tokens after the other", "", *arrivals(results), ""]
    if results.runs("mlxrt", 8, "one adapter"):
        lines += ["## Eight sessions with adapters of rank 16 on all projections", "", *adapters(results), ""]
    return "\n".join(lines)


def plot(results, path):
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: no plot")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for side in results.sides():
        there = [n for n in COUNTS if results.runs(side, n)]
        if side != "mlx-lm":
            middle, late = ([statistics.median(1e3 * r[name] for r in results.runs(side, n)) for n in there] for name in ("gap_median_s", "gap_p99_s"))
            drawn = axes[1].plot(there, middle, marker="o", label=f"{TITLES[side]}: median")
            axes[1].plot(there, late, marker="o", linestyle="dotted", color=drawn[0].get_color(), label="99th percentile")
        axes[0].plot(there, [results.value("rate", side, n)[0] for n in there], marker="o", label=TITLES[side])
    for axis, title, unit in ((axes[0], "all sessions together", "tok/s, best of N"), (axes[1], "between two tokens of a session", "ms")):
        axis.set_xscale("log", base=2)
        axis.set_xticks(COUNTS, [str(n) for n in COUNTS])
        axis.set_ylim(bottom=0)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("sessions")
        axis.set_ylabel(unit)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(folder):
    results = Results(json.loads((folder / "results/many.json").read_text()))
    (folder / "MANY.md").write_text(markdown(results))
    plot(results, folder / "results/many.png")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
