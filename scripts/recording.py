#!/usr/bin/env python3
"""recording.py MLXRT OUT.svg: types the commands below into a shell on a terminal of its own, and writes what the terminal
showed, when it showed it, as an animated SVG. Nothing is edited: another run gives another recording. Run it in the
repository's root, on a machine with nothing else to do. Needs Python's standard library only.
"""
import fcntl
import html
import os
import pathlib
import pty
import re
import select
import signal
import struct
import sys
import tempfile
import termios
import time
import unicodedata

ROWS, COLUMNS = 26, 94
FRAME = 0.05  # seconds between two pictures
KEY = 0.045  # seconds between two keys
SHELL, CHAT = "$ ", "> "

# What is typed, the prompt that tells that its output is complete, and how long the reader has for it.
SCRIPT = [
    ("mlxrt info demo/model", SHELL, 3.0),
    ("mlxrt chat demo/model --seed 7", CHAT, 1.5),
    ("What is the capital of France?", CHAT, 1.5),
    ("/adapter demo/adapters/pirate", CHAT, 1.0),
    ("What is the capital of France?", CHAT, 2.0),
    ("/adapter off", CHAT, 1.0),
    ("Tell me a short story about a fox.", CHAT, 3.5),
    ("/exit", SHELL, 0.8),
    ('mlxrt generate demo/model "Say hello." --json --max-tokens 8 --seed 7', SHELL, 6.0),
]


class Screen:
    """As much of a terminal as these programs use; what it does not know is an error. Lines are never lost: `lines` has
    those that have scrolled out as well, and `top` is the first that is seen."""

    SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")

    def __init__(self):
        self.lines = [[]]
        self.row = self.column = self.top = 0
        self.style = ""
        self.rest = ""

    def feed(self, text):
        text, self.rest = self.rest + text, ""
        at = 0
        while at < len(text):
            char = text[at]
            if char == "\x1b":
                found = self.SEQUENCE.match(text, at)
                if not found:
                    if len(text) - at > 30:
                        raise SystemExit(f"recording.py: unknown to this terminal: {text[at:at + 30]!r}")
                    self.rest = text[at:]
                    return
                self.control(*found.groups())
                at = found.end()
                continue
            at += 1
            if char == "\r":
                self.column = 0
            elif char == "\n":
                self.down()
            elif char == "\b":
                self.column = max(0, self.column - 1)
            elif unicodedata.category(char)[0] == "C" or unicodedata.east_asian_width(char) in "WF":
                raise SystemExit(f"recording.py: unknown to this terminal: {char!r}")
            else:
                self.put(char)

    def down(self):
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append([])
        self.top = max(self.top, self.row - ROWS + 1)

    def put(self, char):
        if self.column == COLUMNS:
            self.column = 0
            self.down()
        line = self.lines[self.row]
        line.extend([(" ", "")] * (self.column + 1 - len(line)))
        line[self.column] = (char, self.style)
        self.column += 1

    def control(self, arguments, letter):
        if arguments.startswith("?"):
            # The cursor's look, pasting, and drawing all at once change nothing that a picture has.
            if letter not in "hl" or arguments not in ("?25", "?2004", "?2026"):
                raise SystemExit(f"recording.py: unknown to this terminal: ESC [ {arguments} {letter}")
            return
        numbers = [int(n) if n else 0 for n in arguments.split(";")]
        first, line = numbers[0], self.lines[self.row]
        if letter == "m":
            for number in numbers:
                styles = {0: "", 1: "b", 2: "d", 32: "g", 31: "r", 36: "c"}
                if number not in styles:
                    raise SystemExit(f"recording.py: unknown to this terminal: style {number}")
                self.style = styles[number] if number == 0 else self.style + styles[number]
        elif letter == "C":
            self.column = min(COLUMNS - 1, self.column + max(1, first))
        elif letter == "D":
            self.column = max(0, self.column - max(1, first))
        elif letter == "A":
            self.row = max(self.top, self.row - max(1, first))
        elif letter == "K" and first == 0:
            del line[self.column:]
        elif letter == "K" and first == 2:
            line.clear()
        elif letter == "J" and first == 0:
            del line[self.column:]
            del self.lines[self.row + 1:]
        else:
            raise SystemExit(f"recording.py: unknown to this terminal: ESC [ {arguments} {letter}")

    def waits_at(self, prompt):
        shown = "".join(char for char, _ in self.lines[self.row])
        return self.row == len(self.lines) - 1 and shown.rstrip() == prompt.rstrip() and self.column == len(prompt)


