"""Makes a large model that says what a small one says, in the time that a large one takes.

    python3 spread.py demo/model build/bench-models/spread --hidden 1536 --intermediate 4096 --layers 24

Of a Qwen3 folder in mlx-lm's 4-bit form (demo/model, demo/draft). Everything that is added is zeros: columns and rows of the packed
weights, heads, and blocks at the end that add nothing. The hidden size grows by a power of 4, so that the norms' weights, which
have to shrink by its root, stay exact; a norm's eps shrinks with it, also that of queries and keys, where it makes no difference that
shows. So the tokens are those of the small model.
"""

import argparse
import json
import math
import shutil
from pathlib import Path

import numpy as np


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("source")
    p.add_argument("to")
    p.add_argument("--hidden", type=int, required=True)
    p.add_argument("--intermediate", type=int, required=True)
    p.add_argument("--layers", type=int, required=True)
    args = p.parse_args()
    source, to = Path(args.source), Path(args.to)
    config = json.loads((source / "config.json").read_text())
    times = args.hidden // config["hidden_size"]
    root = math.isqrt(times)
    assert root * root == times and root & (root - 1) == 0 and args.hidden == times * config["hidden_size"], "the hidden size must grow 4, 16, … times"
    # bf16 is no type of numpy's: what is only moved is moved as u16.
    small = read(source / "model.safetensors")
    kinds = {"hidden": (config["hidden_size"], args.hidden), "intermediate": (config["intermediate_size"], args.intermediate)}
    for heads in ("num_attention_heads", "num_key_value_heads"):
        kinds[heads] = (config[heads] * config["head_dim"], config[heads] * times * config["head_dim"])
    shapes = {
        "q_proj": ("num_attention_heads", "hidden"), "k_proj": ("num_key_value_heads", "hidden"), "v_proj": ("num_key_value_heads", "hidden"),
        "o_proj": ("hidden", "num_attention_heads"), "gate_proj": ("intermediate", "hidden"), "up_proj": ("intermediate", "hidden"),
        "down_proj": ("hidden", "intermediate"), "embed_tokens": (None, "hidden"),
    }
    out = {}
    for name, (dtype, array) in small.items():
        module = name.split(".")[-2]
        if module in shapes:
            rows, columns = (kinds[kind] if kind else (1, 1) for kind in shapes[module])
            wide = np.zeros((array.shape[0] * rows[1] // rows[0], array.shape[1] * columns[1] // columns[0]), array.dtype)
            wide[: array.shape[0], : array.shape[1]] = array
        elif module in ("q_norm", "k_norm"):
            wide = array
        else:
            assert dtype == "BF16" and array.shape == (config["hidden_size"],), name
            # A power of two less in the exponent.
            shrunk = np.where(array & 0x7F80, array - (int(math.log2(root)) << 7), array)
            wide = np.concatenate([shrunk, np.zeros(args.hidden - len(array), array.dtype)])
        out[name] = (dtype, wide)
    last = config["num_hidden_layers"] - 1
    for name in [name for name in out if f".layers.{last}." in name]:
        dtype, array = out[name]
        silent = np.zeros_like(array) if "proj" in name else array
        for layer in range(last + 1, args.layers):
            out[name.replace(f".layers.{last}.", f".layers.{layer}.")] = (dtype, silent)
    config |= {
        "hidden_size": args.hidden, "intermediate_size": args.intermediate, "num_hidden_layers": args.layers,
        "num_attention_heads": config["num_attention_heads"] * times, "num_key_value_heads": config["num_key_value_heads"] * times,
        "rms_norm_eps": config["rms_norm_eps"] / times,
    }
    to.mkdir(parents=True, exist_ok=True)
    write(to / "model.safetensors", out)
    (to / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(source / name, to / name)
    print(f"{to}: {sum(array.nbytes for _, array in out.values()) / 1e6:.0f} MB")


TYPES = {"U32": np.uint32, "BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}


def read(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8: 8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length:]
    return {name: (of["dtype"], np.frombuffer(body[slice(*of["data_offsets"])], TYPES[of["dtype"]]).reshape(of["shape"])) for name, of in header.items()}


def write(path, tensors):
    header, at = {"__metadata__": {"format": "mlx"}}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in tensors.values():
            file.write(array.tobytes())


if __name__ == "__main__":
    main()
