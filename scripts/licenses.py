#!/usr/bin/env python3
"""licenses.py OUT [--wheel DIST_INFO]...: writes the licences of everything that the library's archive holds into OUT.

The Rust crates that are linked in come from `cargo metadata` and bring their own files; MLX's wheel says in its
bill of materials which Fortran libraries it brings; what brings no text has one in scripts/install/licenses. A crate
without a text of its own gets the one that its manifest names. A component that is not known here ends the script: an
archive is never made with a licence missing.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXTS = ROOT / "scripts" / "install" / "licenses"
OURS = {"mlxrt", "mlxrt-cli", "mlxrt-kernels", "mlx-sys-linux"}
FILE_NAMES = ("licen", "copying", "copyright", "notice", "unlicense")

# Inside libmlx.so, linked statically; MLX's wheel carries only MLX's own licence.
IN_MLX = {"fmt": "fmt.txt", "nlohmann-json": "json.txt", "gguf-tools": "gguf-tools.txt", "PocketFFT": "pocketfft.txt"}

# Beside libmlx.so, as Ubuntu's packages in the wheel's bill of materials: source package, licence, texts.
PACKAGES = {
    "libblas3": ("lapack", "BSD-3-Clause", ["lapack.txt"]),
    "liblapack3": ("lapack", "BSD-3-Clause", ["lapack.txt"]),
    "libgfortran5": ("gcc-12", "GPL-3.0-or-later WITH GCC-exception-3.1", ["GPL-3.0.txt", "GCC-RUNTIME-EXCEPTION-3.1.txt"]),
    "libquadmath0": ("gcc-12", "LGPL-2.1-or-later", ["LGPL-2.1.txt"]),
}


def fail(sentence):
    sys.exit(f"licenses.py: {sentence}")


def metadata(*more):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", *more]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def linked_crates():
    """The crates whose code is in the library or the command line: normal dependencies, without those that only run in the compiler."""
    host = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    target = next(line.split()[1] for line in host.splitlines() if line.startswith("host:"))
    data = metadata("--filter-platform", target)
    packages = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    open_ids = [package["id"] for package in data["packages"] if package["name"] in ("mlxrt", "mlxrt-cli")]
    found = {}
    while open_ids:
        package = packages[open_ids.pop()]
        if package["id"] in found or any("proc-macro" in t["kind"] for t in package["targets"]):
            continue
        found[package["id"]] = package
        for dep in nodes[package["id"]]["deps"]:
            if any(kind["kind"] is None for kind in dep["dep_kinds"]):
                open_ids.append(dep["pkg"])
    crates = [package for package in found.values() if package["name"] not in OURS]
    return sorted(crates, key=lambda package: (package["name"], package["version"]))


def texts_of(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    names = sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().startswith(FILE_NAMES))
    if package.get("license_file"):
        names = sorted({*names, folder / package["license_file"]})
    return [(path.name, path.read_text(encoding="utf-8", errors="replace")) for path in names if path.is_file()]


def general_text(package):
    """The text that a manifest names, for a crate that comes without one."""
    expression = package["license"] or ""
    authors = ", ".join(package["authors"]) or f"the authors of {package['name']}"
    if "MIT" in expression:
        body = (ROOT / "LICENSE-MIT").read_text(encoding="utf-8")
        body = body[body.index("Permission is hereby granted"):]
        return [("MIT", f"Copyright (c) {authors}\n\n{body}")]
    if "Apache-2.0" in expression:
        return [("Apache-2.0", f"Copyright (c) {authors}\n\n" + (ROOT / "LICENSE-APACHE").read_text(encoding="utf-8"))]
    fail(f"{package['name']} {package['version']} has no licence file, and its manifest says {expression!r}")


def rust_part(out):
    crates = linked_crates()
    lines = ["The Rust crates whose code is in the library, with their licences. Where one offers a choice, any of them.\n"]
    for package in crates:
        lines.append("=" * 100)
        lines.append(f"{package['name']} {package['version']}: {package['license'] or 'see below'}")
        lines.append(package["repository"] or f"https://crates.io/crates/{package['name']}")
        for name, text in texts_of(package) or general_text(package):
            lines += ["-" * 100, f"{package['name']}: {name}", "", text.rstrip(), ""]
    (out / "RUST-CRATES.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return crates


def rust_library(out):
    """Rust's standard library is linked in, too."""
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    own = pathlib.Path(sysroot.strip()) / "share/doc/rust/COPYRIGHT-library.html"
    if own.is_file():
        shutil.copyfile(own, out / "RUST-STANDARD-LIBRARY.html")
        return "RUST-STANDARD-LIBRARY.html"
    return "RUST-CRATES.txt holds the texts of both licences; its copyright is The Rust Project Contributors'"


