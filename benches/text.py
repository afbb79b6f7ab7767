"""Templates, streaming and tokenising beside minijinja, jinja2 and the tokenizers crate; see README.md in this folder.

    make bench-text
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import bench
from report import number

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CLOCK = datetime.datetime(2025, 7, 1, 12)
AT_LEAST_MINIJINJA, AT_LEAST_JINJA2, MAX_CHAT_MS, MAX_TOKEN_NS, AT_LEAST_CRATE = 1.0, 20.0, 20.0, 1000.0, 1.0


def environment():
    """jinja2 as transformers sets it up in `utils/chat_template_utils.py`."""
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("support"), [], [], body).set_lineno(line)

        def support(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = CLOCK.strftime
    return env


class Jinja2:
    """The same conversations as the program's, one round at a time."""

    def __init__(self, data):
        inputs = json.loads((data / "renders/_inputs.json").read_text())
        self.variables = {**inputs["vars"], "add_generation_prompt": True}
        self.cases = inputs["cases"]
        self.sources = {path.stem: path.read_text() for path in sorted((data / "templates").glob("*.jinja"))}
        self.expected = {name: json.loads((data / f"renders/{name}.json").read_text()) for name in self.sources}
        self.environment = environment()

    def render(self, source, case):
        """Seconds of parse and of render, and the text."""
        start = time.thread_time()
        template = self.environment.from_string(source)
        parsed = time.thread_time()
        text = template.render(**self.variables, **case)
        return parsed - start, time.thread_time() - parsed, text

    def published(self, wanted):
        """Of one round: name -> (seconds of parse, of render), and what came out otherwise than expected."""
        out, wrong = {}, []
        for name, cases in wanted.items():
            parse = render = 0.0
            for case in cases:
                a, b, text = self.render(self.sources[name], self.cases[case])
                parse, render = parse + a, render + b
                if text != self.expected[name][case]["text"]:
                    wrong.append(f"jinja2, {name}, {case}")
            out[name] = (parse, render)
        return out, wrong

    def long_chat(self, case, names):
        return {name: self.render(self.sources[name], case)[1] for name in names}



