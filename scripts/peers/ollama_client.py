"""Use a server with Ollama's client for Python, as its documentation does.

    ollama_client.py BASE_URL TOOLS_URL KEY     prints a line per check; exits with 1 if one fails

The servers have `--alias peers`, a key and no `--lenient`; the template of the second has
tools.
"""

import importlib.metadata
import sys
import traceback
from typing import Literal

import ollama
from pydantic import BaseModel

BASE, TOOLS, KEY = sys.argv[1:]
MODEL = "peers"
HELLO = [{"role": "user", "content": "Tell me a story."}]
OPTIONS = {"num_predict": 20, "seed": 3}
HEADERS = {"Authorization": f"Bearer {KEY}"}
client = ollama.Client(BASE, headers=HEADERS)
with_tools = ollama.Client(TOOLS, headers=HEADERS)
checks = []


def check(function):
    checks.append(function)
    return function


def refused(status: int, word: str, call) -> None:
    try:
        call()
    except ollama.ResponseError as error:
        assert error.status_code == status and word in error.error, error
    else:
        raise AssertionError(f"{word} was accepted")


@check
def models():
    (model,) = client.list().models
    assert model.model == MODEL and model.size > 0 and model.modified_at
    shown = client.show(MODEL)
    family = shown.details.family
    assert shown.modelinfo[f"{family}.context_length"] > 0
    assert "completion" in shown.capabilities and "tools" not in shown.capabilities
    assert "tools" in with_tools.show(f"{MODEL}:latest").capabilities
    (running,) = client.ps().models
    assert running.name == MODEL and running.context_length > 0


@check
def chat_whole_and_as_a_stream():
    whole = client.chat(MODEL, HELLO, options=OPTIONS)
    assert whole.done and whole.done_reason == "length" and whole.eval_count == 20
    assert whole.message.role == "assistant" and whole.message.content
    assert whole.total_duration >= whole.eval_duration > 0
    chunks = list(client.chat(MODEL, HELLO, options=OPTIONS, stream=True, keep_alive="5m"))
    assert "".join(c.message.content for c in chunks) == whole.message.content
    assert [c.done for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].eval_count == 20
    assert len(chunks) > 5


@check
def log_probabilities():
    whole = client.chat(MODEL, HELLO, options=OPTIONS, logprobs=True, top_logprobs=2)
    assert len(whole.logprobs) == 20
    assert all(len(token.top_logprobs) == 2 for token in whole.logprobs)
    assert "".join(token.token for token in whole.logprobs) == whole.message.content


@check
def generate():
    raw = client.generate(MODEL, "The fox", raw=True, options=OPTIONS)
    assert raw.response and raw.eval_count == 20
    chunks = list(client.generate(MODEL, "The fox", raw=True, options=OPTIONS, stream=True))
    assert "".join(c.response for c in chunks) == raw.response
    rendered = client.generate(MODEL, "Hi", system="Be kind.", options=OPTIONS)
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert rendered.response == client.chat(MODEL, messages, options=OPTIONS).message.content
    stop = raw.response.split()[2]
    stopped = client.generate(MODEL, "The fox", raw=True, options={**OPTIONS, "stop": [stop]})
    assert stopped.done_reason == "stop" and stopped.response == raw.response.split(stop)[0]
    assert client.generate(MODEL).done_reason == "load"


@check
def embeddings():
    reply = client.embed(MODEL, ["a fox", "a raven"])
    assert len(reply.embeddings) == 2 and reply.prompt_eval_count > 2
    assert client.embed(MODEL, "a fox").embeddings[0] == reply.embeddings[0]
    refused(400, "input", lambda: client.embed(MODEL, "word " * 5000))
    assert client.embed(MODEL, "word " * 5000, truncate=True).embeddings


class Animal(BaseModel, extra="forbid"):
    name: Literal["fox", "wolf"]
    is_wild: bool


@check
def structured_output():
    options = {"num_predict": 300, "seed": 3}
    reply = client.chat(MODEL, HELLO, options=options, format=Animal.model_json_schema())
    Animal.model_validate_json(reply.message.content)


def weather(day: str) -> str:
    """Tells the weather.

    Args:
        day: the day
    """
    return "It rains."


@check
def tools_and_their_results():
    reply = with_tools.chat(MODEL, HELLO, tools=[weather], options=OPTIONS)
    assert reply.message.content or reply.message.tool_calls
    # What the model is made to write is a call.
    call = '<tool_call>\n{"name": "weather", "arguments": {"day": "today"}}\n</tool_call>'
    say = {"role": "user", "content": call}
    options = {"num_predict": 60, "temperature": 0}
    called = {"function": {"name": "weather", "arguments": {"day": "today"}}}
    messages = [
        say,
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "tool_name": "weather", "content": weather("today")},
    ]
    reply = with_tools.chat(MODEL, messages, tools=[weather], options=options)
    assert reply.done
    refused(400, "tools", lambda: client.chat(MODEL, HELLO, tools=[weather]))


@check
def errors():
    refused(404, "llama3", lambda: client.chat("llama3", HELLO))
    refused(400, "temperature", lambda: client.chat(MODEL, HELLO, options={"temperature": 3}))
    refused(400, "mirostat", lambda: client.chat(MODEL, HELLO, options={"mirostat": 2}))
    refused(400, "think", lambda: client.chat(MODEL, HELLO, think=True))
    refused(400, "images", lambda: client.generate(MODEL, "Hi", images=[b"png"]))
    refused(400, "suffix", lambda: client.generate(MODEL, "Hi", suffix="end"))
    refused(404, "/api/pull", lambda: client.pull("llama3"))
    refused(401, "key", lambda: ollama.Client(BASE).list())


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
    version = importlib.metadata.version("ollama")
    n = len(checks)
    print(f"ollama {version} for Python: {n - n_failed} of {n} pass")
    sys.exit(1 if n_failed else 0)


if __name__ == "__main__":
    main()
