#!/usr/bin/env python3
"""Writes differential.json: generated templates and what jinja2 makes of them in transformers' environment.

    python tests/template/differential.py [--seed N] [--count N] [--out FILE]

Needs jinja2 and transformers. The file is the fixture of the Rust test of the same name; another seed or a larger
count makes a longer test. A case has a template and either its text or the error that Python raises.
"""

import argparse
import datetime
import json
import pathlib
import random
import signal

import transformers.utils.chat_template_utils as chat

CONTEXT = {
    "s": "Hello, World", "t": "  padded\ttext \n", "u": "Grüße, 世界 😀", "e": "", "q": "it's \"q\" \\ end",
    "lines": "one\n  two\r\n\nthree\n", "csv": "a,b,,c", "num": "42", "flt": "3.14", "path": "a/b/c d",
    "i": 7, "j": -3, "z": 0, "big": 9007199254740993, "f": 2.5, "g": -0.125, "h": 1e20, "yes": True, "no": False,
    "nil": None, "l": [3, 1, 2], "m": ["b", "A", "c", "a"], "mix": [1, "x", None, True, 2.5, [1, 2], {"k": "v"}],
    "el": [], "ed": {}, "d": {"b": 2, "a": 1, "C": [1, {"x": "y"}]}, "nest": {"p": {"q": {"r": [10, 20, 30]}}},
    "people": [
        {"name": "Ann", "age": 30, "tags": ["x"]}, {"name": "bob", "age": 25, "tags": []},
        {"name": "Cid", "age": 30, "city": "Rome"},
    ],
    "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|>"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2]}}}]},
        {"role": "tool", "content": "{\"t\": 21}"},
    ],
}  # fmt: skip

STRINGS = ["s", "t", "u", "e", "q", "lines", "csv", "num", "flt", "path"]
NUMBERS = ["i", "j", "z", "big", "f", "g", "h"]
LISTS = ["l", "m", "mix", "el", "people", "messages"]
DICTS = ["d", "ed", "nest", "people[0]", "messages[2]"]
OTHERS = ["yes", "no", "nil", "missing", "d.missing", "range(4)", "(1, 'a')", "d.items()", "people[1].tags"]


# What the generator seldom or never makes, before what it makes.
FIXED = [
    "{{ [{}, {}]|sort(attribute='a') }}",
    "{{ [{'a': 1}, {}]|sort(attribute='a') }}",
    "{{ [{}, {}]|sort(attribute='a,b')|length }}",
    '{{ [missing, missing]|sort }}',
    '{{ [missing, 1]|sort }}',
    '{{ [none, none]|sort }}',
    '{{ [none, 1]|sort }}',
    "{{ [{'k': 2}, {'k': 2}]|sort }}",
    "{{ [{'k': 2}, {'k': 1}]|sort }}",
    '{{ [[2], [1, 3], [1]]|sort }}',
    '{{ mix|sort }}',
    '{{ [true, 0, 2.5]|sort }}',
    "{{ [{}, {}]|map(attribute='a')|min }}",
    "{{ {'a': missing, 'b': missing}|dictsort(by='value') }}",
    "{{ [{}, {}]|groupby('a') }}",
    "{{ '{}|{:}|{!s:>5}|{!r:>12}|'.format(missing, missing, missing, missing) }}",
    "{{ '{:>5}'.format(missing) }}",
    "{{ '{:d}'.format(missing) }}",
    "{{ '{:>5}'.format(none) }}",
    "{{ '%5s|%r' % (missing, missing) }}",
    '{{ dict(missing) }}',
    '{{ dict(missing, a=1) }}',
    "{{ dict([]) }}{{ dict('') }}{{ dict({'a': 1}, b=2) }}",
    '{{ dict(none) }}',
    '{{ namespace(missing) }}',
    '{{ missing|abs }}',
    "{{ missing|abs|default('u') }}",
    '{{ none|abs }}',
    '{{ true|abs }}{{ j|abs }}{{ g|abs }}',
    '{{ missing|truncate(3) }}|{{ [missing|truncate(3)] }}',
    '{{ missing|truncate(1) }}',
    "{% set c = cycler('a', 'b') %}{{ c.items }}{{ c.items|length }}{{ c['items'] }}",
    "{% set c = cycler('a', [2]) %}{{ c.pos }}{{ c.next() }}{{ c.pos }}{{ c.current }}{{ c.next() }}{{ c.pos }}{{ c.items|tojson }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.reset() }}{{ c.pos }}{{ c.nope }}",
    "{% set c = cycler('a') %}{{ c.items() }}",
    "{% set s = joiner('-') %}{{ s.used }}{{ s() }}{{ s.used }}{{ s() }}{{ s.sep }}{{ s.nope }}",
    '{{ joiner().sep }}',
    '{{ cycler() }}',
    "{{ 0.1 * big }} {{ [1.1, 0.1 * big]|tojson }} {{ 5e-324 }} {{ 1e16 }} {{ 123456789012345680.0 }} {{ g }}",
    "{{ 2.0 ** 50 + 0.125 }} {{ 2.0 ** 50 + 0.375 }} {{ 2.0 ** 53 }} {{ 2.0 ** 60 }} {{ 0.1 + 0.2 }} {{ 1 / 3 }}",
]  # fmt: skip


