"""A plug-in of the tool `llm`: `llm -m bitnet -o model FILE.gguf "The capital of France is"`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import llm
from pydantic import Field

from .model import Model


@lru_cache(maxsize=1)
def loaded(model: str, n_ctx: int | None, threads: int | None) -> Model:
    """Returns a model, the last one without loading it again."""
    return Model.load(model, n_ctx=n_ctx, threads=threads)


class BitnetModel(llm.Model):
    """Answers by the chat template of a model, or continues the prompt if it has none."""

    model_id = "bitnet"
    can_stream = True
    supports_schema = True

    class Options(llm.Options):
        """The options of `-o`."""

        model: str = Field(
            default="builtin", description="A GGUF file, a folder, or OWNER/NAME that was pulled"
        )
        n_ctx: int | None = Field(default=None, description="Positions of the context")
        threads: int | None = Field(default=None, description="Threads")
        raw: bool = Field(default=False, description="Continue the prompt, without a template")
        max_tokens: int | None = Field(default=None, description="Maximum number of tokens")
        temperature: float | None = Field(default=None, description="0 (greedy) to 2")
        top_p: float | None = Field(default=None, description="0 to 1")
        seed: int | None = Field(default=None, description="The same seed gives the same text")

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None
    ) -> Iterator[str]:
        """Yields the pieces of the answer."""
        options = prompt.options
        model = loaded(options.model, options.n_ctx, options.threads)
        names = ("max_tokens", "temperature", "top_p", "seed")
        asked: dict[str, Any] = {name: getattr(options, name) for name in names}
        asked = {name: value for name, value in asked.items() if value is not None}
        if prompt.schema is not None:
            asked["json_schema"] = prompt.schema
        if options.raw or not model.has_chat_template:
            yield from model.generate(prompt.prompt, stream=True, **asked)
            return
        messages = []
        if prompt.system:
            messages.append({"role": "system", "content": prompt.system})
        for before in conversation.responses if conversation else []:
            messages.append({"role": "user", "content": before.prompt.prompt})
            messages.append({"role": "assistant", "content": before.text_or_raise()})
        messages.append({"role": "user", "content": prompt.prompt})
        yield from model.chat(messages, stream=True, **asked)


@llm.hookimpl
def register_models(register: Any) -> None:
    """Makes the model `bitnet` known."""
    register(BitnetModel())