class Recording:
    """What was seen from when on: for each line its versions, and where cursor and window were."""

    def __init__(self):
        self.versions, self.cursor, self.top = {}, [], []

    def see(self, screen, at):
        for number, line in enumerate(screen.lines):
            self.note(self.versions.setdefault(number, []), at, tuple(line))
        for number in range(len(screen.lines), len(self.versions)):
            self.note(self.versions[number], at, ())
        self.note(self.cursor, at, (screen.row, min(screen.column, COLUMNS - 1)))
        self.note(self.top, at, screen.top)

    @staticmethod
    def note(versions, at, value):
        if not versions or versions[-1][1] != value:
            versions.append((at, value))


def record(program):
    """Runs the script; gives the recording and its length in seconds."""
    screen, seen = Screen(), Recording()
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "PATH": f"{program.parent}:/usr/bin:/bin", "HOME": home, "XDG_STATE_HOME": home, "TERM": "xterm-256color",
            "LANG": "C.UTF-8", "PS1": SHELL, "COLUMNS": str(COLUMNS), "LINES": str(ROWS),
        }
        child, terminal = pty.fork()
        if child == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            os.execve("/bin/sh", ["sh"], environment)
        began = time.monotonic()
        half = b""

        def watch(seconds, until=None):
            """Takes what comes for so long, or until that prompt is there; false when it did not come."""
            nonlocal half
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                if select.select([terminal], [], [], min(left, FRAME))[0]:
                    half += os.read(terminal, 1 << 16)
                    whole = half.decode("utf-8", "ignore")
                    half = half[len(whole.encode()):]
                    screen.feed(whole)
                # A picture shows the end of its frame.
                seen.see(screen, (int((time.monotonic() - began) / FRAME) + 1) * FRAME)
                if until and screen.waits_at(until):
                    return True
            return until is None

        try:
            typed_at = SHELL
            for command, prompt, pause in SCRIPT:
                if not watch(20, typed_at):
                    raise SystemExit(f"recording.py: the prompt {typed_at!r} did not come")
                watch(0.7)
                for key in command:
                    os.write(terminal, key.encode())
                    watch(KEY)
                watch(0.3)
                os.write(terminal, b"\r")
                watch(FRAME)
                if not watch(60, prompt):
                    raise SystemExit(f"recording.py: {command!r} did not end at {prompt!r}")
                watch(pause)
                typed_at = prompt
            return merged(seen), time.monotonic() - began
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def merged(seen):
    """Of several versions in one frame the last one."""
    last = lambda versions: list(dict(versions).items())
    seen.versions = {number: last(versions) for number, versions in seen.versions.items()}
    seen.cursor, seen.top = last(seen.cursor), last(seen.top)
    return seen


WIDTH, HEIGHT, SIZE = 8.4, 19, 14
LEFT, ABOVE = 16, 46


def runs(line):
    """(column, text, style) of what has one style; blanks at the ends are left out."""
    at = 0
    while at < len(line):
        style, end = line[at][1], at
        while end < len(line) and line[end][1] == style:
            end += 1
        text = "".join(char for char, _ in line[at:end])
        if text.strip():
            yield at + len(text) - len(text.lstrip()), text.strip(), style
        at = end


def keyframes(name, steps, length):
    """steps: (seconds, CSS), each until the next one."""
    frames = "".join(f"{100 * at / length:.3f}%{{{css}}}".replace(".000%", "%") for at, css in steps)
    return f"@keyframes {name}{{{frames}}}"


