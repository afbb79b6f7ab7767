"""Calls of tools and reasoning with the official client package:  python tools_test.py CHATSERVER MODEL

MODEL is tests/fixtures/script, which thinks, calls a tool, and says something about what that gave.
"""
import json
import socket
import subprocess
import sys
import time
from typing import Literal

import openai
import pydantic

with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    address = "127.0.0.1:%d" % s.getsockname()[1]

server = subprocess.Popen([sys.argv[1], "-model", sys.argv[2], "-listen", address])
try:
    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0, timeout=120)
    for _ in range(200):
        try:
            model = client.models.list().data[0].id
            break
        except openai.APIConnectionError:
            assert server.poll() is None, "the server has ended"
            time.sleep(0.05)
    city = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": city}}]
    messages = [{"role": "user", "content": "How warm is it in Oslo?"}]
    common = {"model": model, "messages": messages, "tools": tools, "temperature": 0}
    ask = lambda **options: client.chat.completions.create(**{**common, **options})

    choice = ask().choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "I ask:", choice
    assert choice.message.reasoning_content == "Let me look it up.", choice
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.id and call.function.name == "weather", call
    assert json.loads(call.function.arguments) == {"city": "Oslo"}, call

    text, thinking, calls, finish = "", "", {}, None
    for chunk in ask(stream=True):
        for choice_ in chunk.choices:
            text += choice_.delta.content or ""
            thinking += getattr(choice_.delta, "reasoning_content", None) or ""
            for part in choice_.delta.tool_calls or []:
                calls.setdefault(part.index, ["", ""])
                calls[part.index][0] += part.function.name or ""
                calls[part.index][1] += part.function.arguments or ""
            finish = choice_.finish_reason or finish
    assert (text, thinking, finish) == ("I ask:", "Let me look it up.", "tool_calls"), (text, thinking, finish)
    assert calls[0][0] == "weather" and json.loads(calls[0][1]) == {"city": "Oslo"} and len(calls) == 1, calls

    # A call is required, or one of that tool: thinking may come before it, and no text.
    # (The model knows its own words alone, so the schema leaves it no choice of others.)
    oslo = {"type": "object", "properties": {"city": {"const": "Oslo"}}, "required": ["city"]}
    bound = [{"type": "function", "function": {"name": "weather", "parameters": oslo}}]
    clock = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
    for choice_ in ["required", {"type": "function", "function": {"name": "weather"}}]:
        forced = ask(tools=bound, tool_choice=choice_).choices[0]
        assert forced.finish_reason == "tool_calls" and not forced.message.content, forced
        assert forced.message.tool_calls[0].function.name == "weather", forced
    named = ask(tools=[*bound, clock], tool_choice={"type": "function", "function": {"name": "clock"}}).choices[0]
    assert named.message.tool_calls[0].function.name == "clock", named
    assert json.loads(named.message.tool_calls[0].function.arguments) == {}, named
    assert ask(tool_choice="none").choices[0].message.tool_calls is None

    # The client's own helpers for typed arguments, whole and streamed: the schema leaves the model no other city.
    class weather(pydantic.BaseModel):
        city: Literal["Bergen"]

    typed = {"model": model, "messages": messages, "tools": [openai.pydantic_function_tool(weather)], "max_tokens": 200}
    parsed = client.chat.completions.parse(**typed, temperature=0)
    (strict,) = parsed.choices[0].message.tool_calls
    assert strict.function.parsed_arguments.city == "Bergen", strict
    pieces = ""
    with client.chat.completions.stream(**typed, temperature=0) as events:
        for event in events:
            if event.type == "tool_calls.function.arguments.delta":
                pieces += event.arguments_delta
        final = events.get_final_completion().choices[0].message.tool_calls[0]
    assert final.function.parsed_arguments.city == "Bergen" and json.loads(pieces)["city"] == "Bergen", (pieces, final)

    # What the client got goes back as it is, with the tool's answer.
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "-3 <tool_call>"}]
    last = ask().choices[0]
    assert (last.message.content, last.finish_reason) == ("It is cold.", "stop"), last
    assert last.message.tool_calls is None
finally:
    server.kill()
    server.wait()
print("the client package openai", openai.__version__, "calls tools through the chat server")