class Generator:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def one(self, *options):
        return self.r.choice(options)

    def string(self, depth):
        r = self.r.random()
        if depth <= 0 or r < 0.35:
            literal = self.one("'a'", "', '", "''", "'aBc dEf'", "'x-y_z'", "'%s=%d'", "'ß'", "'\\n'", "\"it's\"", "'1_000'")
            return self.one(self.r.choice(STRINGS), self.r.choice(STRINGS), literal)
        s = lambda: self.string(depth - 1)
        n = lambda: self.small()
        if r < 0.7:
            return self.atom(s()) + self.one(
                ".upper()", ".lower()", ".title()", ".capitalize()", ".swapcase()", ".strip()", ".lstrip()", ".rstrip()",
                f".strip({s()})", f".replace({s()}, {s()})", f".replace('a', {s()}, {n()})", f".center({n()})",
                f".ljust({n()}, '*')", f".rjust({n()})", f".zfill({n()})", f".removeprefix({s()})", f".removesuffix('d')",
                f"[{n()}:]", f"[:{n()}]", f"[{n()}:{n()}]", "[::-1]", f"[::{self.one(2, -2, 3)}]", f"[{n()}]",
                f".join({self.items(depth - 1)})", f".join(m)", ".casefold()", f".format({self.any(depth - 1)}, {n()})",
                ".expandtabs(4)", f".partition({s()})[0]", f".rpartition(',')[2]",
            )  # fmt: skip
        if r < 0.9:
            return self.atom(s()) + self.one(
                "|upper", "|lower", "|title", "|capitalize", "|trim", f"|trim({s()})", f"|replace({s()}, {s()})",
                f"|center({n()})", f"|indent({n()})", f"|indent(2, true)", f"|indent('> ', true, true)", "|reverse",
                f"|truncate({self.one(5, 8, 12)})", "|truncate(6, true, '..', 0)", "|string", "|urlencode", "|e", "|safe",
                f"|default({s()})", f"|default({s()}, true)", f"|format({self.any(depth - 1)})", "|tojson", "|forceescape",
            )  # fmt: skip
        return self.one(f"({s()} ~ {self.any(depth - 1)})", f"({s()} + {s()})", f"({s()} * {n()})", f"({s()} % {self.any(depth - 1)})")

    def small(self):
        return self.one("0", "1", "2", "3", "5", "10", "-1", "-2", "i", "z")

    def number(self, depth):
        r = self.r.random()
        if depth <= 0 or r < 0.4:
            return self.one(self.r.choice(NUMBERS), self.small(), "1.5", "1e3", "0x1f", "1_000", "100000000000000000000", "0.1")
        n = lambda: self.number(depth - 1)
        if r < 0.75:
            # A power of anything larger would not end; of a negative literal, jinja2 folds it to something else.
            if r < 0.45:
                return f"({self.one('0', '2', '10', 'i', '1.5')} ** {self.small()})"
            return f"({n()} {self.one('+', '-', '*', '/', '//', '%')} {self.small() if r > 0.6 else n()})"
        return self.one(
            f"{self.atom(n())}|abs", f"{self.atom(n())}|int", f"{self.atom(n())}|float", f"{self.atom(n())}|round",
            f"{self.atom(n())}|round({self.small()})", f"{self.atom(n())}|round(1, 'floor')", f"{self.atom(n())}|round(2, 'ceil')",
            f"{self.atom(self.string(depth - 1))}|length", f"{self.atom(self.items(depth - 1))}|length", f"{self.atom(self.string(depth - 1))}|int",
            f"{self.atom(self.string(depth - 1))}|float", f"{self.string(0)}.count({self.string(0)})", f"{self.string(0)}.find({self.string(0)})",
            f"{self.string(0)}.rfind('o', {self.small()})", f"-{self.atom(n())}", f"l|sum", f"l|max", f"l|min", f"{self.string(0)}|wordcount",
            f"{self.items(0)}.index({self.any(0)})", f"{self.items(0)}.count({self.any(0)})", "'ff'|int(0, 16)", "people|sum('age')", "num|int + i",
        )  # fmt: skip

    def items(self, depth):
        r = self.r.random()
        if depth <= 0 or r < 0.35:
            return self.one(self.r.choice(LISTS), self.r.choice(LISTS), "[1, 2]", "['x', 'y']", "range(3)|list", "d.values()|list")
        x = lambda: self.items(depth - 1)
        s = lambda: self.string(depth - 1)
        n = self.small
        return self.one(
            f"({x()} + {x()})", f"({x()} * {self.one(0, 1, 2)})", f"{x()}[{n()}:]", f"{x()}[:{n()}]", f"{x()}[::-1]",
            f"{s()}.split()", f"{s()}.split({s()})", f"{s()}.split(',', {n()})", f"{s()}.rsplit(' ', {n()})", f"{s()}.splitlines()",
            f"{s()}.splitlines(true)", f"{s()}.rsplit(none, 1)", f"{s()}.partition(',')|list", f"{x()}|sort", f"{x()}|sort(reverse=true)",
            f"m|sort(case_sensitive=true)", f"{x()}|unique|list", f"{x()}|reverse|list", f"{x()}|list", f"{x()}|map('string')|list",
            f"{x()}|map('upper')|list", f"people|map(attribute='{self.one('name', 'age', 'city', 'tags.0')}')|list",
            f"people|map(attribute='city', default='-')|list", f"{x()}|select|list", f"{x()}|reject('string')|list",
            f"{x()}|select('{self.one('defined', 'none', 'number', 'mapping', 'string', 'iterable')}')|list",
            f"people|selectattr('age', '{self.one('eq', 'gt', 'lt', 'ne', '>=')}', {n()}0)|map(attribute='name')|list",
            f"people|rejectattr('city')|map(attribute='name')|list", f"{x()}|batch(2)|list", f"{x()}|batch(2, '-')|list",
            f"{x()}|slice(2)|list", f"{x()}|slice(3, 'f')|list", f"{s()}|list", f"d|dictsort", f"d|dictsort(by='value')",
            f"d|dictsort(reverse=true, case_sensitive=true)", f"people|groupby('age')", f"people|sort(attribute='age,name')|map(attribute='name')|list",
            f"d|items|list", f"d.keys()|list", f"nest.p.q.r", f"[{self.any(depth - 1)}, {self.any(depth - 1)}]", f"people|sort(attribute='name')",
        )  # fmt: skip

    def any(self, depth):
        return self.r.choice([self.string, self.number, self.items, self.other, self.truth])(depth)

    def other(self, depth):
        if depth <= 0 or self.r.random() < 0.5:
            return self.one(self.r.choice(DICTS), self.r.choice(OTHERS))
        a = lambda: self.any(depth - 1)
        return self.one(
            f"{{'k': {a()}, {self.small()}: {a()}}}", f"({a()}, {a()})", f"({a()},)", f"({a()} if {self.truth(depth - 1)} else {a()})",
            f"({a()} if {self.truth(depth - 1)})", f"({a()} or {a()})", f"({a()} and {a()})", f"dict(a={a()}, b={a()})", f"{self.items(depth - 1)}|first",
            f"{self.items(depth - 1)}|last", f"d.get({self.string(0)}, {a()})", f"d[{a()}]", f"{self.items(depth - 1)}[{self.small()}]", f"({a()}|default('-'))",
            f"{self.items(0)}|max", f"{self.items(0)}|min", f"messages[2].tool_calls[0].function.{self.one('name', 'arguments', 'nope')}", f"people[{self.small()}].name",
            f"{self.atom(a())}.{self.one('a', 'name', 'items', 'upper', '__class__', 'append', 'role')}", f"(d|attr('{self.one('items', 'a', 'keys')}'))()|list",
        )  # fmt: skip

    def truth(self, depth):
        a = lambda: self.any(depth - 1)
        test = self.one(
            "defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string", "mapping", "sequence", "iterable",
            "callable", "odd", "even", "lower", "upper", "divisibleby 3", "in l", "in 'abc'", "eq 7", "ne 'x'", "gt 1", "lt(2)", "ge 3", "le 2", "sameas none",
        )  # fmt: skip
        if depth <= 0:
            return f"({self.one('i', 's', 'nil', 'missing', 'l', 'd', 'f', 'yes')} is {self.one('', 'not ')}{test})"
        return self.one(
            f"({a()} is {self.one('', 'not ')}{test})", f"({a()} == {a()})", f"({a()} != {a()})", f"(not {a()})", f"({a()} in {a()})",
            f"({a()} not in {self.items(depth - 1)})", f"({self.number(depth - 1)} {self.one('<', '<=', '>', '>=')} {self.number(depth - 1)})",
            f"({self.string(depth - 1)} {self.one('<', '>=')} {self.string(depth - 1)})", f"({self.number(0)} < {self.number(0)} <= {self.number(0)})",
            f"{self.string(depth - 1)}.startswith({self.string(0)})", f"{self.string(depth - 1)}.endswith(('d', {self.string(0)}))",
            f"{self.string(0)}.{self.one('isalpha', 'isdigit', 'isspace', 'islower', 'isupper', 'istitle', 'isalnum', 'isascii', 'isidentifier', 'isprintable')}()",
        )  # fmt: skip

    @staticmethod
    def atom(text):
        simple = text.replace("_", "").isalnum() or (text[:1] in "('\"" and text[-1:] in ")'\"" and text.count("'") in (0, 2) and "(" not in text[1:])
        return text if simple and not text[:1].isdigit() else f"({text})"

    def printed(self, depth):
        value = self.any(depth)
        return self.one(f"{{{{ {value} }}}}", f"{{{{ {value} }}}}", f"{{{{- {value} -}}}}", f"{{{{ [{value}] }}}}", f"{{{{ ({value})|tojson }}}}",
                        f"{{{{ {{'v': {value}}}|tojson(indent={self.one(0, 2, 4)}) }}}}", f"{{{{ ({value})|string|length }}}}",
                        f"{{{{ {{'b': {value}, 'a': 1}}|tojson(sort_keys=true, separators=(',', ':')) }}}}", f"{{{{ ({value})|tojson(ensure_ascii=true) }}}}")  # fmt: skip

    def space(self):
        return self.one("", " ", "\n", "\n  ", "  ", "x", "x\n", "\n\n", " y ", "\t")

    def tag(self, text):
        return f"{{%{self.one('', '', '-', '+')} {text} {self.one('', '', '-', '+')}%}}"

    def body(self, depth):
        parts = []
        for _ in range(self.r.randint(1, 3)):
            parts += [self.space(), self.statement(depth)]
        return "".join(parts) + self.space()

    def statement(self, depth):
        if depth <= 0:
            return self.one(self.printed(1), self.tag(f"set v = {self.any(1)}") + "{{ v }}", "{# note #}", "{#- note -#}", "{{ loop.index }}", "{{ x }}", "{{ v }}", "{{ ns.n }}")
        b = lambda: self.body(depth - 1)
        return self.one(
            lambda: self.tag(f"if {self.truth(1)}") + b() + self.tag("endif"),
            lambda: self.tag(f"if {self.truth(1)}") + b() + self.tag(f"elif {self.truth(1)}") + b() + self.tag("else") + b() + self.tag("endif"),
            lambda: self.tag(f"for x in {self.items(1)}") + "{{ loop." + self.one("index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem", "nextitem", "depth") + " }}" + b() + self.tag("endfor"),
            lambda: self.tag(f"for x in {self.items(1)} if {self.truth(1)}") + "{{ x }}{{ loop.length }}" + b() + self.tag("else") + b() + self.tag("endfor"),
            lambda: self.tag("for k, v in d.items()") + "{{ k }}={{ v }}" + self.tag(f"if loop.index == {self.one(1, 2)}") + self.tag(self.one("break", "continue")) + self.tag("endif") + b() + self.tag("endfor"),
            lambda: self.tag(f"for x in {self.any(1)}") + "{{ x }}," + self.tag("endfor"),
            lambda: self.tag("set ns = namespace(n=0, t='')") + self.tag(f"for x in {self.items(1)}") + self.tag("set ns.n = ns.n + 1") + self.tag("set ns.t = ns.t ~ x") + self.tag("endfor") + "{{ ns.n }}{{ ns.t }}",
            lambda: self.tag("macro f(a, b='B', c=a)") + "[{{ a }}|{{ b }}|{{ c }}" + b() + "]" + self.tag("endmacro") + f"{{{{ f({self.any(1)}) }}}}{{{{ f(1, b={self.any(1)}) }}}}",
            lambda: self.tag("macro g()") + "<{{ caller(1) }}{{ varargs }}{{ kwargs }}>" + self.tag("endmacro") + self.tag("call(y) g(2, k=3)") + "{{ y }}" + b() + self.tag("endcall"),
            lambda: self.tag("set v") + b() + self.tag("endset") + "{{ v|length }}{{ v }}",
            lambda: self.tag("set v | upper") + b() + self.tag("endset") + "{{ v }}",
            lambda: self.tag(f"filter {self.one('upper', 'trim', 'length', 'indent(2)')}") + b() + self.tag("endfilter"),
            lambda: self.tag(f"with w = {self.any(1)}, v = 2") + "{{ w }}{{ v }}" + b() + self.tag("endwith") + "{{ w }}",
            lambda: self.tag("raw") + " {{ raw }} {% if %} " + self.tag("endraw"),
            lambda: self.tag("for x in [[1, [2, 3]], 4] recursive") + "{{ loop.depth }}{{ loop(x) if x is iterable else x }}" + self.tag("endfor"),
            lambda: self.tag("for x in [1, 1, 2, 2]") + "{{ loop.changed(x) }}{{ loop.cycle('a', 'b') }}" + self.tag("endfor"),
            lambda: self.tag("generation") + b() + self.tag("endgeneration"),
            lambda: self.tag(f"set a, b = ({self.any(1)}, {self.any(1)})") + "{{ a }}{{ b }}",
            lambda: "{{ raise_exception('no: ' ~ " + self.string(1) + ") }}",
            lambda: "{{ strftime_now('" + self.one("%d %b %Y", "%Y-%m-%d", "%A %B %-d, %H:%M:%S", "%j %U %p %I %y %%") + "') }}",
        )()  # fmt: skip

    def template(self):
        r = self.r.random()
        if r < 0.6:
            return self.printed(self.r.randint(1, 3))
        return self.body(self.r.randint(1, 2))


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 7, 1, 12, 34, 56)


