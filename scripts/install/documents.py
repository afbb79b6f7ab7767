"""documents.py ROOT FOLDER: puts the documents and examples of the source tree into FOLDER (share/doc/mlxrt under a prefix).

A link between two documents, or to a header, is made to lead to where that file is installed; what is not installed is
named instead, as being in the source tree. So an installed document has no link that leads nowhere."""
import os
import pathlib
import re
import shutil
import sys

root, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
NOTE = "*Installed with the library. What is said to be in the source tree, and what `make` does, is there.*\n"


def places():
    """Where each file goes, from FOLDER on."""
    files = {name: name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE-MIT", "LICENSE-APACHE", "cli/README.md")}
    for pattern in ("docs/*.md", "docs/pictures/*.svg"):
        files |= {str(path.relative_to(root)): str(path.relative_to(root)) for path in root.glob(pattern)}
    for examples in ("bindings/c/examples", "bindings/cpp/examples"):
        files[examples] = "examples"
        files |= {f"{examples}/{path.name}": f"examples/{path.name}" for path in (root / examples).iterdir() if path.is_file()}
    return files


FILES = places()
# Where FOLDER is under a prefix, and what install.sh puts elsewhere.
HERE = "share/doc/mlxrt"
PREFIX = {"include/mlxrt.h": "include/mlxrt.h", "bindings/cpp/mlxrt.hpp": "include/mlxrt.hpp"}
PREFIX |= {source: f"{HERE}/{place}" for source, place in FILES.items()}


def link(source, found):
    picture, text, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found.group(0)
    path, hash_, anchor = target.partition("#")
    path = os.path.normpath(os.path.join(os.path.dirname(source), path))
    if path in PREFIX:
        place = os.path.relpath(PREFIX[path], os.path.dirname(PREFIX[source]))
        return f"{picture}[{text}]({place}{hash_}{anchor})"
    if picture or not (root / path).exists():
        sys.exit(f"documents.py: {source} links to {target}, which cannot be installed")
    named = path in text or os.path.basename(path) in text or text.rstrip("/") == path.rpartition("/")[0]
    where = "in the source tree" if named else f"in the source tree: `{path}`"
    # Brackets in brackets read badly.
    return f"{text}, {where}" if found.string[: found.start()].endswith("(") else f"{text} ({where})"


def document(source):
    # Blocks of code stay as they are.
    parts = re.split(r"(^```.*?^```)", (root / source).read_text(encoding="utf-8"), flags=re.S | re.M)
    text = "".join(part if i % 2 else LINK.sub(lambda found: link(source, found), part) for i, part in enumerate(parts))
    return text.replace("\n", f"\n\n{NOTE}", 1) if source == "README.md" else text


for source, place in FILES.items():
    if not (root / source).is_file():
        continue
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if source.endswith(".md"):
        target.write_text(document(source), encoding="utf-8")
    else:
        shutil.copyfile(root / source, target)
    target.chmod(0o644)
