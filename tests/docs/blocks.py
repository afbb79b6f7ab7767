"""blocks.py ROOT OUT: writes every fenced C and C++ block of the documents into a file of its own."""
import pathlib
import re
import sys

root, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.S | re.M)
ENDINGS = {"c": "c", "cpp": "cpp", "cc": "cpp"}

documents = [root / "README.md", root / "ARCHITECTURE.md", *sorted(root.glob("docs/*.md")), *sorted(root.glob("bindings/**/*.md"))]
for document in documents:
    text = document.read_text(encoding="utf-8")
    for number, found in enumerate(FENCE.finditer(text), 1):
        language, block = found.groups()
        if language not in ENDINGS:
            continue
        place = document.relative_to(root)
        line = text[: found.start()].count("\n") + 2
        head = f"/* {place}, line {line} */\n"
        if not re.search(r"^#include|^int main\(|^(static )?\w+ \*?\w+\(.*\) \{$", block, re.M):
            block = '#include "fragment.h"\nvoid fragment(void);\nvoid fragment(void) {\n' + block + "}\n"
        name = str(place).replace("/", "-").removesuffix(".md")
        (out / f"{name}-{number}.{ENDINGS[language]}").write_text(head + block, encoding="utf-8")
