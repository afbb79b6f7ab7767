"""The official client package against the chat server:  python client_test.py CHATSERVER MODEL"""
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
            models = client.models.list()
            break
        except openai.APIConnectionError:
            assert server.poll() is None, "the server has ended"
            time.sleep(0.05)
    model = models.data[0].id
    question = [{"role": "user", "content": "What is the capital of France?"}]

    def ask(**options):
        options = {"model": model, "messages": question, "temperature": 0, **options}
        return client.chat.completions.create(**options)

    def stream(**options):
        text, finish, usage, chunks = "", None, None, 0
        for chunk in ask(stream=True, **options):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                chunks += 1
                finish = choice.finish_reason or finish
        return text, finish, usage, chunks

    whole = ask()
    assert whole.choices[0].message.content == "The capital of France is Paris.", whole
    assert whole.choices[0].finish_reason == "stop" and whole.choices[0].message.role == "assistant"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    text, finish, usage, chunks = stream(stream_options={"include_usage": True})
    assert (text, finish) == ("The capital of France is Paris.", "stop") and chunks > 3, (text, finish, chunks)
    assert usage.completion_tokens == whole.usage.completion_tokens
    # The session of the request before has the prompt.
    assert usage.prompt_tokens_details.cached_tokens > 0, usage

    # Without being asked, no chunk tells the usage; asked, all but the last say that it is not known yet.
    assert stream()[2] is None
    told = [chunk.usage for chunk in ask(stream=True, stream_options={"include_usage": True})]
    assert told[-1].total_tokens == whole.usage.total_tokens and told[:-1] == [None] * (len(told) - 1), told

    assert client.models.retrieve(model).id == model
    try:
        client.models.retrieve("another")
    except openai.NotFoundError as e:
        assert e.code == "model_not_found", e
    else:
        raise AssertionError("another model is there")

    # Of each token of the text how likely it was, with the likeliest ones beside it: here, the first of these.
    likely = ask(logprobs=True, top_logprobs=3).choices[0]
    assert "".join(entry.token for entry in likely.logprobs.content) == likely.message.content
    assert bytes(byte for entry in likely.logprobs.content for byte in entry.bytes).decode() == likely.message.content
    for entry in likely.logprobs.content:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3, entry
        assert entry.top_logprobs[0].token == entry.token and entry.top_logprobs[0].logprob == entry.logprob, entry
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob >= entry.top_logprobs[2].logprob, entry
    streamed = [e for c in ask(stream=True, logprobs=True) for choice in c.choices if choice.logprobs for e in choice.logprobs.content]
    assert [(e.token, e.logprob) for e in streamed] == [(e.token, e.logprob) for e in likely.logprobs.content]
    assert streamed[0].top_logprobs == [] and ask().choices[0].logprobs is None

    assert stream(max_tokens=2)[1] == "length"
    assert ask(max_completion_tokens=2).usage.completion_tokens == 2
    assert stream(stop=" France")[:2] == ("The capital of", "stop")
    assert stream(stop=["never", " capital"])[0] == "The"

    hot = {"temperature": 1.5, "top_p": 0.9, "seed": 7, "max_tokens": 6, "messages": [{"role": "user", "content": "Tell me a story."}]}
    assert stream(**hot)[0] == stream(**hot)[0] != ""
    assert stream(**{**hot, "top_p": 0, "seed": 8})[0] == stream(**{**hot, "temperature": 0})[0]

    # The client's own helper for structured answers, and JSON of any kind.
    class Place(pydantic.BaseModel):
        capital: Literal["Paris", "Rome", "Berlin"]
        certain: bool

    parsed = client.chat.completions.parse(model=model, messages=question, temperature=1.5, seed=3, response_format=Place)
    assert isinstance(parsed.choices[0].message.parsed, Place) and parsed.choices[0].finish_reason == "stop", parsed
    loose = stream(response_format={"type": "json_object"}, temperature=1.5, seed=4, max_tokens=60)
    assert loose[0].startswith("{") and (loose[1] == "length" or isinstance(json.loads(loose[0]), dict)), loose

    for wrong, kind in [
        ({"messages": []}, openai.BadRequestError),
        ({"messages": [{"content": "no role"}]}, openai.BadRequestError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, openai.BadRequestError),
        ({"model": "another"}, openai.NotFoundError),
        ({"n": 2}, openai.BadRequestError),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}}, openai.BadRequestError),
        ({"tool_choice": "required"}, openai.BadRequestError),
        ({"tool_choice": "always"}, openai.BadRequestError),
        ({"logprobs": True, "top_logprobs": 21}, openai.BadRequestError),
    ]:
        for call in (ask, stream):
            try:
                call(**wrong)
            except kind as e:
                assert e.body["message"] and e.type == "invalid_request_error", e
                for param in {"n", "response_format", "tool_choice", "top_logprobs"} & {*wrong}:
                    assert e.param == param, e
            else:
                raise AssertionError(f"{wrong} is accepted")

    # A client that goes away ends its request, of which the server could otherwise tell nobody.
    began = time.time()
    story = ask(messages=[{"role": "user", "content": "Tell me a long story."}], stream=True, extra_body={"stop": None})
    for chunk in story:
        if chunk.choices[0].delta.content:
            break
    story.close()
    assert ask(max_tokens=2).usage.completion_tokens == 2 and time.time() - began < 10
finally:
    server.kill()
    server.wait()
print("the client package openai", openai.__version__, "streams from the chat server")
