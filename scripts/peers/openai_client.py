#!/usr/bin/env python3
"""Use a server with the official Python client, as its documentation does.

    openai_client.py BASE_URL TOOLS_URL     prints a line per check; exits with 1 if one fails

The servers have `--alias peers` and no `--lenient`; the template of the second has tools.
"""

import asyncio
import base64
import json
import math
import struct
import sys
import time
import traceback
import urllib.request
from typing import Literal

import openai
from pydantic import BaseModel, Field

BASE = sys.argv[1]
MODEL = "peers"
TOOLS_BASE = sys.argv[2]
client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0, timeout=60)
with_tools = openai.OpenAI(base_url=f"{TOOLS_BASE}/v1", api_key="none", max_retries=0, timeout=60)
HELLO = [{"role": "user", "content": "Tell me a story."}]
checks = []


def check(function):
    checks.append(function)
    return function


def refused(error: type, param: str | None, call) -> openai.APIStatusError:
    try:
        call()
    except error as e:
        assert isinstance(e, openai.APIStatusError)
        assert e.param == param, f"param is {e.param}, expected {param}"
        assert e.body is not None and set(e.body) >= {"message", "type", "param", "code"}
        assert e.request_id
        return e
    raise AssertionError("the request was not refused")


@check
def models():
    page = client.models.list()
    assert [model.id for model in page] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"
    refused(openai.NotFoundError, None, lambda: client.models.retrieve("other"))


@check
def chat():
    reply = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=9, seed=1)
    choice = reply.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length" and reply.usage.completion_tokens == 9
    again = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=9, seed=1)
    assert again.choices[0].message.content == choice.message.content
    assert again.system_fingerprint == reply.system_fingerprint


@check
def chat_parts_and_developer_role():
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Tell me a story."}]},
    ]
    reply = client.chat.completions.create(model=MODEL, messages=messages, max_completion_tokens=4)
    assert reply.usage.completion_tokens == 4


@check
def chat_stream_is_the_whole_reply():
    options = dict(model=MODEL, messages=HELLO, max_tokens=20, seed=3)
    whole = client.chat.completions.create(**options).choices[0].message.content
    chunks = list(client.chat.completions.create(stream=True, **options))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[-2:]] == [None, "length"]
    assert len({c.id for c in chunks}) == 1
    assert all(c.usage is None for c in chunks)


@check
def chat_stream_usage():
    options = dict(model=MODEL, messages=HELLO, max_tokens=5, seed=3)
    whole = client.chat.completions.create(**options).usage
    chunks = list(
        client.chat.completions.create(
            stream=True, stream_options={"include_usage": True}, **options
        )
    )
    assert all(c.usage is None for c in chunks[:-1])
    assert chunks[-1].choices == []
    last = chunks[-1].usage
    assert (last.prompt_tokens, last.completion_tokens, last.total_tokens) == (
        whole.prompt_tokens,
        whole.completion_tokens,
        whole.total_tokens,
    )


@check
def chat_stream_helper():
    with client.chat.completions.stream(model=MODEL, messages=HELLO, max_tokens=12, seed=3) as s:
        kinds = {event.type for event in s}
        final = s.current_completion_snapshot
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].finish_reason == "length"
    assert len(final.choices[0].message.content) > 12


@check
def chat_logprobs():
    options = dict(model=MODEL, messages=HELLO, max_tokens=6, seed=3, logprobs=True)
    reply = client.chat.completions.create(top_logprobs=4, **options)
    content = reply.choices[0].logprobs.content
    assert len(content) == 6
    text = b"".join(bytes(token.bytes) for token in content).decode()
    assert text == reply.choices[0].message.content
    for token in content:
        top = [other.logprob for other in token.top_logprobs]
        assert len(top) == 4 and top == sorted(top, reverse=True) and top[0] <= 0
        same = [other for other in token.top_logprobs if other.bytes == token.bytes]
        assert all(other.logprob == token.logprob for other in same)
    chunks = client.chat.completions.create(top_logprobs=4, stream=True, **options)
    streamed = [t for c in chunks for t in (c.choices[0].logprobs or NONE).content]
    assert streamed == content


class NONE:
    content = []


