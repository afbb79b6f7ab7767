#!/usr/bin/env python3
"""Compiles the CUDA kernels of src/mlx/gpu/kernels, as the library does when a model is loaded, without a GPU.

    check-kernels.py [FOLDER]

FOLDER is where NVRTC is put (build/nvrtc); it comes from PyPI, pinned. Nothing of it is run on a GPU: make test-gpu does that.
"""

import ctypes
import itertools
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "src/mlx/gpu/kernels"
# As compiler.rs puts them together.
FILES = ["ptx", "numbers", "packed", "embed", "product", "lows", "norms", "experts", "heads", "attention", "draw"]
NVRTC = "nvidia-cuda-nvrtc==13.0.88"
# Ampere, Hopper, Blackwell.
ARCHITECTURES = [80, 90, 120]


def names():
    """What the maker may ask for: of each template its kinds, not all of them in every combination."""
    kinds = ["4, 64, 128", "4, 64, 64", "4, 128, 128", "8, 64, 64", "8, 128, 64", "16, 1, 32"]
    for kind, ahead in itertools.product(kinds, (1, 2, 4)):
        yield f"head<Bf16, {kind}, {ahead}>"
    for of_type, kind in itertools.product(("Bf16", "F16"), kinds):
        yield f"project<{of_type}, {kind}, 2>"
        yield f"residual<{of_type}, {kind}, 2>"
    for activation, kind in itertools.product(range(4), ("4, 64, 128", "16, 1, 32")):
        yield f"gated<Bf16, {kind}, 2, {activation}>"
        yield f"gated_experts<Bf16, {kind}, 2, {activation}>"
    for of_type, kind in itertools.product(("Bf16", "F16"), kinds):
        yield f"combine<{of_type}, {kind}, 2>"
    for kind, ahead in itertools.product(("MXFP4, 32, 128", "MXFP4, 32, 64"), (1, 4, 5, 9)):
        for name in ("project", "residual", "head", "combine"):
            yield f"{name}<Bf16, {kind}, {ahead}>"
        yield f"gated<Bf16, {kind}, {ahead}, 0>"
        yield f"gated_experts<Bf16, {kind}, {ahead}, 3>"
    yield "embed<Bf16, MXFP4>"
    for of_type, bits, order in itertools.product(("Bf16", "F16"), (4, 8, 16), (4, 8, 16)):
        yield f"route<{of_type}, {bits}, {order}>"
    for of_type, bits in itertools.product(("Bf16", "F16"), (4, 8, 16)):
        yield f"embed<{of_type}, {bits}>"
    for dim, group in itertools.product((64, 80, 128, 192, 256), (1, 2, 4)):
        yield f"attention<Bf16, {dim}, {group}>"
    for of_type, digits in (("Bf16", 2), ("F16", 2), ("F32", 3)):
        yield from (f"measure<{of_type}>", f"draw<{of_type}>", *(f"narrow<{of_type}, {digit}>" for digit in range(digits)))
    yield from ("attention<F16, 128, 2>", "normalise<F16>", "add_normed<Bf16>", "low<Bf16>", "low<F16>", "pick")


def load(folder):
    if not any(folder.rglob("libnvrtc.so*")):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", folder, NVRTC]
        if subprocess.run(command, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}).returncode != 0:
            sys.exit(f"check-kernels: pip could not fetch {NVRTC}; install python3-pip and allow PyPI")
    # NVRTC looks for its other half by name only.
    ctypes.CDLL(str(next(folder.rglob("libnvrtc-builtins.so*"))), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(next(folder.rglob("libnvrtc.so*"))))


def compile_for(nvrtc, architecture, kernels):
    source = "".join((KERNELS / name).with_suffix(".cu").read_text() for name in FILES)
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"mlxrt.cu", 0, None, None)
    for kernel in kernels:
        nvrtc.nvrtcAddNameExpression(program, kernel.encode())
    options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++17"]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    # What a model does not need is in the source all the same.
    errors = [line for line in log.value.decode().splitlines() if "error" in line]
    if status != 0:
        sys.exit(f"check-kernels: sm_{architecture}: " + "\n".join(errors[:20] or ["no reason given"]))
    for kernel in kernels:
        lowered = ctypes.c_char_p()
        if nvrtc.nvrtcGetLoweredName(program, kernel.encode(), ctypes.byref(lowered)) != 0:
            sys.exit(f"check-kernels: {kernel} has no name")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/nvrtc"
    nvrtc = load(folder)
    kernels = list(names())
    for architecture in ARCHITECTURES:
        compile_for(nvrtc, architecture, kernels)
    print(f"check-kernels: {len(kernels)} kernels compile for {', '.join(f'sm_{a}' for a in ARCHITECTURES)} (never run)")


if __name__ == "__main__":
    main()
