"""One fresh process of the benchmark's mlx-lm side; see bench.c, which does the same with mlxrt."""

import time

START = time.perf_counter()

import argparse
import json
import resource

parser = argparse.ArgumentParser()
for name in ("--model", "--device", "--modes", "--prompt-file"):
    parser.add_argument(name, required=True)
for name in ("--cold-prompt", "--cold-decode", "--decode", "--repeats"):
    parser.add_argument(name, type=int, required=True)
args = parser.parse_args()

import mlx.core as mx

# Before mlx_lm is imported: it makes its stream then.
mx.set_default_device(mx.gpu if args.device == "gpu" else mx.cpu)

import mlx_lm
from mlx_lm import load, stream_generate
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_sampler

IMPORTED = time.perf_counter()


# As bench.c has them; None: the largest logit.
SAMPLERS = {"tokens": None, "drawn": make_sampler(temp=0.7, top_p=0.95)}


def peak_rss():
    """As peak_rss in bench.c."""
    try:
        for line in open("/proc/self/status"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def request(mode, ids, decode, announce=False):
    """One request with an empty cache; times by our own clock."""
    mx.reset_peak_memory()
    prompt, tokens, last_response = mx.array(ids), [], None
    called = time.perf_counter()
    if mode == "text":
        stream = stream_generate(model, tokenizer, prompt, max_tokens=decode)
    else:
        stream = generate_step(prompt, model, max_tokens=decode, sampler=SAMPLERS[mode])
    for piece in stream:
        last = time.perf_counter()
        if not tokens:
            first = last
            if announce:
                print("first", flush=True)
        if mode == "text":
            tokens.append(piece.token)
            last_response = piece
        else:
            tokens.append(piece[0])
    assert len(tokens) == decode, (len(tokens), decode)
    run = {
        "mode": mode,
        "first_token_s": first - called,
        "decode_s": last - first,
        "decode_tokens": decode - 1,
        "mlx_peak_bytes": mx.get_peak_memory(),
    }
    if last_response:
        run["reported_prefill_tps"] = last_response.prompt_tps
        run["reported_decode_tps"] = last_response.generation_tps
    return run, tokens


loading = time.perf_counter()
model, tokenizer = load(args.model)
loaded = time.perf_counter()
load_peak = mx.get_peak_memory()
# The end of text is no end here, as in mlx-lm's own benchmark.
tokenizer._eos_token_ids = set()
ids = [int(word) for word in open(args.prompt_file).read().split()]

cold, _ = request("tokens", ids[: args.cold_prompt], args.cold_decode, announce=True)
cold_rss = peak_rss()
runs, process_peak = [], max(load_peak, cold["mlx_peak_bytes"])
for _ in range(args.repeats):
    for mode in ("tokens", "text", "drawn"):
        if mode in args.modes.split(","):
            run, tokens = request(mode, ids, args.decode)
            process_peak = max(process_peak, run["mlx_peak_bytes"])
            runs.append(run)
result = {
    "side": "mlx-lm",
    "version": mlx_lm.__version__,
    "mlx_version": mx.__version__,
    "import_s": IMPORTED - START,
    "load_s": loaded - loading,
    "cold_first_token_s": cold["first_token_s"],
    "runs": runs,
    "tokens": tokens,
    "mlx_load_peak_bytes": load_peak,
    "mlx_process_peak_bytes": process_peak,
    "cold_rss_bytes": cold_rss,
    "peak_rss_bytes": peak_rss(),
}
print(json.dumps(result), flush=True)