@check
def chat_n():
    reply = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=8, seed=5, n=3, temperature=1
    )
    texts = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert reply.usage.completion_tokens == 24


class Animal(BaseModel):
    name: Literal["fox", "raven", "wolf"]
    legs: int = Field(ge=0, le=4)
    tame: bool


class Tale(BaseModel):
    title: str = Field(max_length=20)
    animals: list[Animal] = Field(min_length=1, max_length=1)


@check
def chat_parse_a_pydantic_model():
    for seed in range(5):
        reply = client.chat.completions.parse(
            model=MODEL, messages=HELLO, response_format=Tale, temperature=1, seed=seed,
            max_tokens=1000,
        )  # fmt: skip
        choice = reply.choices[0]
        assert choice.finish_reason == "stop", choice.finish_reason
        tale = choice.message.parsed
        assert isinstance(tale, Tale) and len(tale.animals) == 1, tale


@check
def chat_parse_is_an_error_when_cut():
    try:
        client.chat.completions.parse(
            model=MODEL, messages=HELLO, response_format=Tale, max_tokens=3
        )
    except openai.LengthFinishReasonError:
        return
    raise AssertionError("a text that was cut was parsed")


@check
def chat_json_object():
    reply = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=2000,
        seed=1,
        temperature=1,
        response_format={"type": "json_object"},
    )
    choice = reply.choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


@check
def chat_schema_that_cannot_be_followed():
    schema = {"type": "object", "properties": {"a": {"type": "nothing"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    call = lambda: client.chat.completions.create(  # noqa: E731
        model=MODEL, messages=HELLO, response_format=form
    )
    try:
        call()
    except openai.BadRequestError as e:
        assert e.code == "grammar_not_supported"
        return
    raise AssertionError("the schema was accepted")


@check
def chat_schema_of_a_json_object():
    reply = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=20,
        extra_body={"response_format": {"type": "json_object", "schema": {"const": "42"}}},
    )
    assert reply.choices[0].message.content == '"42"', reply.choices[0].message.content


@check
def completion_echo_and_logprobs():
    reply = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=3, echo=True, logprobs=2, temperature=0
    )
    choice = reply.choices[0]
    lists = choice.logprobs
    assert "".join(lists.tokens[1:]) == choice.text, (lists.tokens, choice.text)
    assert lists.token_logprobs[0] is None and all(p <= 0 for p in lists.token_logprobs[1:])
    n = reply.usage.total_tokens
    assert len(lists.tokens) == len(lists.top_logprobs) == len(lists.text_offset) == n
    # Programs compare these numbers to tell greedy tokens.
    for p, top in list(zip(lists.token_logprobs, lists.top_logprobs, strict=True))[-3:]:
        assert p == max(top.values()), (p, top)


@check
def completion_scores_the_end_token():
    vocabulary = client.models.retrieve(MODEL).bitnet["vocabulary"]
    bias = {str(id): 100 for id in range(vocabulary - 16, vocabulary)}
    reply = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=1, echo=True, logprobs=1, temperature=0,
        logit_bias=bias,
    )  # fmt: skip
    choice = reply.choices[0]
    assert choice.finish_reason == "stop", "the text was to end at once"
    assert len(choice.logprobs.tokens) == reply.usage.prompt_tokens + 1, choice.logprobs.tokens


@check
def completion_prompts_and_stop():
    prompts = ["Once upon a time", "The fox", [1, 2, 3]]
    reply = client.completions.create(model=MODEL, prompt=prompts[:2], max_tokens=4, n=2)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    reply = client.completions.create(model=MODEL, prompt=prompts[2], max_tokens=4)
    assert reply.usage.prompt_tokens == 3
    text = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=40, seed=2
    ).choices[0].text  # fmt: skip
    stop = text.split()[3]
    reply = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=40, seed=2, stop=[stop]
    )
    assert reply.choices[0].text == text[: text.index(stop)]
    assert reply.choices[0].finish_reason == "stop"


