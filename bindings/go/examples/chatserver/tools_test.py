"""Calls of tools and reasoning with the official client package:  python tools_test.py CHATSERVER MODEL

MODEL is tests/fixtures/script, which thinks, calls a tool, and says something about what that gave.
"""
import json
import socket
import subprocess
import sys
import time

import openai

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
    ask = lambda **options: client.chat.completions.create(model=model, messages=messages, tools=tools, temperature=0, **options)

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
    assert calls == {0: ["weather", '{"city":"Oslo"}']}, calls

    # What the client got goes back as it is, with the tool's answer.
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "-3 <tool_call>"}]
    last = ask().choices[0]
    assert (last.message.content, last.finish_reason) == ("It is cold.", "stop"), last
    assert last.message.tool_calls is None
finally:
    server.kill()
    server.wait()
print("the client package openai", openai.__version__, "calls tools through the chat server")
