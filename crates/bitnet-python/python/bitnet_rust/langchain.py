"""Classes of LangChain: `BitnetLLM` continues texts, `ChatBitnet` answers messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.llms import LLM
from langchain_core.messages import (
    AIMessageChunk,
    BaseMessage,
    convert_to_messages,
    convert_to_openai_messages,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, GenerationChunk
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field

from .model import Model


class BitnetLLM(LLM):
    """Continues texts. `options` are those of `Model.generate`, such as ``{"seed": 1}``."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    model: Model
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "bitnet_rust"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model.fingerprint, **self.options}

    def _asked(self, stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**self.options, **kwargs, **({"stop": stop} if stop else {})}

    def _call(
        self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> str:
        return str(self.model.generate(prompt, **self._asked(stop, kwargs)))

    def _stream(
        self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[GenerationChunk]:
        for piece in self.model.generate(prompt, stream=True, **self._asked(stop, kwargs)):
            if run_manager:
                run_manager.on_llm_new_token(piece)
            yield GenerationChunk(text=piece)


class ChatBitnet(BaseChatModel):
    """Answers messages by the model's chat template, and calls tools where it has them."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    model: Model
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "bitnet_rust-chat"

    def _asked(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        asked = {**self.options, **kwargs, **({"stop": stop} if stop else {})}
        return {"messages": convert_to_openai_messages(messages), **asked}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self.model.chat(**self._asked(messages, stop, kwargs))
        answer["content"] = answer["content"] or ""
        (message,) = convert_to_messages([answer])
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for piece in self.model.chat(stream=True, **self._asked(messages, stop, kwargs)):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any]], **kwargs: Any
    ) -> Any:
        """Has the model know tools: ``tool_choice="required"`` has it call one."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)
