"""links.py ROOT [--installed]: every relative link of the documents leads to a file, and to a heading of it where it names one; every picture
is small, well-formed, and shows the same wherever it is: no scripts, nothing from elsewhere. ROOT is the source tree or, with
--installed, what was installed; a link never leaves it."""
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

root, installed = pathlib.Path(sys.argv[1]).resolve(), "--installed" in sys.argv
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
MOST_BYTES = 100_000


def without_code(text):
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.S | re.M)


def anchors(path):
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    names = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


wrong, links = [], 0
if installed:
    documents = sorted(root.rglob("*.md"))
else:
    listing = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    tracked = subprocess.run(listing, cwd=root, capture_output=True, text=True).stdout if shutil.which("git") else ""
    documents = [root / name for name in tracked.split("\n") if name] or [*root.glob("*.md"), *root.glob("docs/*.md")]
for document in documents:
    for found in LINK.finditer(without_code(document.read_text(encoding="utf-8"))):
        link = found.group(1) or found.group(2)
        if re.match(r"[a-z]+:", link):
            continue
        links += 1
        file, _, anchor = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        place = f"{document.relative_to(root)}: {link}"
        if not target.is_relative_to(root):
            wrong.append(f"{place} leads out of {root}")
        elif not target.exists():
            wrong.append(f"{place} is not there")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            wrong.append(f"{place}: there is no such heading")
if links < 40:
    wrong.append(f"only {links} links were found")

pictures = sorted(root.rglob("*.svg") if installed else (root / "docs/pictures").glob("*.svg"))
if not pictures:
    wrong.append("there are no pictures")
for picture in pictures:
    text = picture.read_text(encoding="utf-8")
    name = picture.relative_to(root)
    if len(text.encode()) > MOST_BYTES:
        wrong.append(f"{name} has more than {MOST_BYTES} bytes")
    try:
        tags = {element.tag.rpartition("}")[2] for element in xml.etree.ElementTree.fromstring(text).iter()}
    except xml.etree.ElementTree.ParseError as error:
        wrong.append(f"{name} is not well-formed: {error}")
        continue
    if not {"title", "desc"} <= tags:
        wrong.append(f"{name} has no title or desc")
    if tags & {"script", "image", "foreignObject"} or re.search(r"(?<!xmlns=\")https?:|@import|url\((?!#)", text):
        wrong.append(f"{name} needs more than itself")

if wrong:
    sys.exit("tests/docs: " + "\n  ".join(wrong))
print(f"tests/docs: {links} links and {len(pictures)} pictures are right")