def wheel_part(out, wheel, rows):
    name = wheel.name.split("-")[0]
    for text in sorted((wheel / "licenses").iterdir()):
        shutil.copyfile(text, out / f"MLX-{text.name}.txt")
        rows.append((f"MLX ({wheel.name.removesuffix('.dist-info')})", "MIT", f"MLX-{text.name}.txt"))
    for component, text in IN_MLX.items():
        rows.append((f"{component}, in libmlx", "BSD-3-Clause" if text == "pocketfft.txt" else "MIT", text))
    used = set(IN_MLX.values())
    for bill in sorted((wheel / "sboms").glob("*.json")):
        for part in json.loads(bill.read_text(encoding="utf-8"))["components"]:
            if part["name"].replace("-", "_") == name:
                continue
            if part["name"] not in PACKAGES:
                fail(f"{bill.name} of {wheel.name} names {part['name']}, whose licence is not known here")
            source, licence, texts = PACKAGES[part["name"]]
            where = f"https://launchpad.net/ubuntu/+source/{source}/{part['version']}"
            rows.append((f"{part['name']} {part['version']}, source: {where}", licence, ", ".join(texts)))
            used.update(texts)
    if "cuda" in name:
        rows.append(("CUTLASS and CuTe, headers in include/", "BSD-3-Clause", "cutlass.txt"))
        rows.append(("libcu++ of CCCL, headers in include/", "Apache-2.0 WITH LLVM-exception", "LICENSE-APACHE, LLVM-exception.txt"))
        used.update(["cutlass.txt", "LLVM-exception.txt"])
    for text in sorted(used):
        shutil.copyfile(TEXTS / text, out / text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--wheel", type=pathlib.Path, action="append", default=[], help="an MLX wheel's dist-info folder")
    arguments = parser.parse_args()
    out = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    rows = [("mlxrt", "MIT OR Apache-2.0", "LICENSE-MIT, LICENSE-APACHE")]
    for name in ("LICENSE-MIT", "LICENSE-APACHE"):
        shutil.copyfile(ROOT / name, out / name)
    crates = rust_part(out)
    rows.append(("Rust's standard library", "MIT OR Apache-2.0, and parts under others", rust_library(out)))
    # On Linux this package is no dependency: mlx-c is compiled out of its unpacked source.
    mlx_sys = next((p for p in metadata()["packages"] if p["name"] == "mlx-sys"), None) or fail("Cargo.lock pins no mlx-sys")
    shutil.copyfile(pathlib.Path(mlx_sys["manifest_path"]).parent / "src/mlx-c/LICENSE", out / "mlx-c.txt")
    rows.append((f"mlx-c, of mlx-sys {mlx_sys['version']}", "MIT", "mlx-c.txt"))
    for wheel in arguments.wheel:
        wheel_part(out, wheel, rows)
    rows += [(f"{p['name']} {p['version']}", p["license"] or "see the text", "RUST-CRATES.txt") for p in crates]

    head = "What this folder's library is made of: the component, its licence, and the file here that has the text.\n\n"
    table = "".join(f"{component}\n    {licence}\n    {text}\n" for component, licence, text in rows)
    (out / "COMPONENTS.txt").write_text(head + table, encoding="utf-8")


main()
