"""Use a server with Anthropic's client for Python, as its documentation does.

    anthropic_client.py BASE_URL TOOLS_URL KEY     prints a line per check; exits with 1 if one
                                                   fails

The servers have `--alias peers`, a key and no `--lenient`; the template of the second has
tools.
"""

import sys
import traceback
from typing import Literal

import anthropic
from pydantic import BaseModel

BASE, TOOLS, KEY = sys.argv[1:]
MODEL = "peers"
HELLO = [{"role": "user", "content": "Tell me a story."}]
client = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
with_tools = anthropic.Anthropic(base_url=TOOLS, api_key=KEY, max_retries=0)
SEED = {"seed": 3}
checks = []


def check(function):
    checks.append(function)
    return function


def refused(kind: type[anthropic.APIStatusError], field: str, call) -> None:
    try:
        call()
    except kind as error:
        body = error.body
        assert body["type"] == "error" and body["error"]["param"] == field, body
        assert error.request_id and error.type == body["error"]["type"], body
    else:
        raise AssertionError(f"{field} was accepted")


@check
def message_whole_and_as_a_stream():
    options = dict(model=MODEL, messages=HELLO, max_tokens=20, extra_body=SEED)
    whole = client.messages.create(**options)
    assert whole.type == "message" and whole.role == "assistant" and whole.model == MODEL
    assert whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 20
    (block,) = whole.content
    assert block.type == "text" and block.text
    assert whole._request_id
    with client.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == block.text == final.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == 20
    kinds = [event.type for event in client.messages.create(stream=True, **options)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


@check
def counted_tokens_are_those_of_the_prompt():
    system = [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
    options = dict(model=MODEL, messages=HELLO, system=system)
    count = client.messages.count_tokens(**options)
    usage = client.messages.create(max_tokens=1, **options).usage
    assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


@check
def stop_sequences():
    options = dict(model=MODEL, messages=HELLO, max_tokens=20, extra_body=SEED)
    text = client.messages.create(**options).content[0].text
    stop = text.split()[-1]
    stopped = client.messages.create(stop_sequences=["\x07", stop], **options)
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == stop
    assert stopped.content[0].text == text.split(stop)[0]


@check
def a_billing_line_that_changes_keeps_the_prefix():
    def usage(cch: str):
        line = f"x-anthropic-billing-header: cc_version=2.1.0; cch={cch};"
        system = [{"type": "text", "text": line}, {"type": "text", "text": "Be kind. " * 60}]
        raw = client.messages.with_raw_response.create(
            model=MODEL, messages=HELLO, system=system, max_tokens=1
        )
        assert "system.x-anthropic-billing-header" in raw.headers["bitnet-ignored"]
        return raw.parse().usage

    usage("1a2b3")
    again = usage("ffff0")
    assert again.cache_read_input_tokens > 100 > again.input_tokens, again


class Animal(BaseModel):
    name: Literal["fox", "wolf"]
    is_wild: bool


@check
def structured_output():
    reply = client.messages.parse(
        model=MODEL, messages=HELLO, max_tokens=200, output_format=Animal
    )
    assert isinstance(reply.parsed_output, Animal)


WEATHER = {
    "name": "weather",
    "description": "Tells the weather of a day.",
    "input_schema": {
        "type": "object",
        "properties": {"day": {"enum": ["today", "tomorrow"]}},
        "required": ["day"],
        "additionalProperties": False,
    },
}


@check
def tools_whole_in_a_stream_and_their_result():
    options = dict(model=MODEL, messages=HELLO, max_tokens=200, tools=[WEATHER], extra_body=SEED)
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        whole = with_tools.messages.create(tool_choice=choice, **options)
        assert whole.stop_reason == "tool_use"
        (call,) = whole.content
        assert call.type == "tool_use" and call.name == "weather"
        assert call.input["day"] in ("today", "tomorrow")
        with with_tools.messages.stream(tool_choice=choice, **options) as stream:
            final = stream.get_final_message()
        assert final.stop_reason == "tool_use" and final.content[0].input == call.input
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}
        messages = [
            *HELLO,
            {"role": "assistant", "content": whole.content},
            {"role": "user", "content": [result]},
        ]
        reply = with_tools.messages.create(
            model=MODEL, messages=messages, tools=[WEATHER], tool_choice={"type": "none"},
            max_tokens=5,
        )  # fmt: skip
        assert reply.content[0].text


@check
def errors():
    def create(**fields):
        return lambda: client.messages.create(
            **{"model": MODEL, "messages": HELLO, "max_tokens": 1, **fields}
        )

    bad = anthropic.BadRequestError
    refused(anthropic.NotFoundError, "model", create(model="claude-opus-4-8"))
    refused(bad, "temperature", create(extra_body={"temperature": 3}))
    refused(bad, "nonsense", create(extra_body={"nonsense": 1}))
    refused(bad, "tools", create(tools=[WEATHER]))
    refused(bad, "messages", create(messages=[*HELLO, {"role": "assistant", "content": "Once"}]))
    image = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    content = [{"type": "image", "source": image}]
    refused(bad, "messages[0].content[0].type", create(
        messages=[{"role": "user", "content": content}]))  # fmt: skip
    stranger = anthropic.Anthropic(base_url=BASE, api_key="none", max_retries=0)
    try:
        stranger.messages.create(model=MODEL, messages=HELLO, max_tokens=1)
    except anthropic.AuthenticationError as error:
        assert error.type == "authentication_error"
    else:
        raise AssertionError("a wrong key was accepted")


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
    n = len(checks)
    print(f"anthropic {anthropic.__version__} for Python: {n - n_failed} of {n} pass")
    sys.exit(1 if n_failed else 0)


if __name__ == "__main__":
    main()
