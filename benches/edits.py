"""What guesses from the text bring where text is edited: rates with and without, in turns, of one run.

Run by edits.sh. The model says given texts word for word (recite.py): code, JSON and prose out of the prompt, with edits. So what is
guessed, and how often it is right, is what real edits give, and the times are those of a model of 0.6 billion parameters.
"""

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path

from drafts import cpu

CODE = '''class Inventory:
    def __init__(self, path):
        self.path = path
        self.items = {}
        self.changed = False

    def load(self):
        with open(self.path) as file:
            for line in file:
                name, count, price = line.strip().split(",")
                self.items[name] = (int(count), float(price))

    def save(self):
        if not self.changed:
            return
        with open(self.path, "w") as file:
            for name, (count, price) in self.items.items():
                file.write(f"{name},{count},{price}\\n")
        self.changed = False

    def add(self, name, count, price):
        if name in self.items:
            before, _ = self.items[name]
            count += before
        self.items[name] = (count, price)
        self.changed = True

    def remove(self, name, count):
        before, price = self.items[name]
        if before < count:
            raise ValueError(f"only {before} of {name}")
        self.changed = True
        self.items[name] = (before - count, price)

    def total(self):
        return sum(count * price for count, price in self.items.values())
'''
EDITED_CODE = (
    CODE.replace("self.items", "self.stock")
    .replace("class Inventory:\n", 'class Inventory:\n    """What a shop has, kept in a file of its own."""\n\n')
    .replace("        with open(self.path) as file:", "        if not os.path.exists(self.path):\n            return\n        with open(self.path) as file:")
    .replace("raise ValueError(", "raise NotEnough(")
)
RECORDS = [
    ("Mara Lindqvist", "Uppsala", 34, True, 1290.5), ("Tomas Okafor", "Leeds", 51, False, 80.0), ("Ines Caldeira", "Porto", 27, True, 415.25),
    ("Yusuf Demir", "Izmir", 45, True, 2210.0), ("Greta Holm", "Aarhus", 62, False, 0.0), ("Pavel Novotny", "Brno", 38, True, 640.75),
    ("Aoife Brennan", "Galway", 29, False, 119.0), ("Kenji Watanabe", "Sapporo", 57, True, 3050.0),
]


def records(all_of):
    return "[\n" + ",\n".join(json.dumps(record) for record in all_of) + "\n]"


JSON = records(dict(zip(("name", "city", "age", "active", "balance"), record)) for record in RECORDS)
# A key has another name, a record is gone, and all have an id.
EDITED_JSON = records(
    {"id": 101 + n, "name": name, "town": city, "age": age, "active": active, "balance": balance}
    for n, (name, city, age, active, balance) in enumerate(RECORDS) if name != "Greta Holm"
)
PROSE = (
    "The harbour of the town was build in the last century, when the fishing boats had became too many for the old pier. Each morning "
    "the boats goes out before the sun rises, and each evening they come back with there nets full of herring. The women of the town waits on "
    "the quay with baskets, and the childrens run between them and count the fish. In winter the harbour freezes, and nobody goes out. Then the "
    "fishermen repair the nets in the long shed behind the church, drink tea, and tell each other about the storms of there fathers. A visitor "
    "who come in that season finds the inn closed, the shops half empty, and the people friendlier then in the summer, since they have more time."
)
EDITED_PROSE = PROSE
for wrong, right in (
    ("was build", "was built"), ("had became", "had become"), ("boats goes", "boats go"), ("with there nets", "with their nets"),
    ("town waits", "town wait"), ("childrens", "children"), ("of there fathers", "of their fathers"), ("who come", "who comes"), ("friendlier then", "friendlier than"),
):
    assert wrong in EDITED_PROSE
    EDITED_PROSE = EDITED_PROSE.replace(wrong, right)
# Nothing of it stood before.
OWN = (
    "Slowly, a grey heron lifts one foot out of cold water, looks left, waits, then puts it down where no frog would expect that. Patience is "
    "its whole art: every pond teaches it anew, while hurried ducks paddle past, quarrel over bread, and never learn why somebody so thin eats so well."
)
TEXTS = {
    "code, a name changed in twelve lines and four lines added": (
        f"Call the attribute stock, add a docstring, do not fail without a file, and raise NotEnough. Give the whole class.\n\n{CODE}", EDITED_CODE),
    "JSON, a key renamed, one added, a record gone": (
        f"Rename city to town, give ids from 101 on, and leave out Greta Holm. Give all of the JSON.\n\n{JSON}", EDITED_JSON),
    "prose, nine mistakes put right": (f"Correct the mistakes in this text, and change nothing else.\n\n{PROSE}", EDITED_PROSE),
    "prose of its own": ("Write some lines about a bird.", OWN),
}


def run(args, prompt, options):
    command = [args.mlxrt, "generate", args.model, prompt, "--json", "--threads", str(args.threads), *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
    events = [json.loads(line) for line in output.splitlines()]
    return {**events[-1], "text": "".join(event["text"] for event in events if event["event"] == "text")}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--texts", metavar="FILE", help="only write what the model is to say")
    p.add_argument("--mlxrt", help="the command line")
    p.add_argument("--model")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--write", metavar="FILE", help="write the table there, too")
    args = p.parse_args()
    if args.texts:
        Path(args.texts).write_text(json.dumps([{"prompt": prompt, "answer": answer} for prompt, answer in TEXTS.values()]))
        return
    lines = [
        "# Guesses where text is edited",
        "",
        f"By `make bench-edits`: {cpu()}, {args.threads} threads, medians of {args.rounds} rounds in turns, greedy, in 4 bits. The model has the shape of "
        "Qwen3-0.6B and says given texts word for word (`recite.py`): the prompt's own text, with the edits that the prompt asks for. Nothing else is "
        "asked of the library than of any model. An own text, of which nothing stood before, shows what guesses cost.",
        "",
        "| the answer | tokens | tok/s without | tok/s with guesses | times | of guesses right |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    loads = []
    for name, (prompt, answer) in TEXTS.items():
        rates = {"off": [], "on": []}
        for _ in range(args.rounds):
            for way, options in (("off", ["--draft-tokens", "0"]), ("on", [])):
                result = run(args, prompt, options)
                assert result["text"] == answer, f"{name}, guesses {way}: {result['text']}"
                loads.append(os.getloadavg()[0])
                rates[way].append((result["generated_tokens"] - 1) / result["decode_ns"] * 1e9)
        times = statistics.median(on / off for on, off in zip(rates["on"], rates["off"]))
        right = f"{result['accepted'] / result['drafted']:.0%} of {result['drafted']}" if result["drafted"] else "none"
        off, on = (statistics.median(rates[way]) for way in ("off", "on"))
        lines.append(f"| {name} | {result['generated_tokens']} | {off:.1f} | {on:.1f} | {times:.2f} | {right} |")
    lines += ["", f"Load average meanwhile: {min(loads):.1f} to {max(loads):.1f}. Beside others rates are lower, and the last row shows how far a ratio may be off."]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.write:
        Path(args.write).write_text(text)


if __name__ == "__main__":
    main()
