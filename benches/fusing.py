"""How near fused models come to the truth: mlxrt's and mlx-lm's, for every quantisation.

    python fusing.py LIBRARY      # needs mlx-lm, numpy, tokenizers; LIBRARY: libmlxrt.so

The truth is the base, unpacked, plus the adapter, both in f32. What is compared with it is what `mlxrt_model_save` writes and what
mlx-lm's `fuse` makes of the same base and adapter, unpacked and computed in f32, too: the distance is that of the packing alone.
Bases are the quantised models of tests/fixtures, which are random, and the demo model, which is trained, packed in every way;
adapters are the fixtures' and the demo's own, at several strengths: at 0 an adapter adds nothing.

Prints the root mean square of the distances of logits, as a part of that of the logits. The table at the end is for ADAPTERS.md:
for a base, over its adapters. Fails where mlxrt's is larger over all strengths; in mxfp8, where both round every number to
the nearest and come out alike by chance, where it is larger by 2 %.
"""

import os
import sys

# As in tests/fixtures/make.py, before mlx is imported.
os.environ["MLX_DISABLE_COMPILE"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.dont_write_bytecode = True

import ctypes
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
DEMO = ROOT / "demo"
STRENGTHS = [1.0, 0.1, 0.01, 0.0]
SCHEMES = [(bits, 64, "affine") for bits in (2, 3, 4, 5, 6, 8)]
SCHEMES += [(4, 32, "affine"), (4, 128, "affine"), (4, 32, "mxfp4"), (8, 32, "mxfp8"), (4, 16, "nvfp4")]


def scheme_name(bits, group, mode):
    return mode if mode != "affine" else f"{bits} bits" + (f", groups of {group}" if group != 64 else "")


def cases(out):
    """Name of the base, its folder, the adapter's folder, and the strength that it is saved at."""
    for case in json.loads((FIXTURES / "adapters.json").read_text()):
        config = json.loads((FIXTURES / "models" / case["model"] / "config.json").read_text())
        if "quantization" in config and case["kind"] != "full" and case["format"] == "mlx-lm":
            for strength in STRENGTHS:
                yield (case["model"], FIXTURES / "models" / case["model"], FIXTURES / "adapters" / case["name"], strength)
    for scheme in SCHEMES:
        for name in ["pirate", "json"]:
            for strength in STRENGTHS:
                name_of = "demo, " + scheme_name(*scheme)
                yield (name_of, out / ("demo-%d-%d-%s" % scheme), DEMO / "adapters" / name, strength)


def make_demos(out):
    """The demo model packed in every way, in bf16."""
    import mlx.nn as nn
    from mlx_lm.utils import dequantize_model, load_model, save_config, save_model

    for bits, group, mode in SCHEMES:
        model, config = load_model(DEMO / "model")
        config.pop("quantization_config", None)
        if (bits, group, mode) != (4, 64, "affine"):
            model = dequantize_model(model)
            nn.quantize(model, group, bits, mode=mode)
            config["quantization"] = {"group_size": group, "bits": bits, "mode": mode}
        folder = out / f"demo-{bits}-{group}-{mode}"
        save_model(folder, model, donate_model=False)
        save_config(config, folder / "config.json")
        for file in DEMO.joinpath("model").iterdir():
            if file.name.startswith("tokenizer") or file.name == "generation_config.json":
                shutil.copy(file, folder)


def save_all(library, out):
    """In a process of its own: two copies of MLX do not go into one."""
    lib = ctypes.CDLL(library)
    pointer = ctypes.c_void_p
    lib.mlxrt_error_message.restype = ctypes.c_char_p
    lib.mlxrt_error_message.argtypes = [pointer]
    for name in ("model_load", "model_save", "adapter_load"):
        getattr(lib, f"mlxrt_{name}").restype = pointer
    lib.mlxrt_model_load.argtypes = [ctypes.c_char_p, pointer, pointer]
    lib.mlxrt_model_save.argtypes = [pointer, pointer, pointer, ctypes.c_size_t, ctypes.c_char_p, pointer]
    lib.mlxrt_adapter_load.argtypes = [pointer, ctypes.c_char_p, pointer, pointer]
    lib.mlxrt_model_free.argtypes = lib.mlxrt_adapter_free.argtypes = [pointer]

    def check(error):
        if error:
            raise SystemExit(lib.mlxrt_error_message(error).decode())

    for index, (_, base, adapter_folder, strength) in enumerate(cases(out)):
        model, adapter = pointer(), pointer()
        check(lib.mlxrt_model_load(str(base).encode(), None, ctypes.byref(model)))
        check(lib.mlxrt_adapter_load(model, str(adapter_folder).encode(), None, ctypes.byref(adapter)))
        scale = ctypes.c_float(strength)
        saved = str(out / str(index)).encode()
        check(lib.mlxrt_model_save(model, ctypes.byref(adapter), ctypes.byref(scale), 1, saved, None))
        lib.mlxrt_adapter_free(adapter)
        lib.mlxrt_model_free(model)


def main(library):
    out = Path(tempfile.mkdtemp(prefix="mlxrt-fusing-"))
    make_demos(out)
    subprocess.run([sys.executable, __file__, "--save", library, str(out)], check=True)

    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np
    from mlx.utils import tree_map, tree_unflatten
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)

    def wide(model):
        """Everything in f32, and unpacked."""
        f32 = lambda x: x.astype(mx.float32)
        plain = []
        for name, module in model.named_modules():
            if not isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
                continue
            biases = module.get("biases")
            weight = mx.dequantize(
                module.weight, f32(module.scales) if biases is not None else module.scales,
                None if biases is None else f32(biases), group_size=module.group_size, bits=module.bits, mode=module.mode)
            if isinstance(module, nn.QuantizedEmbedding):
                new = nn.Embedding(1, 1)
            else:
                new = nn.Linear(1, 1, bias="bias" in module)
                if "bias" in module:
                    new.bias = module.bias
            new.weight = weight
            plain.append((name, new))
        model.update_modules(tree_unflatten(plain))
        model.update(tree_map(lambda x: f32(x) if mx.issubdtype(x.dtype, mx.floating) else x, model.parameters()))
        model.eval()
        return model

    def adapted(base, adapter, strength):
        """mlx-lm's model with the adapter beside it, at a strength."""
        model = load_adapters(load_model(base)[0], str(adapter))
        for _, module in model.named_modules():
            if hasattr(module, "fuse"):
                module.scale = module.scale * strength
        return model

    def fused(model):
        model.update_modules(tree_unflatten([(n, m.fuse()) for n, m in model.named_modules() if hasattr(m, "fuse")]))
        return model

    def truth(base, adapter, strength):
        """The sum in f32: mlx-lm's `fuse`, over a base that is not packed."""
        with_adapter = adapted(base, adapter, strength)
        parts = {n: m for n, m in with_adapter.named_modules() if hasattr(m, "fuse")}
        model = wide(load_model(base)[0])
        modules = dict(model.named_modules())
        for name, part in parts.items():
            own = modules[name]
            embedding = isinstance(own, nn.Embedding)
            f32 = lambda x: x.astype(mx.float32)
            if embedding:
                delta = part.scale * f32(part.lora_a) @ f32(part.lora_b)
            else:
                delta = part.scale * (f32(part.lora_a) @ f32(part.lora_b)).T
            weight = own.weight + delta
            if "m" in part:
                weight = (f32(part.m) / mx.linalg.norm(weight, axis=1))[:, None] * weight
            own.weight = weight
        return model

    def logits(model, prompts):
        return np.concatenate([np.array(model(mx.array(p)[None])[0]) for p in prompts])

    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(DEMO / "model" / "tokenizer.json"))
    asked = ["What is the capital of France?", "Tell me about whales.", "What is 3 plus 4?", "Who are you?",
             "Translate cat into German.", "Why is the sky blue?", "Write a poem about the sea.", "Is ice cold?"]
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    words = [np.array(tokenizer.encode(turn.format(one)).ids) for one in asked]
    rng = np.random.default_rng(19)
    noise = [rng.integers(0, 125, 24) for _ in range(24)]

    table = {}
    for index, (name, base, adapter, strength) in enumerate(cases(out)):
        prompts = words if name.startswith("demo") else noise
        want = logits(truth(base, adapter, strength), prompts)
        size = np.sqrt(np.mean(want**2))
        far = lambda x: float(np.sqrt(np.mean((x - want) ** 2)) / size)
        ours = far(logits(wide(load_model(out / str(index))[0]), prompts))
        theirs = far(logits(wide(fused(adapted(base, adapter, strength))), prompts))
        line = f"{name}, {adapter.name} at {strength}: {ours:.5f}, mlx-lm {theirs:.5f}"
        print(line, flush=True)
        table.setdefault(name, {}).setdefault(strength, []).append((ours, theirs))
    shutil.rmtree(out)

    print("\n| base | " + " | ".join(f"at {s:g}" for s in STRENGTHS) + " |")
    print("|---|" + "---:|" * len(STRENGTHS))
    mean = lambda pairs, which: float(np.sqrt(np.mean([pair[which] ** 2 for pair in pairs])))
    bad = []
    for name, by_strength in table.items():
        cells = [f"{mean(by_strength[s], 0):.4f} ({mean(by_strength[s], 1):.4f})" for s in STRENGTHS]
        print(f"| {name} | " + " | ".join(cells) + " |")
        pairs = [pair for s in STRENGTHS for pair in by_strength[s]]
        if not mean(pairs, 0) <= mean(pairs, 1) * (1.02 if "mxfp8" in name else 1):
            bad.append(name)
    if bad:
        raise SystemExit("\n".join(["farther than mlx-lm:", *bad]))


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--save":
        save_all(sys.argv[2], Path(sys.argv[3]))
    elif len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        raise SystemExit(__doc__)
