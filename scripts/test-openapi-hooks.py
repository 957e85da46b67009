"""What schemathesis cannot read from the document: relations between fields, and the model."""

import json
import os
import urllib.request

import schemathesis
from schemathesis import GenerationMode

# Tokens of a text in a test.
TOKENS = 4
LIMITS = {
    "/v1/chat/completions": ["max_tokens", "max_completion_tokens"],
    "/v1/completions": ["max_tokens"],
    "/v1/messages": ["max_tokens"],
    "/v1/responses": ["max_output_tokens"],
}
# Those whose limit is `num_predict` in `options`.
OLLAMA = ["/api/chat", "/api/generate"]
EMBEDDINGS = ["/v1/embeddings", "/api/embed", "/embed"]
PROMPTS = [*LIMITS, *OLLAMA, *EMBEDDINGS, "/v1/messages/count_tokens"]
# The fields that limit a text, with a value that can be followed, unless any can.
GRAMMARS = {
    "response_format": None,
    "json_schema": {"type": "integer"},
    "guided_json": {"type": "array", "items": {"type": "boolean"}},
    "guided_regex": "yes|no",
    "grammar": 'start: "a" | "b" start',
    "guided_grammar": 'start: /[0-9]+/ "."',
    "guided_choice": None,
}


def ask(path, body=None):
    request = urllib.request.Request(os.environ["BITNET_URL"] + path)
    request.add_header("x-api-key", os.environ["BITNET_KEY"])
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data, timeout=60) as response:
        return json.load(response)["data"][0]


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Adds what the document cannot know: the model's name and sizes."""
    model = ask("/v1/models")
    schemas = raw_schema["components"]["schemas"]
    schemas["ModelName"]["enum"] = [model["id"], None]
    schemas["OllamaModelName"]["enum"] = [model["id"], f"{model['id']}:latest", None]
    schemas["TokenId"]["maximum"] = model["bitnet"]["vocabulary"] - 1
    # Ids that every vocabulary has.
    schemas["logit_bias"]["propertyNames"]["pattern"] = r"^\+?[0-9]{1,2}$"
    size = len(ask("/v1/embeddings", {"input": "a"})["embedding"])
    for request in ("EmbeddingRequest", "OllamaEmbedRequest", "TeiEmbedRequest"):
        schemas[request]["properties"]["dimensions"] = {"enum": [size, None]}


def is_count(value, least, most):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return least <= value <= most and value == int(value)


def shorten(value):
    """Cuts texts and lists, so that they fit into the context."""
    if isinstance(value, str):
        return value[:40]
    if isinstance(value, list):
        return [shorten(item) for item in value[:4]]
    if isinstance(value, dict):
        return {name: shorten(item) for name, item in value.items()}
    return value


def make_quick(body, limits, least=0, most=2**64 - 1):
    """Lowers numbers of tokens and texts. What is valid stays so, and what is not stays so."""
    for name in limits:
        if is_count(body.get(name), least, most):
            body[name] = min(body[name], TOKENS) if body[name] >= 0 else TOKENS
    if all(body.get(name) is None for name in limits):
        body[limits[0]] = TOKENS
    for name in ("n", "best_of"):
        if is_count(body.get(name), 1, 128):
            body[name] = min(body[name], 2)


def make_possible(body):
    """Keeps the relations between fields that the document tells in words."""
    for name in ("prompt", "input", "inputs", "messages", "system", "instructions"):
        if name in body:
            body[name] = shorten(body[name])
    if body.get("raw"):
        body.pop("system", None)
    if isinstance(body.get("format"), dict):
        body["format"] = GRAMMARS["json_schema"]
    for name in ("output_config", "text"):
        format = (body.get(name) or {}).get("format") or {}
        if "schema" in format:
            format["schema"] = GRAMMARS["json_schema"]
    if body.get("stream_options") is not None:
        body["stream"] = True
    if body.get("best_of") is not None:
        n = body.get("n") or 1
        body["best_of"] = n if body.get("stream") else max(n, body["best_of"])
    if body.get("top_logprobs"):
        body["logprobs"] = True
    given = [name for name in GRAMMARS if body.get(name) is not None]
    for name in given[1:]:
        del body[name]
    for name in given[:1]:
        if GRAMMARS[name] is not None:
            body[name] = GRAMMARS[name]
        if name == "response_format":
            for holder in (body[name], body[name].get("json_schema") or {}):
                if holder.get("schema") is not None:
                    holder["schema"] = GRAMMARS["json_schema"]


@schemathesis.hook
def before_call(context, case, kwargs):
    if not isinstance(case.body, dict):
        return
    path = case.operation.path
    is_valid = case.meta.generation.mode == GenerationMode.POSITIVE
    if path in LIMITS:
        make_quick(case.body, LIMITS[path])
    if path in OLLAMA:
        options = case.body.setdefault("options", {})
        if options is None:
            options = case.body["options"] = {}
        if isinstance(options, dict):
            # -1 and -2 are as many as there is room for.
            make_quick(options, ["num_predict"], -2, 2**63 - 1)
    if path in PROMPTS and is_valid:
        make_possible(case.body)
    messages = case.body.get("messages")
    # An answer cannot be begun.
    if path.startswith("/v1/messages") and is_valid and messages[-1]["role"] == "assistant":
        messages[-1]["role"] = "user"


@schemathesis.check
def stream_ends(ctx, response, case):
    """A stream ends as its API says."""
    kind = response.headers.get("content-type", [""])[0]
    last = response.text.rstrip("\n").split("\n")[-1]
    if kind.startswith("application/x-ndjson"):
        assert json.loads(last)["done"] is True, response.text
    if kind.startswith("text/event-stream"):
        assert response.text.endswith("\n\n"), response.text
        data = last.removeprefix("data: ")
        if case.operation.path == "/v1/messages":
            assert json.loads(data)["type"] == "message_stop", response.text
        elif case.operation.path == "/v1/responses":
            ends = ("response.completed", "response.incomplete")
            assert json.loads(data)["type"] in ends, response.text
        else:
            assert data == "[DONE]", response.text
