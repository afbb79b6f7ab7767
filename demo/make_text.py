"""Writes the training text of the demo model: one JSON document a line.

    python3 make_text.py --documents 300000 --out text.jsonl

The text is made from the facts and templates in corpus/ with a seeded generator: the same arguments give the same bytes.
Only the standard library is used.
"""

import argparse
import json
import random
import sys

from corpus.chat import conversation


def documents(seed, start, count):
    """Documents start..start+count of the corpus with this seed. Each has its own generator, so that parts can be made in parallel."""
    for i in range(start, start + count):
        yield conversation(random.Random(f"{seed}/{i}"))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--documents", type=int, default=300_000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--out", default="-", help="file to write; - is the standard output")
    args = p.parse_args()
    out = sys.stdout if args.out == "-" else open(args.out, "w", encoding="utf-8")
    for doc in documents(args.seed, 0, args.documents):
        out.write(json.dumps(doc, ensure_ascii=False) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
