#!/usr/bin/env python3
"""Writes messages.json: conversations as clients send them, and the prompts that transformers makes of them.

    python tests/template/messages.py [--templates FOLDER] [--out FILE]

Needs transformers (and no torch). Without arguments it writes the fixture of the Rust test of the same name, with the templates
below. With a folder of other people's templates and an --out of its own it makes a longer test, whose file the test reads if
MLXRT_MESSAGES names it. Two rules are ours and not transformers': arguments that are the text of a JSON object are that object
(as in mlx-lm's server), and a template that does not read a content's parts gets them joined (as in vLLM and llama.cpp).
"""

import argparse
import copy
import datetime
import json
import pathlib
import signal

import transformers.utils.chat_template_utils as chat

TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "trims": "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
    "whole": "{% for m in messages %}{{ m }}\n{{ m | tojson }}\n{% endfor %}{{ tools }}{{ documents }}{{ tools | tojson }}",
    "calls": "{% if tools is not none %}{{ tools | length }} tools{% endif %}{% if documents %}{{ documents[0].text }}{% endif %}"
    "{% for m in messages %}\n{{ m.role }}{% if m.reasoning_content %}<{{ m.reasoning_content }}>{% endif %}"
    "{% if m.thinking is defined %}({{ m.thinking }}){% endif %}{% if m.content is defined %}: {{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{% set f = c.function or c %}|{{ c.id }}|{{ f.name }}{% if f.arguments is mapping %}"
    "{% for k, v in f.arguments.items() %} {{ k }}={{ v }}{% endfor %}{% else %} text {{ f.arguments }}{% endif %}{% endfor %}"
    "{{ '!' if m.name is defined }}{{ '?' if m.refusal is defined }}{{ m.tool_call_id }}{% endfor %}",
    "parts": "{% for m in messages %}{{ m.role }}: {% if m.content is string %}S {{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'text' %}[{{ p.text }}]{% elif p['type'] == \"thinking\" %}<{{ p.thinking }}>"
    "{% endif %}{% endfor %}{% endif %}\n{% endfor %}",
    "parts of users": "{% for m in messages %}{{ m.role }}: {% if m.role == 'user' and m.content is not string %}"
    "{{ m.content | map(attribute='text') | join('+') }}{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "strict": "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('Unknown role: ' + m.role) }}{% endif %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
    "drops": "{% for m in messages %}{% if m.role == 'user' %}U {{ m.content }}{% elif m.role == 'assistant' %}A {{ m.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}",
    "thoughts": "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ m.role }}\n{{ c }}<|end|>{% endfor %}",
    "shouts": "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}",
    "numbers": "{{ n }}{{ n + 1 }}{{ n is integer }}{{ n | tojson }}{{ d }}{{ messages[0].content }}{{ nil is none }}",
}  # fmt: skip

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
BIG = 123456789012345678901234
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks \"up\" <é>.", "parameters": {"type": "object", "properties": {
    "city": {"type": "string", "description": "A city"}, "n": {"type": "integer", "maximum": BIG, "default": None}}, "required": ["city"]}}}  # fmt: skip

USER = {"role": "user", "content": "hello"}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "name": "look", "content": "3 °C"}


def text(*texts):
    return [{"type": "text", "text": text} for text in texts]


def call(arguments, **more):
    return {"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": arguments}, **more}


def calls(*calls, **more):
    return {"role": "assistant", "content": "", "tool_calls": list(calls), **more}