def ratios(theirs, ours):
    """The median of the rounds' ratios, and the smallest and the largest."""
    each = [t / o for t, o in zip(theirs, ours)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def summary(seconds):
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def templates(runs, jinja2_rounds):
    """Sums over all templates, round by round, and each template's ratio."""
    per_round = len(next(iter(runs[0]["templates"].values()))["mlxrt"]["parse_s"])
    out = {"wrong": [f"{name}: {wrong}" for name, entry in runs[0]["templates"].items() for wrong in entry["wrong"]]}
    names = list(runs[0]["templates"])
    out["templates"], out["renders"] = len(names), sum(len(runs[0]["templates"][name]["cases"]) for name in names)

    def series(side, what, chosen):
        """One figure a round: the sum over the chosen templates."""
        return [
            sum(sum(run["templates"][name][side][key][i] for key in what) for name in chosen)
            for run in runs for i in range(per_round)
        ]

    def against_jinja2(what, chosen):
        """One figure a run: jinja2's round by the median of the program's."""
        theirs = [sum(sum(r[name][{"parse_s": 0, "render_s": 1}[key]] for key in what) for name in chosen) for r in jinja2_rounds]
        ours = series("mlxrt", what, chosen)
        medians = [statistics.median(ours[i * per_round:(i + 1) * per_round]) for i in range(len(runs))]
        return theirs, ratios(theirs, medians)

    for title, what in (("parse_render", ("parse_s", "render_s")), ("parse", ("parse_s",)), ("render", ("render_s",))):
        ours, minijinja = series("mlxrt", what, names), series("minijinja", what, names)
        theirs, by_jinja2 = against_jinja2(what, names)
        out[title] = {
            "mlxrt_s": summary(ours), "minijinja_s": summary(minijinja), "jinja2_s": summary(theirs),
            "minijinja": ratios(minijinja, ours), "jinja2": by_jinja2,
        }
    both = ("parse_s", "render_s")
    out["each"] = {
        name: {
            "mlxrt_us": statistics.median(series("mlxrt", both, [name])) * 1e6,
            "minijinja": ratios(series("minijinja", both, [name]), series("mlxrt", both, [name]))["median"],
            "jinja2": against_jinja2(both, [name])[1]["median"],
        }
        for name in names if runs[0]["templates"][name]["cases"]
    }
    return out


def long_chat(runs, jinja2_rounds):
    out = {}
    for name in runs[0]["long_chat"]["templates"]:
        entries = [run["long_chat"]["templates"][name] for run in runs]

        def series(side, key):
            return [seconds for entry in entries for seconds in entry[side][key]]

        ours, minijinja = series("mlxrt", "render_s"), series("minijinja", "render_s")
        out[name] = {
            "same": all(entry["same"] for entry in entries), "bytes": entries[0]["bytes"],
            "mlxrt_s": summary(ours), "minijinja_s": summary(minijinja), "minijinja": ratios(minijinja, ours),
            "read_messages_s": summary([s for entry in entries for s in entry["read_messages_s"]]),
            "jinja2_s": summary([r[name] for r in jinja2_rounds]),
        }
    return out


def tokenizers(runs):
    out = {}
    for name, first in runs[0]["tokenizers"].items():
        entries = [run["tokenizers"][name] for run in runs]

        def series(*keys):
            found = []
            for entry in entries:
                for key in keys:
                    entry = entry[key]
                found += entry
            return found

        per_token = 1e9 / first["tokens"]
        ours, prompt = series("encode", "mlxrt_s"), series("encode_prompt", "mlxrt_s")
        out[name] = {
            "bytes": first["bytes"], "tokens": first["tokens"], "same_ids": first["same_ids"], "same_text": first["same_text"],
            "encode_s": summary(ours),
            "crate_fast_s": summary(series("encode", "crate_fast_s")),
            "crate_s": summary(series("encode", "crate_s")),
            "crate_fast": ratios(series("encode", "crate_fast_s"), ours),
            "crate": ratios(series("encode", "crate_s"), ours),
            "prompt_s": summary(prompt),
            "prompt_crate_fast": ratios(series("encode_prompt", "crate_fast_s"), prompt),
            "stream_ns": summary([s * per_token for s in series("stream_s")]),
            "detokenize_ns": summary([s * per_token for s in series("detokenize_s")]),
        }
    return out


def spread(summary_, scale=1.0):
    return f"{number(summary_['median'] * scale)} ({number(summary_['min'] * scale)}–{number(summary_['max'] * scale)})"


def verdict(value, least=None, most=None):
    return "reached" if (least is None or value >= least) and (most is None or value < most) else "**not reached**"


def at_least(ratio, least):
    """Reached by the median; where that misses but some rounds do not, the figures do not tell."""
    said = verdict(ratio["median"], least=least)
    return said if said == "reached" or ratio["max"] < least else said + ", in some rounds yes"


def rounded(value):
    return f"{value:.3g}x"


def table(result):
    t, machine = result["templates"], dict(result["machine"])
    what = ", ".join([machine["cpu"], f"{machine['cores']} cores", machine["system"]])
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# The text layer beside its peers", "",
        "Made by `make bench-text`; what is measured and how is in [README.md](README.md), the figures are in `results/text.json`.",
        "CPU time. Medians, in parentheses the smallest and the largest of the rounds; a ratio is the peer's time by mlxrt's in the same",
        "round.", "",
        f"{result['date']}. {what}. {versions}. Load average before: {machine['load_average_before'][0]}.", "",
        "## Templates", "",
        f"{t['renders']} renders of {t['templates']} published templates: those that transformers renders without an error. "
        + ("All three engines print what transformers prints, in all of them." if not t["wrong"]
           else "Otherwise than transformers: " + "; ".join(t["wrong"]) + "."), "",
        "| | mlxrt, ms | minijinja, ms | jinja2, ms | minijinja by mlxrt | target | | jinja2 by mlxrt | target | |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|---|",
    ]
    for key, title in (("parse_render", "parse and render"), ("parse", "of it: parse"), ("render", "of it: render")):
        e, aim = t[key], key == "parse_render"
        lines.append(
            f"| {title} | {spread(e['mlxrt_s'], 1e3)} | {spread(e['minijinja_s'], 1e3)} | {spread(e['jinja2_s'], 1e3)}"
            f" | {spread(e['minijinja'])} | {'≥ 1.0' if aim else ''} | {at_least(e['minijinja'], AT_LEAST_MINIJINJA) if aim else ''}"
            f" | {spread(e['jinja2'])} | {'≥ 20' if aim else ''} | {at_least(e['jinja2'], AT_LEAST_JINJA2) if aim else ''} |"
        )
    each = t["each"]
    for peer, least in (("minijinja", AT_LEAST_MINIJINJA), ("jinja2", AT_LEAST_JINJA2)):
        below = sorted((e[peer], name) for name, e in each.items() if e[peer] < least)
        mean = math.exp(statistics.mean(math.log(e[peer]) for e in each.values()))
        lines += ["", f"Per template, {peer} by mlxrt: {rounded(min(e[peer] for e in each.values()))} to "
                  f"{rounded(max(e[peer] for e in each.values()))}, geometric mean {rounded(mean)}; below {least:g}: {len(below)} of {len(each)}"
                  + (", lowest " + ", ".join(f"{name} {rounded(ratio)}" for ratio, name in below[:5]) if below else "") + "."]
    lines += [
        "", "## A conversation of 1,000 messages", "",
        "| template | mlxrt, ms | target | | minijinja, ms | jinja2, ms | minijinja by mlxrt | reading the messages' JSON, ms | KB |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for name, e in result["long_chat"].items():
        ms = e["mlxrt_s"]["median"] * 1e3
        note = "" if e["same"] else " (texts differ)"
        lines.append(
            f"| {name}{note} | {spread(e['mlxrt_s'], 1e3)} | < 20 | {verdict(ms, most=MAX_CHAT_MS)} | {spread(e['minijinja_s'], 1e3)}"
            f" | {spread(e['jinja2_s'], 1e3)} | {spread(e['minijinja'])} | {spread(e['read_messages_s'], 1e3)} | {e['bytes'] / 1e3:.0f} |"
        )
    lines += [
        "", "## Tokens to text, one at a time", "",
        "| tokenizer | stream, ns a token | target | | `detokenize`, ns a token |", "|---|---:|---:|---|---:|",
    ]
    for name, e in result["tokenizers"].items():
        lines.append(f"| {name} | {spread(e['stream_ns'])} | < 1000 | {verdict(e['stream_ns']['median'], most=MAX_TOKEN_NS)}"
                     f" | {spread(e['detokenize_ns'])} |")
    lines += [
        "", "## Text to tokens, 100 KB", "",
        "| tokenizer | mlxrt, ms | `encode_fast` by mlxrt | target | | `encode` by mlxrt | prompt of pieces, ms | `encode_fast` by it |",
        "|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    for name, e in result["tokenizers"].items():
        note = "" if e["same_ids"] else " (ids differ)"
        lines.append(
            f"| {name}{note} | {spread(e['encode_s'], 1e3)} | {spread(e['crate_fast'])} | ≥ 1.0 | {at_least(e['crate_fast'], AT_LEAST_CRATE)}"
            f" | {spread(e['crate'])} | {spread(e['prompt_s'], 1e3)} | {spread(e['prompt_crate_fast'])} |"
        )
    return "\n".join(lines) + "\n"


def locked(package):
    """Its version in the program's Cargo.lock."""
    lines = (HERE / "text/Cargo.lock").read_text().splitlines()
    return lines[lines.index(f'name = "{package}"') + 1].split('"')[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program of benches/text, built")
    parser.add_argument("--runs", type=int, default=3, help="turns of the program and jinja2")
    parser.add_argument("--rounds", type=int, default=9, help="of each turn of the program")
    parser.add_argument("--out", type=Path, default=HERE, help="where results/ and TEXT.md go")
    args = parser.parse_args()

    data = Path(os.environ.get("MLXRT_SHARED", ROOT / "../shared")) / "data"
    if not data.is_dir():
        print(f"skipped: the text benchmark needs the published templates and tokenizers, and there is no {data}")
        return
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": bench.machine("cpu"),
        "versions": {"minijinja": locked("minijinja"), "tokenizers crate": locked("tokenizers"),
                     "jinja2": importlib.metadata.version("jinja2"), "Python": sys.version.split()[0]},
    }
    peer = Jinja2(data)
    runs, rounds, chats, wrong = [], [], [], set()
    for index in range(args.runs):
        print(f"turn {index + 1} of {args.runs}", file=sys.stderr, flush=True)
        output = subprocess.run([args.bench, data, ROOT, str(args.rounds)], check=True, stdout=subprocess.PIPE).stdout
        runs.append(json.loads(output))
        seconds, otherwise = peer.published({name: entry["cases"] for name, entry in runs[0]["templates"].items()})
        rounds.append(seconds)
        wrong.update(otherwise)
        chats.append(peer.long_chat(runs[0]["long_chat"]["case"], runs[0]["long_chat"]["templates"]))
    result["templates"] = templates(runs, rounds)
    result["templates"]["wrong"] += sorted(wrong)
    result["long_chat"] = long_chat(runs, chats)
    result["tokenizers"] = tokenizers(runs)
    (args.out / "results").mkdir(parents=True, exist_ok=True)
    (args.out / "results/text.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    text = table(result)
    (args.out / "TEXT.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