@check
def completion_stream_is_the_whole_reply():
    options = dict(model=MODEL, prompt="The fox", max_tokens=30, seed=2, logprobs=1)
    whole = client.completions.create(**options).choices[0]
    chunks = list(client.completions.create(stream=True, **options))
    assert "".join(c.choices[0].text for c in chunks) == whole.text
    tokens = [t for c in chunks if (p := c.choices[0].logprobs) for t in p.tokens]
    assert tokens == whole.logprobs.tokens


@check
def embeddings():
    texts = ["a fox", "a raven"]
    # The client asks for base64, and decodes it.
    default = client.embeddings.create(model=MODEL, input=texts)
    floats = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    coded = client.embeddings.create(model=MODEL, input=texts, encoding_format="base64")
    for i in range(2):
        vector = default.data[i].embedding
        assert default.data[i].index == i
        assert math.isclose(sum(x * x for x in vector), 1, abs_tol=1e-5)
        as32 = [struct.unpack("f", struct.pack("f", x))[0] for x in floats.data[i].embedding]
        assert as32 == list(vector)
        raw = base64.b64decode(coded.data[i].embedding)
        assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == list(vector)
    assert default.usage.prompt_tokens == default.usage.total_tokens > 0
    refused(
        openai.BadRequestError, "dimensions",
        lambda: client.embeddings.create(model=MODEL, input="x", dimensions=3),
    )  # fmt: skip


@check
def errors():
    create = client.chat.completions.create
    bad = openai.BadRequestError
    refused(openai.NotFoundError, "model", lambda: create(model="gpt-5", messages=HELLO))
    refused(bad, "temperature", lambda: create(model=MODEL, messages=HELLO, temperature=3))
    refused(bad, "top_logprobs", lambda: create(model=MODEL, messages=HELLO, top_logprobs=3))
    refused(bad, "store", lambda: create(model=MODEL, messages=HELLO, store=True))
    refused(bad, "logit_bias", lambda: create(model=MODEL, messages=HELLO, logit_bias={"x": 1}))
    refused(bad, "stream_options", lambda: create(
        model=MODEL, messages=HELLO, stream_options={"include_usage": True}))  # fmt: skip
    refused(bad, "nonsense", lambda: create(
        model=MODEL, messages=HELLO, extra_body={"nonsense": 1}))  # fmt: skip
    long = [{"role": "user", "content": "word " * 5000}]
    try:
        create(model=MODEL, messages=long)
    except openai.BadRequestError as e:
        assert e.code == "context_length_exceeded"
        assert e.body["n_prompt_tokens"] > e.body["n_ctx"] and str(e.body["n_ctx"]) in e.message
    else:
        raise AssertionError("a prompt beyond the context was accepted")


class Weather(BaseModel):
    """Tells the weather of a day."""

    day: Literal["today", "tomorrow"]
    celsius: bool


WEATHER = openai.pydantic_function_tool(Weather, name="weather")


@check
def tools_required_and_parsed():
    for seed in range(3):
        reply = with_tools.chat.completions.parse(
            model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice="required", seed=seed,
            temperature=1,
        )  # fmt: skip
        choice = reply.choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.type == "function" and call.id and call.function.name == "weather"
        assert isinstance(call.function.parsed_arguments, Weather)


@check
def tools_in_a_stream_and_their_answer():
    named = {"type": "function", "function": {"name": "weather"}}
    options = dict(model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice=named, seed=1)
    whole = with_tools.chat.completions.create(**options).choices[0]
    name, arguments, ids = "", "", set()
    for chunk in with_tools.chat.completions.create(stream=True, **options):
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.index == 0
            name += call.function.name or ""
            arguments += call.function.arguments or ""
            ids |= {call.id} - {None}
        reason = chunk.choices[0].finish_reason
    (call,) = whole.message.tool_calls
    assert (name, arguments) == (call.function.name, call.function.arguments) and len(ids) == 1
    assert reason == whole.finish_reason
    Weather.model_validate_json(arguments)
    messages = [
        *HELLO,
        whole.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "It rains."},
    ]
    reply = with_tools.chat.completions.create(
        model=MODEL, messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=5
    )
    assert reply.choices[0].message.content


@check
def tools_are_refused_without_a_template_for_them():
    refused(openai.BadRequestError, "tools", lambda: client.chat.completions.create(
        model=MODEL, messages=HELLO, tools=[WEATHER]))  # fmt: skip