def main():
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--count", type=int, default=2600)
    parser.add_argument("--out", default=str(here / "differential.json"))
    options = parser.parse_args()
    chat.datetime = Clock

    def too_long(*_):
        raise RuntimeError("took too long")

    signal.signal(signal.SIGALRM, too_long)
    generator = Generator(options.seed)
    cases, seen, fixed = [], set(), iter(FIXED)
    while len(cases) < options.count:
        template = next(fixed, None) or generator.template()
        if template in seen or len(template) > 260:
            continue
        seen.add(template)
        case = {"template": template}
        signal.alarm(2)
        try:
            case["text"] = chat._compile_jinja_template(template).render(**CONTEXT)
            case["text"].encode()
        except UnicodeEncodeError:
            signal.alarm(0)
            continue
        except Exception as error:
            case.pop("text", None)
            case["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]
        signal.alarm(0)
        # Addresses and complex numbers have no counterpart; an assertion's text is Python's own.
        said = case.get("text", "") + case.get("error", "")
        if "took too long" in said or " at 0x" in said or "object at" in said or "complex" in said or "j)" in said or len(said) > 300:
            continue
        cases.append(case)
    errors = sum("error" in case for case in cases)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    with open(options.out, "w", encoding="utf-8") as file:
        file.write('{"context": ' + json.dumps(CONTEXT, ensure_ascii=False) + ',\n"cases": [\n' + lines + "\n]}\n")
    print(f"{len(cases)} cases, {errors} of them errors, in {options.out}")


if __name__ == "__main__":
    main()