def shapes():
    """Name, messages, and what else goes in: tools, args, go_on."""
    oslo = {"city": "Oslo", "n": 2}
    tools = {"tools": [TOOL]}

    # What SDKs write beside what they mean.
    yield "null keys of a dump", [{**USER, "name": None}, {"role": "assistant", "content": "hi", "tool_calls": None, "refusal": None,
                                   "function_call": None, "audio": None, "reasoning_content": None}, USER], {}
    yield "content null beside calls", [USER, calls(call(oslo), content=None), RESULT], tools
    yield "content missing beside calls", [USER, {"role": "assistant", "tool_calls": [call(oslo)]}, RESULT], tools
    yield "content null", [USER, {"role": "assistant", "content": None}, USER], {}
    yield "content missing", [USER, {"role": "assistant"}, USER], {}
    yield "content empty", [USER, {"role": "assistant", "content": ""}, USER], {}
    yield "user's content null", [{"role": "user", "content": None}], {}
    yield "calls null", [USER, {"role": "assistant", "content": "ok", "tool_calls": None}, USER], {}
    yield "calls empty", [USER, {"role": "assistant", "content": "ok", "tool_calls": []}, USER], {}
    yield "unknown keys", [{**USER, "x": [1, {"y": None}], "": "e"}], {}
    yield "names", [{**USER, "name": "Ann"}, {"role": "assistant", "content": "hi", "name": "Bot"}, USER], {}
    yield "a name of another type", [{**USER, "name": 7}], {}

    # Arguments.
    for name, arguments in {
        "object": oslo, "object as text": json.dumps(oslo), "spread text": '{\n "city" : "Oslo",\n "n":2\n}\n', "empty object as text": "{}",
        "no JSON": "city=Oslo", "half an object": '{"city": "Os', "empty text": "", "text of a list": "[1, 2]", "text of a string": '"a"',
        "text of null": "null", "null": None, "a list": [1, 2], "a number": 5, "deep": {"a": {"b": [1, {"c": None}], "d": True, "e": ""}},
        "deep as text": '{"a": {"b": [1, {"c": null}]}, "d": "{\\"e\\": 1}"}', "long numbers": {"n": BIG, "m": -BIG, "f": 1.5e300, "g": 1e16, "z": -0.0},
        "long numbers as text": f'{{"n": {BIG}, "m": [-{BIG}], "f": 1E-7, "i": -0}}', "keys twice": '{"a": 1, "b": 2, "a": 3}',
        "escapes as text": '{"q": "\\"\\\\ \\u00e9 \\ud83d\\ude00 \\n", "é": "<|im_end|>"}',
    }.items():  # fmt: skip
        yield f"arguments: {name}", [USER, calls(call(arguments)), RESULT], tools
    missing = call(0)
    del missing["function"]["arguments"]
    yield "arguments: missing", [USER, calls(missing), RESULT], tools
    yield "calls in parallel", [USER, calls(call(oslo), call('{"city": "Bern"}', id="bcdefghij")), RESULT, {**RESULT, "tool_call_id": "bcdefghij"}, USER], tools
    yield "calls beside text", [USER, calls(call(oslo), content="Let me look."), RESULT, {"role": "assistant", "content": "Cold."}, USER], tools
    yield "flat calls", [USER, calls({"name": "look", "arguments": '{"city": "Oslo"}'}), RESULT], tools
    yield "calls without an id", [USER, calls({"type": "function", "function": {"name": "look", "arguments": oslo}}), RESULT], tools
    yield "calls with an index", [USER, calls(call(oslo, index=0)), RESULT], tools
    yield "calls without tools", [USER, calls(call(json.dumps(oslo))), RESULT], {}
    yield "a call at the end", [USER, calls(call(oslo))], tools

    # Tool results.
    for name, content in {
        "null": None, "object": {"temp": 3, "s": "a'b"}, "list": [1, "x", None], "empty list": [], "list of objects": [{"a": 1}, {"type": "x"}],
        "files": [{"type": "file", "path": "a.txt"}], "number": 3, "float": 2.50, "big": BIG, "true": True, "text of an object": '{"t": 21}',
        "parts": text("3 °C", " and rain"), "one part": text("x"), "empty": "",
    }.items():  # fmt: skip
        yield f"tool result: {name}", [USER, calls(call(oslo)), {**RESULT, "content": content}], tools
    yield "tool result: missing", [USER, calls(call(oslo)), {"role": "tool", "tool_call_id": "abcdefghi"}], tools
    yield "tool result: bare", [USER, calls(call(oslo)), {"role": "tool", "content": "x"}], tools
    for role in ["function", "ipython", "observation"]:
        yield f"result of {role}", [USER, calls(call(oslo)), {"role": role, "name": "look", "content": {"t": 1}}], tools

    # Reasoning.
    for key in ["reasoning_content", "thinking", "reasoning"]:
        thought = {"role": "assistant", "content": "4", key: "2+2"}
        yield f"{key}", [USER, thought], {}
        yield f"{key} of an earlier turn", [USER, thought, USER], {}
        yield f"{key} beside calls", [USER, calls(call(json.dumps(oslo)), **{key: "look it up"}), RESULT], tools
        yield f"{key} beside content null", [USER, calls(call(oslo), content=None, **{key: "look"}), RESULT], tools
        yield f"{key} null", [USER, {**thought, key: None}, USER], {}
        yield f"{key} empty", [USER, {**thought, key: ""}, USER], {}
    yield "three names of reasoning", [USER, {"reasoning": "r", "thinking": "t", "role": "assistant", "content": "4", "reasoning_content": "c"}], {}
    yield "thinking and reasoning", [USER, {"role": "assistant", "reasoning": "r", "content": "4", "thinking": "t"}], {}
    yield "reasoning of a user", [{**USER, "reasoning": "r"}], {}
    yield "thoughts in the content", [USER, {"role": "assistant", "content": "<think>\na\n</think>\n\nb"}, USER], {}

    # Parts.
    yield "parts of the user", [{"role": "user", "content": text(" a ", "b")}], {}
    yield "one part of the user", [{"role": "user", "content": text("a")}], {}
    yield "parts of the system", [{"role": "system", "content": text("be", " brief")}, USER], {}
    yield "parts of the assistant", [USER, {"role": "assistant", "content": text("a", " b\n")}, USER], {}
    yield "a string beside parts", [USER, {"role": "assistant", "content": "x"}, {"role": "user", "content": text("y ", "z")}], {}
    yield "no parts", [{"role": "user", "content": []}], {}
    yield "parts with more keys", [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "x"}, "annotations": None}]}], {}

    # Roles.
    yield "developer", [{"role": "developer", "content": "be brief"}, USER], {}
    yield "developer and system", [{"role": "system", "content": "be kind"}, {"role": "developer", "content": "be brief"}, USER], {}
    yield "developer with tools", [{"role": "developer", "content": "be brief"}, USER], tools
    yield "system", [{"role": "system", "content": " be brief\n"}, USER, {"role": "assistant", "content": " x "}, USER], {}
    yield "a role of nobody", [{"role": "narrator", "content": "once"}, USER], {}

    # Tools, documents, arguments.
    yield "no tools", [USER], {}
    yield "empty tools", [USER], {"tools": []}
    yield "tools", [USER], tools
    yield "two tools", [{"role": "system", "content": "be brief"}, USER], {"tools": [TOOL, {"type": "function", "function": {"name": "now", "parameters": {}}}]}
    yield "bare tools", [USER], {"tools": [TOOL["function"]]}
    yield "documents", [USER], {"args": {"documents": [{"title": "T", "text": "D"}]}}
    yield "documents null", [USER], {"args": {"documents": None}}
    for value in [True, False, None]:
        yield f"enable_thinking {value}", [USER], {"args": {"enable_thinking": value}}
    yield "long numbers", [USER], {"args": {"n": BIG, "d": {"m": [-BIG, 2.5, 18446744073709551616]}, "nil": None}}
    yield "another bos token", [USER], {"args": {"bos_token": "<bos>"}}

    # An answer that goes on.
    for answer in ["i", "end", "hello", "im_end", "so ", " so", " so \n", "", " ", "\n", "a\n\nb", "<think>\nfoo", "<think>\na\n</think>\n\nb", "{\"a\": [", "é", "I", "|>"]:
        yield f"go on: {answer!r}", [USER, {"role": "assistant", "content": answer}], {"go_on": True}
    yield "go on: said before", [USER, {"role": "assistant", "content": "hello"}, USER, {"role": "assistant", "content": "hello"}], {"go_on": True}
    yield "go on: parts", [USER, {"role": "assistant", "content": text("one ", "two ")}], {"go_on": True}
    yield "go on: one part", [USER, {"role": "assistant", "content": text("one")}], {"go_on": True}
    yield "go on: nothing", [USER, {"role": "assistant", "content": None}], {"go_on": True}
    yield "go on: no parts", [USER, {"role": "assistant", "content": []}], {"go_on": True}
    yield "go on: with reasoning", [USER, {"role": "assistant", "content": "fo", "reasoning": "r"}], {"go_on": True}
    yield "go on: with tools", [USER, {"role": "assistant", "content": "fo"}], {"go_on": True, **tools}
    yield "go on: with a system message", [{"role": "system", "content": "fo"}, USER, {"role": "assistant", "content": "fo"}], {"go_on": True}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 7, 1, 12, 34, 56)


