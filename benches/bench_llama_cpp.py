"""One fresh process of the CPU benchmark's llama.cpp side: llama_decode with token ids, through llama-cpp-python's ctypes.

As llama-bench does, decode feeds tokens that are known before and samples nothing; mlxrt's side takes the most likely token
of each step. Prints "first" and one line of JSON with the keys of bench.c.
"""

import argparse
import ctypes
import json
import time

parser = argparse.ArgumentParser()
for name in ("--model", "--prompt-file"):
    parser.add_argument(name, required=True)
for name in ("--cold-prompt", "--cold-decode", "--decode", "--repeats", "--threads"):
    parser.add_argument(name, type=int, required=True)
args = parser.parse_args()

import llama_cpp


@llama_cpp.llama_log_callback
def errors_only(level, text, _):
    if level == 4:
        print(text.decode(errors="replace"), end="", flush=True)


def peak_rss():
    """As peak_rss in bench.c."""
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


llama_cpp.llama_log_set(errors_only, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()
ids = [int(word) for word in open(args.prompt_file).read().split()]
base_rss = peak_rss()

started = time.perf_counter()
model = llama_cpp.llama_model_load_from_file(args.model.encode(), llama_cpp.llama_model_default_params())
if not model:
    raise SystemExit("the model does not load")
params = llama_cpp.llama_context_default_params()
params.n_ctx = len(ids) + args.decode + 32
params.n_batch = 2048
params.n_threads = params.n_threads_batch = args.threads
context = llama_cpp.llama_init_from_model(model, params)
if not context:
    raise SystemExit("no context")
loaded = time.perf_counter()


def decode(tokens):
    """One call; on return the logits of the last token are there."""
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    code = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens)))
    if code != 0:
        raise SystemExit(f"llama_decode: {code}")
    llama_cpp.llama_get_logits_ith(context, -1)


def request(prompt, steps):
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    called = time.perf_counter()
    for at in range(0, len(prompt), params.n_batch):
        decode(prompt[at : at + params.n_batch])
    first = time.perf_counter()
    for n in range(steps - 1):
        decode([prompt[n % len(prompt)]])
    last = time.perf_counter()
    return {"mode": "tokens", "first_token_s": first - called, "decode_s": last - first, "decode_tokens": steps - 1}


cold = request(ids[: args.cold_prompt], args.cold_decode)
print("first", flush=True)
runs = [request(ids, args.decode) for _ in range(args.repeats)]
result = {
    "side": "llama.cpp",
    "version": llama_cpp.__version__,
    "device_info": llama_cpp.llama_print_system_info().decode().strip(),
    "load_s": loaded - started,
    "cold_first_token_s": cold["first_token_s"],
    "runs": runs,
    "weight_bytes": llama_cpp.llama_model_size(model),
    "base_rss_bytes": base_rss,
    "peak_rss_bytes": peak_rss(),
}
print(json.dumps(result), flush=True)
