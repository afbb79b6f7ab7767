#!/usr/bin/env python3
"""abi.py HEADER: the reference of the C ABI as Markdown, out of mlxrt.h and nothing else."""
import re
import sys

WORDS = re.compile(r"\s*\bMLXRT_(NULLABLE|NONNULL)\b")
ENDS = ("Threads", "Blocks", "Errors", "Owns")


def text_of(comment):
    """A comment's lines without its stars."""
    lines = [re.sub(r"^\s*\*? ?", "", line) for line in comment.strip().splitlines()]
    return "\n".join(lines).strip()


def prose(text):
    """Paragraphs, with the names of the ABI as code."""
    text = "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    text = re.sub(r"(?<![`\w.])((?:mlxrt_|MLXRT_)[A-Za-z0-9_]+\*?)(?![A-Za-z0-9_(.])", r"`\1`", text)
    return text.replace("<", "&lt;").replace("|", "\\|")


def plain(code):
    """A declaration without the words that only compilers read, on as few lines as it fits."""
    code = WORDS.sub("", code).replace("MLXRT_MUST_USE ", "")
    code = re.sub(r"\*\s+(?=[a-z(*])", "*", code)
    one = re.sub(r"\(\s+", "(", " ".join(code.split()))
    return one if len(one) <= 100 else code


def declarations(source):
    """(section, doc, declaration) of everything that has a doc comment."""
    section = ""
    token = re.compile(r"/\* ---- (?P<section>.*?) ---- \*/|/\*\*(?P<doc>.*?)\*/", re.S)
    for found in token.finditer(source):
        if found["section"]:
            section = found["section"]
            continue
        rest = source[found.end():].lstrip("\n")
        if rest.startswith(" "):
            continue  # a field, shown with its struct
        if rest.startswith("#define"):
            end = rest.index("\n")
        elif re.match(r"(typedef )?struct \w+ \{", rest):
            end = rest.index("\n}") + 1
            end = rest.index(";", end) + 1
        else:
            end = rest.index(";") + 1
        yield section, text_of(found["doc"]), rest[:end]


def fields(struct):
    """(declaration, doc) of each field."""
    doc = ""
    for found in re.finditer(r"/\*\*(?P<doc>.*?)\*/|^  (?P<code>[^/*\s][^;]*);", struct, re.S | re.M):
        if found["doc"]:
            doc = text_of(found["doc"])
        else:
            yield " ".join(plain(found["code"]).split()), doc
            doc = ""


def opening(source):
    """The header's opening: its headings, paragraphs, promises and program."""
    text = text_of(source[source.index("/*") + 2:source.index("*/")])
    out, program = [], False
    for part in re.split(r"\n\s*\n", text)[2:]:
        if part.isupper():
            out.append(f"## {part.capitalize()}")
        elif part.startswith("A complete program:"):
            program = True
            out.append(part)
        elif part.startswith("  "):
            code = re.sub(r"^  ", "", part, flags=re.M)
            if program and out[-1].endswith("```"):
                out[-1] = out[-1][:-4] + "\n\n" + code + "\n```"
            else:
                out.append("```c\n" + code + "\n```")
        elif re.match(r" ?\d\. ", part):
            out.append("\n".join(prose(item) for item in re.split(r"\n(?= ?\d\. )", part)))
        else:
            head = re.match(r"(\w+|The process)\. ", part)
            out.append(f"**{head[1]}.** {prose(part[head.end():])}" if head else prose(part))
    return "\n\n".join(out)


def function(doc, code):
    name = re.search(r"(mlxrt_\w+)\(", code)[1]
    body, *ends = re.split(r"\n(?=(?:%s): )" % "|".join(end for end in ENDS), doc)
    out = [f"### {name}", "```c\n" + plain(code) + "\n```", prose(body)]
    items = [re.match(r"(\w+): (.*)", end, re.S) for end in ends]
    out.append("\n".join(f"- **{item[1]}**: {prose(item[2])}" for item in items))
    return "\n\n".join(out)


def main():
    source = open(sys.argv[1], encoding="utf-8").read()
    constants, structs, callbacks, handles, functions = [], [], [], [], {}
    for section, doc, code in declarations(source):
        if code.startswith("#define"):
            name, value = re.match(r"#define (\w+)(?:\([^)]*\))?\s*(.*)", code).groups()
            constants.append((name, value, doc))
        elif "{" in code:
            structs.append((re.search(r"struct (\w+)", code)[1], doc, code))
        elif "(*" in code:
            callbacks.append((re.search(r"\(\*(\w+)\)", code)[1], doc, code))
        elif code.startswith("typedef struct"):
            handles.append((code.split()[2], doc))
        else:
            functions.setdefault(section, []).append(function(doc, code))

    print("# The C ABI of mlxrt\n")
    print("Made from [include/mlxrt.h](../include/mlxrt.h) by `make docs`; the header is what counts. It also says of every")
    print("pointer whether it may be NULL (`MLXRT_NULLABLE`), which is left out here.\n")
    links = [("conventions", "Conventions")]
    links += [(re.sub(r"\W+", "-", section.lower()), section) for section in functions]
    links += [("constants", "Constants"), ("handles", "Handles"), ("callbacks", "Callbacks"), ("structs", "Structs")]
    print(" · ".join(f"[{title}](#{anchor})" for anchor, title in links) + "\n")
    print(opening(source) + "\n")
    for section, entries in functions.items():
        print(f"## {section}\n")
        print("\n\n".join(entries) + "\n")
    print("## Constants\n\n| | | |\n|---|---|---|")
    for name, value, doc in constants:
        print(f"| `{name}` | {'`' + value + '`' if len(value) < 24 else ''} | {prose(doc)} |")
    print("\n## Handles\n\n| | |\n|---|---|")
    for name, doc in handles:
        print(f"| `{name}` | {prose(doc)} |")
    print("\n## Callbacks\n")
    for name, doc, code in callbacks:
        print(f"### {name}\n\n```c\n{plain(code)}\n```\n\n{prose(doc)}\n")
    print("## Structs\n")
    for name, doc, code in structs:
        print(f"### {name}\n\n{prose(doc)}\n")
        if name == "mlxrt_api":
            continue  # the functions above, in the order of the header
        print("| field | |\n|---|---|")
        for declaration, field_doc in fields(code):
            print(f"| `{declaration}` | {prose(field_doc)} |")
        print()


main()