def render(template, messages, tools=None, args=None, go_on=False):
    """What apply_chat_template does before it makes tokens, with a generation prompt unless an answer goes on."""
    args = dict(args or {})
    documents = args.pop("documents", None)
    conversation = chat._normalize_chat_messages(copy.deepcopy(messages))
    texts, _ = chat.render_jinja_template(
        [conversation], tools=tools, documents=documents, chat_template=template, continue_final_message=go_on,
        add_generation_prompt=not go_on, **{**VARIABLES, **args},
    )  # fmt: skip
    return texts[0]


def is_text(part):
    return isinstance(part, dict) and part.get("type") == "text"


def reads_parts(template, role):
    """Whether both texts come out, and nothing of how Python or JSON print a part."""
    said = {"role": role, "content": [{"type": "text", "text": f"Part{n}", "zzz": 1} for n in "AB"]}
    if role in ("system", "developer"):
        messages = [said, USER]
    elif role == "user":
        messages = [said]
    elif role == "assistant":
        messages = [USER, said, USER]
    else:
        messages = [USER, calls(call({})), {**RESULT, **said}]
    try:
        shown = render(template, messages)
    except Exception:
        return False
    return "PartA" in shown and "PartB" in shown and "zzz" not in shown


def as_templates_take_it(template, messages, cache):
    messages = copy.deepcopy(messages)
    for message in messages:
        for made in message.get("tool_calls") or []:
            function = made.get("function", made)
            if isinstance(function.get("arguments"), str):
                try:
                    parsed = json.loads(function["arguments"])
                except ValueError:
                    continue
                if isinstance(parsed, dict):
                    function["arguments"] = parsed
        content = message.get("content")
        speaks = message["role"] in ("system", "developer", "user", "assistant")
        if isinstance(content, list) and (speaks or content) and all(map(is_text, content)):
            role = message["role"]
            if role not in cache:
                cache[role] = reads_parts(template, role)
            if not cache[role]:
                message["content"] = "".join(part["text"] for part in content)
    return messages


