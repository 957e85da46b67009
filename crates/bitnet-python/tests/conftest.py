"""What the tests share. They run against the installed wheel: see scripts/test-python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitnet_rust import Model

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = json.loads((ROOT / "models/storyteller/reference.json").read_text())
PROMPTS = [prompt["prompt"] for prompt in REFERENCE["prompts"]]
PROMPT = "Once upon a time there was a"
# Calls of a tool are what it can only be told to write.
CHAT_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "assistant: "
)

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["C", "F"]}},
            "required": ["unit"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    with Model.load(threads=2) as model:
        yield model


@pytest.fixture(scope="session")
def chatting() -> Iterator[Model]:
    with Model.load(threads=2, chat_template=CHAT_TEMPLATE, name="chatting") as model:
        yield model


def bitnet(*args: str) -> subprocess.CompletedProcess[str]:
    """Runs the program that was built by cargo, or else the one in the wheel."""
    program = os.environ.get("BITNET")
    command = [program] if program else [sys.executable, "-m", "bitnet_rust"]
    return subprocess.run([*command, *args], capture_output=True, text=True, check=False)


def program_ids(prompt: str, *options: str) -> list[int]:
    """Returns the ids that `bitnet run` generates."""
    done = bitnet("run", "--json", "--quiet", *options, prompt)
    assert done.returncode == 0, done.stderr
    ids: list[int] = json.loads(done.stdout)["ids"]
    return ids