def function_of(tool: dict) -> dict:
    """Returns a tool in the form of responses."""
    return {"type": "function", **tool["function"]}


@check
def response_whole_and_as_a_stream():
    options = dict(
        model=MODEL, input="Tell me a story.", instructions="Be kind.", max_output_tokens=20,
        store=False, extra_body={"seed": 3},
    )  # fmt: skip
    whole = client.responses.create(**options)
    assert whole.status == "incomplete" and whole.usage.output_tokens == 20
    assert whole.incomplete_details.reason == "max_output_tokens" and whole.output_text
    deltas = []
    with client.responses.stream(**options) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                deltas.append(event.delta)
    assert event.type == "response.incomplete"
    assert "".join(deltas) == whole.output_text == event.response.output_text
    messages = [{"role": "system", "content": "Be kind."}, *HELLO]
    chat = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=20, seed=3)
    assert chat.choices[0].message.content == whole.output_text
    scored = client.responses.create(include=["message.output_text.logprobs"], **options)
    tokens = scored.output[0].content[0].logprobs
    assert "".join(token.token for token in tokens) == whole.output_text
    items = [*HELLO, *whole.output, {"role": "user", "content": "Go on."}]
    again = client.responses.create(model=MODEL, input=items, max_output_tokens=5)
    assert again.usage.input_tokens > whole.usage.input_tokens
    refused(openai.BadRequestError, "previous_response_id", lambda: client.responses.create(
        **options, previous_response_id=whole.id))  # fmt: skip


@check
def response_parsed():
    reply = client.responses.parse(
        model=MODEL, input="Tell me a story.", text_format=Weather, max_output_tokens=300
    )
    assert isinstance(reply.output_parsed, Weather)


@check
def response_with_a_function():
    options = dict(
        model=MODEL, input=HELLO, tools=[function_of(WEATHER)], tool_choice="required",
        extra_body={"seed": 3},
    )  # fmt: skip
    whole = with_tools.responses.create(**options)
    (call,) = whole.output
    assert call.type == "function_call" and call.name == "weather"
    Weather.model_validate_json(call.arguments)
    with with_tools.responses.stream(**options) as stream:
        final = stream.until_done().get_final_response()
    assert final.output[0].arguments == call.arguments
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    reply = with_tools.responses.create(
        model=MODEL, input=[*HELLO, call, output], tools=[function_of(WEATHER)],
        tool_choice="none", max_output_tokens=5,
    )  # fmt: skip
    assert reply.output_text


def running() -> float:
    with urllib.request.urlopen(f"{BASE}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return float(next(x for x in lines if x.startswith("bitnet:num_requests_running ")).split()[1])


@check
def cancel_in_mid_stream():
    body = {"ignore_eos": True}
    for _ in range(5):
        stream = client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=900, stream=True, n=4, extra_body=body
        )
        for _ in range(9):
            next(stream)
        assert running() > 0
        stream.close()
        end = time.monotonic() + 2
        while running() > 0:
            assert time.monotonic() < end, "the texts go on without their reader"
            time.sleep(0.01)


@check
def many_at_once():
    async def run():
        many = openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key="none", timeout=120)

        async def one(seed: int) -> str:
            reply = await many.chat.completions.create(
                model=MODEL, messages=HELLO, max_tokens=20, seed=seed
            )
            return reply.choices[0].message.content

        return await asyncio.gather(*(one(seed % 4) for seed in range(24)))

    texts = asyncio.run(run())
    assert all(texts[i] == texts[i % 4] for i in range(24))
    alone = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, seed=2)
    assert alone.choices[0].message.content == texts[2]


def main() -> None:
    n_failed = 0
    for function in checks:
        name = function.__name__.replace("_", " ")
        try:
            function()
            print(f"ok      {name}")
        except Exception:
            n_failed += 1
            print(f"FAILED  {name}")
            traceback.print_exc(limit=-2, file=sys.stdout)
    print(f"openai {openai.__version__} for Python: {len(checks) - n_failed} of {len(checks)} pass")
    sys.exit(1 if n_failed else 0)


if __name__ == "__main__":
    main()
