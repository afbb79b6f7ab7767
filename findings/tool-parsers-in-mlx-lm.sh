#!/bin/sh
# Three of mlx-lm's parsers of tool calls give something else than a call or an error for what a model may well write.
#
# Expected: what stands between a call's markers and is no call is refused, as most of the parsers do it; a call without arguments is a
# call; and arguments are always of one type.
#
# What happens (mlx-lm 0.32.0, 2026-11-30): `glm47` makes of a sentence a call of a tool with the name of its first word, and of the rest an
# argument "raw"; `longcat` raises an AttributeError for a name alone, which is how the template writes a call without arguments;
# `kimi_k2` gives arguments whose JSON was cut as a text, where those of a whole call are an object.
#
# What to do: check the name against the tools and the type of the arguments before anything runs.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder" \
    mlx-cpu==0.32.2 mlx==0.32.2 mlx-lm==0.32.0
PYTHONPATH=$folder python3 - <<'PYTHON'
from mlx_lm.tool_parsers import glm47, kimi_k2, longcat

city = {"type": "object", "properties": {"city": {"type": "string"}}}
tools = [{"type": "function", "function": {"name": "weather", "parameters": city}}]

sentence = glm47.parse_tool_call("I could look up the weather.", tools)
print("glm47, of a sentence:", sentence)
assert sentence["name"] == "I", "glm47 refuses a sentence now"

try:
    print("longcat, of a name alone:", longcat.parse_tool_call("now", tools))
    raise SystemExit("longcat takes a call without arguments now")
except AttributeError as error:
    print("longcat, of a name alone: AttributeError:", error)

head = "functions.weather:0<|tool_call_argument_begin|>"
whole, cut = (kimi_k2.parse_tool_call(head + json, tools)[0]["arguments"] for json in ('{"city": "Oslo"}', '{"city": "Oslo"'))
print("kimi_k2, of whole arguments:", repr(whole), "and of cut ones:", repr(cut))
assert isinstance(whole, dict) and isinstance(cut, str), "kimi_k2 gives one type now"
print("as on 2026-11-30: none of the three says that it is no call")
PYTHON