def main():
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser()
    parser.add_argument("--templates")
    parser.add_argument("--out", default=str(here / "messages.json"))
    options = parser.parse_args()
    chat.datetime = Clock
    templates = TEMPLATES
    if options.templates:
        templates = {path.stem: path.read_text(encoding="utf-8") for path in sorted(pathlib.Path(options.templates).glob("*.jinja"))}

    def too_long(*_):
        raise RuntimeError("took too long")

    signal.signal(signal.SIGALRM, too_long)
    all_shapes = [{"shape": name, "messages": messages, **more} for name, messages, more in shapes()]
    prompts, errors = {}, 0
    for name, template in templates.items():
        cache, prompts[name] = {}, []
        for shape in all_shapes:
            given = {key: shape[key] for key in ("tools", "args", "go_on") if key in shape}
            messages = as_templates_take_it(template, shape["messages"], cache)
            signal.alarm(5)
            try:
                prompts[name].append(render(template, messages, **given))
            except Exception as error:
                assert "took too long" not in str(error)
                prompts[name].append(None)
                errors += 1
            signal.alarm(0)
    with open(options.out, "w", encoding="utf-8") as file:
        lines = lambda items: ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        file.write('{"variables": ' + json.dumps(VARIABLES) + ',\n"shapes": [\n' + lines(all_shapes) + '\n],\n"templates": [\n')
        file.write(lines({"name": name, "source": templates[name], "prompts": prompts[name]} for name in templates) + "\n]}\n")
    print(f"{sum(map(len, prompts.values()))} prompts, {errors} of them errors, in {options.out}")


if __name__ == "__main__":
    main()