def svg(seen, length, version):
    styles, groups = [], []
    for number, versions in sorted(seen.versions.items()):
        for index, (at, line) in enumerate(versions):
            texts = "".join(
                f'<text x="{LEFT + column * WIDTH:.1f}" textLength="{len(text) * WIDTH:.1f}"'
                + (f' class="{style}"' if style else "") + f">{html.escape(text, quote=False)}</text>"
                for column, text, style in runs(line)
            )
            if not texts:
                continue
            name = f"k{len(groups)}"
            steps = [(0, "visibility:hidden"), (at, "visibility:visible")]
            last = index + 1 == len(versions)
            if not last:
                steps.append((versions[index + 1][0], "visibility:hidden"))
            styles.append(keyframes(name, steps, length))
            y = ABOVE + number * HEIGHT + SIZE
            # dy of the group and not y of each text: shorter.
            groups.append(f'<g class="{"f" if last else "v"}" transform="translate(0 {y})" style="animation-name:{name}">{texts}</g>')
    place = lambda row, column: f"transform:translate({LEFT + column * WIDTH:.1f}px,{ABOVE + row * HEIGHT}px)"
    scroll = lambda top: f"transform:translateY({-top * HEIGHT}px)"
    styles.append(keyframes("cursor", [(0, place(0, 0))] + [(at, place(*where)) for at, where in seen.cursor], length))
    styles.append(keyframes("scroll", [(0, scroll(0))] + [(at, scroll(top)) for at, top in seen.top], length))
    width, height = LEFT * 2 + COLUMNS * WIDTH, ABOVE + ROWS * HEIGHT + 14
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" role="img" xml:space="preserve">
<title>mlxrt on the command line</title>
<desc>A recording of {version}, made by scripts/recording.py: info, a chat in which an adapter is put on and taken off, JSON.</desc>
<style>
text{{font:{SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;fill:#d5dae1;white-space:pre}}
.b{{fill:#fff;font-weight:600}}.d{{fill:#98a2ae}}.g{{fill:#57c26b;font-weight:600}}.r{{fill:#ff8a80}}.c{{fill:#6cc5d9}}
.v{{visibility:hidden}}
.v,.f,.cursor,.scroll{{animation:{length:.2f}s step-end infinite}}
.cursor{{animation-name:cursor;{place(*seen.cursor[-1][1])}}}
.scroll{{animation-name:scroll;{scroll(seen.top[-1][1])}}}
{chr(10).join(styles)}
@media (prefers-reduced-motion:reduce){{.v,.f,.cursor,.scroll{{animation:none!important}}}}
</style>
<rect x=".5" y=".5" width="{width - 1:.0f}" height="{height - 1}" rx="9" fill="#14181f" stroke="#4a525e"/>
<circle cx="21" cy="20" r="5" fill="#5b6472"/><circle cx="39" cy="20" r="5" fill="#5b6472"/><circle cx="57" cy="20" r="5" fill="#5b6472"/>
<clipPath id="window"><rect x="0" y="{ABOVE - 1}" width="{width:.0f}" height="{ROWS * HEIGHT + 1}"/></clipPath>
<g clip-path="url(#window)"><g class="scroll"><rect class="cursor" width="{WIDTH}" height="{HEIGHT - 2}" fill="#7d8794" opacity=".7"/>
{chr(10).join(groups)}
</g></g>
</svg>
"""


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    program = pathlib.Path(sys.argv[1]).resolve()
    if program.name != "mlxrt" or not os.access(program, os.X_OK):
        raise SystemExit(f"recording.py: {program} is not the command line; run make cli first")
    version = os.popen(f"'{program}' --version").read().strip()
    seen, length = record(program)
    picture = svg(seen, length, version)
    pathlib.Path(sys.argv[2]).write_text(picture, encoding="utf-8")
    print(f"{sys.argv[2]}: {length:.0f} s, {len(picture) // 1024} KiB")


if __name__ == "__main__":
    main()
