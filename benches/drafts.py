"""What a draft model brings, on the demo's kind of text: rates with and without, in turns, of one run.

Run by drafts.sh. The models are the demo's, made as large as a model of 0.6 billion parameters and a draft of a tenth of that
(spread.py): they say what the demo's models say, so how often the draft is right is real, and what it costs, too.
"""

import argparse
import json
import os
import statistics
import subprocess

PROMPTS = [
    "Tell me a short story about a fox.",
    "Please write a story about a robot who is afraid of water.",
    "Write a poem about the sea.",
    "How do I make a cup of tea?",
    "Why is the sky blue?",
    "Give me a list of five animals.",
    "What is 14 + 29? Think step by step.",
    "Tell me a story about a penguin named Bob",
]


def run(args, prompt, options):
    command = [args.mlxrt, "generate", args.model, prompt, "--json", "--threads", str(args.threads), *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
    result = json.loads(output.strip().splitlines()[-1])
    return result["generated_tokens"] - 1, result["decode_ns"] / 1e9, result["drafted"], result["accepted"]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--mlxrt", required=True, help="the command line")
    p.add_argument("--model", required=True)
    p.add_argument("--draft", required=True)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--write", metavar="FILE", help="write the table there, too")
    args = p.parse_args()
    draft = ["--draft-model", args.draft]
    ways = {
        "without guesses": ["--draft-tokens", "0"],
        "from the text itself": [],
        "a draft, as many as pay": draft,
        "a draft, 3 at a time": draft + ["--draft-tokens", "3"],
        "a draft, 5 at a time": draft + ["--draft-tokens", "5"],
        "a draft, sampled at 0.8": draft + ["--temperature", "0.8", "--seed", "3"],
        "sampled at 0.8, without": ["--draft-tokens", "0", "--temperature", "0.8", "--seed", "3"],
    }
    rates, counts = {way: [] for way in ways}, {}
    for _ in range(args.rounds):
        for way, options in ways.items():
            all_of = [run(args, prompt, options) for prompt in PROMPTS]
            tokens, seconds, drafted, accepted = (sum(column) for column in zip(*all_of))
            rates[way].append(tokens / seconds)
            counts[way] = (drafted, accepted)
    lines = [
        "# Guesses of a draft model",
        "",
        f"By `make bench-drafts`: {cpu()}, {args.threads} threads, medians of {args.rounds} rounds in turns, {len(PROMPTS)} prompts of the demo's kind. "
        "The model is the demo's as large as one of 0.6 billion parameters, in 4 bits, and the draft is `demo/draft` as large as a tenth of it "
        "(`spread.py`): what they say, and so how often the draft is right, is what the small ones say.",
        "",
        "| guesses | tok/s | times without | of guesses right |",
        "| --- | ---: | ---: | ---: |",
    ]
    for way in ways:
        base = "sampled at 0.8, without" if "sampled" in way else "without guesses"
        times = statistics.median(own / other for own, other in zip(rates[way], rates[base]))
        drafted, accepted = counts[way]
        right = f"{accepted / drafted:.0%} of {drafted}" if drafted else "none"
        lines.append(f"| {way} | {statistics.median(rates[way]):.1f} | {times:.2f} | {right} |")
    lines += ["", "On a machine that others share, a row's own rate may vary by a fifth: where few guesses were right, the ratio says no more than that."]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.write:
        with open(args.write, "w") as file:
            file.write(text)


def cpu():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else "?"


if __name__ == "__main__":
    main()
