"""The Go chat server under many clients: rates, first tokens and gaps, by the official client package.

Run by server.sh. Each client asks one question after the other, streamed, for so many seconds.
"""

import argparse
import asyncio
import os
import re
import socket
import statistics
import subprocess
import time
import urllib.request

import openai

QUESTIONS = [
    "Tell me a short story about a {}.",
    "Please write a story about a {} who is afraid of water.",
    "Tell me a story about a {} named Bob",
]
ANIMALS = ["fox", "robot", "penguin", "dog", "cat", "bear", "lion", "rabbit", "mouse", "owl", "whale", "frog", "horse", "duck", "sheep", "wolf", "snail", "bee", "crow", "goat"]


async def talk(client, model, number, until, seen):
    round = 0
    while time.perf_counter() < until:
        question = QUESTIONS[round % len(QUESTIONS)].format(ANIMALS[(number + 7 * round) % len(ANIMALS)])
        round += 1
        asked = time.perf_counter()
        last = None
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], stream=True, temperature=0.7, seed=number + 100 * round,
            max_tokens=200, stream_options={"include_usage": True})
        async for chunk in stream:
            now = time.perf_counter()
            if chunk.usage:
                seen["tokens"].append((asked, now, chunk.usage.completion_tokens))
            if chunk.choices and chunk.choices[0].delta.content:
                seen["first" if last is None else "gaps"].append(now - (asked if last is None else last))
                last = now


async def load(address, model, clients, seconds):
    seen = {"tokens": [], "first": [], "gaps": []}
    async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0, timeout=600) as client:
        begun = time.perf_counter()
        await asyncio.gather(*(talk(client, model, number, begun + seconds, seen) for number in range(clients)))
    # Until the last has ended fewer talk: each answer's tokens count as far as they came before that.
    end = begun + seconds
    tokens = sum(count * max(0.0, min(1.0, (end - asked) / (done - asked))) for asked, done, count in seen["tokens"])
    return tokens / seconds, seen


def metrics(address):
    text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    return {name: float(value) for name, value in re.findall(r"^mlxrt_(\w+) (\S+)$", text, re.M)}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--server", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 20])
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--write", metavar="FILE")
    args = p.parse_args()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % s.getsockname()[1]
    server = subprocess.Popen([args.server, "-model", args.model, "-listen", address])
    try:
        for _ in range(600):
            try:
                metrics(address)
                break
            except OSError:
                assert server.poll() is None, "the server has ended"
                time.sleep(0.1)
        model = os.path.basename(args.model.rstrip("/"))
        lines = [
            "# The Go chat server under many clients",
            "",
            f"By `make bench-server`: {cpu()}. Each client streams one story after the other for {args.seconds:.0f} seconds with OpenAI's client package, which runs on "
            "the same cores; seeds differ, nothing is cached, and guesses from the text are on. The model is the demo's as large as one of 0.6 billion parameters, in 4 bits.",
            "",
            "| clients | tok/s in all | times one | tok/s each | first token, median | gap, median | gap, 99th percentile | requests a pass |",
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        one = None
        asyncio.run(load(address, model, 1, 3))
        for clients in args.clients:
            before = metrics(address)
            rate, seen = asyncio.run(load(address, model, clients, args.seconds))
            after = metrics(address)
            rows = (after["pass_rows_total"] - before["pass_rows_total"]) / max(1, after["passes_total"] - before["passes_total"])
            assert after["requests_failed_total"] == 0
            one = one or rate
            gaps = sorted(seen["gaps"])
            ms = [statistics.median(seen["first"]), statistics.median(gaps), gaps[int(0.99 * len(gaps))]]
            lines.append(f"| {clients} | {rate:.0f} | {rate / one:.2f} | {rate / clients:.1f} | " + " | ".join(f"{1000 * value:.0f} ms" for value in ms) + f" | {rows:.1f} |")
        text = "\n".join(lines) + "\n"
        print(text)
        if args.write:
            with open(args.write, "w") as file:
                file.write(text)
    finally:
        server.terminate()
        server.wait()


def cpu():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else '?'}, {len(names)} cores"


if __name__ == "__main__":
    main()
