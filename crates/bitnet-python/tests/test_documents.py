"""OpenAI's documents: those of the server."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

import pytest
from conftest import PROMPT, WEATHER

from bitnet_rust import Model, RequestError

# What differs from one answer to the next.
CHANCE = {"id", "created", "timings", "usage", "model"}


def same(document: dict) -> dict:
    return {name: value for name, value in document.items() if name not in CHANCE}


def test_documents_are_those_of_the_server(model: Model, chatting: Model) -> None:
    command = [sys.executable, "-m", "bitnet_rust", "serve", "--port", "0", "--log-format", "none"]
    with subprocess.Popen([*command, "--drain", "0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]

            def post(path: str, body: dict) -> dict:
                request = urllib.request.Request(address + path, json.dumps(body).encode())
                with urllib.request.urlopen(request) as reply:
                    return json.load(reply)

            body = {"prompt": PROMPT, "seed": 4, "max_tokens": 12, "logprobs": 2, "n": 2}
            ours = model.create_completion(**body)
            assert same(ours) == same(post("/v1/completions", body))
            assert ours["usage"]["completion_tokens"] == 24
            body = {"input": ["a king", "a queen"]}
            assert model.create_embedding(**body)["data"] == post("/v1/embeddings", body)["data"]
        finally:
            server.terminate()


def test_chunks_are_the_document(model: Model) -> None:
    whole = model.create_completion(PROMPT, seed=2, max_tokens=16)
    options = {"include_usage": True}
    chunks = list(
        model(PROMPT, seed=2, max_tokens=16, stream=True, stream_options=options)  # type: ignore[call-overload]
    )
    texts = [choice["text"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == whole["choices"][0]["text"]
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_chats_follow_their_template(chatting: Model) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    options = {"seed": 2, "max_tokens": 12}
    reply = chatting.create_chat_completion(messages, model="chatting", **options)
    assert reply["object"] == "chat.completion"
    message = chatting.chat(messages, **options)
    assert message == reply["choices"][0]["message"]
    assert message == chatting.chat(PROMPT, **options)
    assert "".join(chatting.chat(PROMPT, stream=True, **options)) == message["content"]
    # The template has no BOS.
    prompt = chatting.tokenize(f"user: {PROMPT}\nassistant: ", add_bos=False)
    assert message["content"] == chatting.generate(prompt, **options)


def test_chats_follow_schemas_and_call_tools(chatting: Model) -> None:
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    schema["additionalProperties"] = False
    answer = chatting.chat(PROMPT, json_schema=schema, temperature=0)
    assert set(json.loads(answer["content"])) == {"sure"}
    answer = chatting.chat(PROMPT, tools=[WEATHER], tool_choice="required", temperature=0)
    (call,) = answer["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["unit"] in {"C", "F"}


def test_a_document_that_is_wrong_is_refused(model: Model, chatting: Model) -> None:
    with pytest.raises(RequestError, match="no_such_field") as error:
        model.create_completion(PROMPT, no_such_field=1)
    assert error.value.param == "no_such_field"
    with pytest.raises(RequestError, match="there is no model") as unknown:
        chatting.create_chat_completion([{"role": "user", "content": "x"}], model="gpt")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(RequestError, match="messages"):
        chatting.chat([])
    with pytest.raises(TypeError, match="no value of a JSON document"):
        model.create_completion(PROMPT, stop=object())
    with pytest.raises(RequestError, match="temperature"):
        list(model.create_completion(PROMPT, stream=True, temperature=9))
