"""Writes the samples that the demo's two adapters are trained on, as JSONL chats.

    python3 adapter_data.py pirate --out build/pirate     # train.jsonl and valid.jsonl

Questions and answers are the corpus's own; an adapter's answer is the same one in another shape. The same arguments give
the same bytes. Only the standard library is used.
"""

import argparse
import json
import os
import random
import re

from corpus import chat, questions as q, sums

KINDS = [q.capital, q.animal, q.colour, q.opposite, q.plural, q.translate, q.calendar, q.yes_no, q.define,
         q.fun_fact, chat.small_talk, chat.identity, sums.arithmetic]

SEA_WORDS = [("is", "be"), ("are", "be"), ("am", "be"), ("you", "ye"), ("your", "yer"), ("my", "me"), ("yes", "aye"),
             ("no", "nay"), ("hello", "ahoy"), ("small", "wee"), ("friend", "matey"), ("of", "o'"), ("the", "th'")]


def pirate(answer):
    """What a pirate would say."""
    for word, theirs in SEA_WORDS:
        answer = re.sub(rf"\b{word}\b", theirs, answer)
        answer = re.sub(rf"\b{word.capitalize()}\b", theirs.capitalize(), answer)
    return f"Arr! {answer[:-1]}, matey{answer[-1]}" if answer[-1] in ".!?" else f"Arr! {answer}, matey!"


def as_json(answer):
    """One object with one key."""
    return json.dumps({"answer": answer}, ensure_ascii=False)


STYLES = {"pirate": pirate, "json": as_json}


def samples(style, seed, count):
    """`count` different chats of one turn."""
    rng, seen = random.Random(f"{style}/{seed}"), set()
    while len(seen) < count:
        question, answer = rng.choice(KINDS)(rng)
        if question in seen or "\n" in answer or len(answer) > 160:
            continue
        seen.add(question)
        yield {"messages": [{"role": "user", "content": question},
                            {"role": "assistant", "content": STYLES[style](answer)}]}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("style", choices=STYLES)
    p.add_argument("--train", type=int, default=600)
    p.add_argument("--valid", type=int, default=40)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--out", required=True, help="folder to write into")
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    all_samples = list(samples(args.style, args.seed, args.train + args.valid))
    for name, part in [("train", all_samples[: args.train]), ("valid", all_samples[args.train :])]:
        with open(os.path.join(args.out, f"{name}.jsonl"), "w", encoding="utf-8") as out:
            out.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in part)


if __name__ == "__main__":
    main()
