"""Models: texts, chats, OpenAI's documents, arrays and sequences."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Union, cast, overload

from . import _native
from .errors import ClosedError, ModelError

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self, Unpack

    Floats = npt.NDArray[np.float32]
    Ids = npt.NDArray[np.int32]
    Flags = npt.NDArray[np.bool_]

Tokens = Union[SequenceOf[int], "Ids"]
Prompt = Union[str, Tokens]
Document = dict[str, Any]
LogitsProcessor = Callable[["Ids", "Floats"], "Floats | None"]
"""``processor(ids, logits)``: the token ids of prompt and text so far, int32 ``[n_tokens]``, and
the logits of the next token, float32 ``[vocab_size]``. It changes the logits in place, or returns
others. Penalties, bias and temperature apply after it."""

MAX_TOKENS = 128
"""Tokens of a text where nothing is said, as `bitnet run` has it."""
BATCH = 128
"""Prompts of one request of a batch; the server takes no more than its queue holds."""


class Options(TypedDict, total=False):
    """How texts are generated. What is not given is as the model recommends."""

    max_tokens: int | None
    """Maximum number of tokens, 128 by default; ``None``: as many as the context has room for."""
    temperature: float
    """0 (greedy) to 2."""
    top_p: float
    """0 to 1."""
    top_k: int
    """0 or -1: all."""
    min_p: float
    """0 to 1."""
    seed: int | None
    """The same seed gives the same text; without one, each call draws another."""
    stop: str | list[str]
    """Up to 16 texts before which a text ends."""
    repeat_penalty: float
    """Above 0; 1: none."""
    presence_penalty: float
    """-2 to 2."""
    frequency_penalty: float
    """-2 to 2."""
    repeat_last_n: int
    """Tokens that penalties look at; -1: all."""
    logit_bias: Mapping[int, float]
    """Added to the logits of tokens, -100 to 100."""
    ignore_eos: bool
    """Whether the token that ends a text is never chosen."""
    json_schema: Mapping[str, Any] | str
    """The text is a JSON document of this schema."""
    regex: str
    """The text matches this regular expression as a whole."""
    grammar: str
    """The text follows this grammar, in the variant of Lark that llguidance reads."""
    choices: list[str]
    """The text is one of these."""
    receipt: bool
    """Whether `Text.receipt` is wanted; the first one hashes the weights."""


def pull(name: str) -> None:
    """Downloads a model, ``OWNER/NAME[@REVISION][:FILE]``, into the cache, for `Model.load`.

    Runs ``bitnet pull`` in a process of its own, which shows its progress.

    Raises:
        ModelError: it cannot be downloaded; the program has said why on stderr.
    """
    done = subprocess.run([sys.executable, "-m", "bitnet_rust", "pull", name], check=False)
    if done.returncode:
        raise ModelError(f"failed to download {name}: exit code {done.returncode}")


class Text(str):
    """A generated text with what is known of it."""

    ids: list[int]
    """Its tokens, without the one that ended it."""
    finish_reason: str
    """``"eos"``: the model ended it; ``"stop"``: a stop sequence; ``"length"``: a limit."""
    seed: int
    """The seed that it was generated with."""
    n_prompt: int
    """Tokens of the prompt."""
    n_cached: int
    """Those of them that were in the cache."""
    receipt_digest: str | None
    """The digest of the receipt; ``None`` after a logits processor."""
    receipt: Document | None
    """What `Model.verify` and ``bitnet verify`` read, if it was asked for."""

    @classmethod
    def _of(cls, text: str, ids: list[int], end: tuple[str, int, int, int, int, str]) -> Self:
        made = cls(text)
        made.ids = ids
        made.finish_reason, made.n_prompt, made.n_cached, _, made.seed, receipt = end
        known = json.loads(receipt) or {}
        made.receipt_digest = known.get("receipt_digest")
        made.receipt = known.get("receipt")
        return made


class _Pieces:
    """The pieces of one text, as they are put together."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.ids: list[int] = []
        self.end: tuple[str, int, int, int, int, str] | None = None

    def add(self, piece: _native._Piece) -> str:
        _, text, ids, _, _, end = piece
        self.text.append(text)
        self.ids += ids
        self.end = end or self.end
        return text

    def whole(self) -> Text:
        if self.end is None:
            raise ClosedError("the text was not generated to its end")
        return Text._of("".join(self.text), self.ids, self.end)


class TextStream(Iterator[str]):
    """The pieces of a text as they are generated; whole characters each.

    Closing it, or leaving its ``with`` block, ends the generation.
    """

    def __init__(self, texts: _native.Texts) -> None:
        self._texts = texts
        self._pieces = _Pieces()

    def __next__(self) -> str:
        for piece in self._texts:
            if text := self._pieces.add(piece):
                return text
        raise StopIteration

    @property
    def ids(self) -> list[int]:
        """The tokens so far."""
        return self._pieces.ids

    def text(self) -> Text:
        """Waits for the rest, and returns the whole text, what was read before included."""
        for _ in self:
            pass
        return self._pieces.whole()

    def close(self) -> None:
        """Ends the generation."""
        self._texts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncTextStream(AsyncIterator[str]):
    """A `TextStream` for ``async for``. It begins with the first piece that is asked for."""

    def __init__(self, start: Callable[[Callable[[], object]], _native.Texts]) -> None:
        self._start = start
        self._texts: _native.Texts | None = None
        self._pieces = _Pieces()
        self._is_there = asyncio.Event()

    def _begin(self) -> _native.Texts:
        loop, is_there = asyncio.get_running_loop(), self._is_there

        def on_item() -> None:
            try:
                loop.call_soon_threadsafe(is_there.set)
            except RuntimeError:
                pass  # The loop was closed: nobody waits.

        return self._start(on_item)

    async def __anext__(self) -> str:
        if self._texts is None:
            self._texts = self._begin()
        while True:
            self._is_there.clear()
            try:
                piece = self._texts.try_next()
            except StopIteration:
                raise StopAsyncIteration from None
            if piece is None:
                await self._is_there.wait()
            elif text := self._pieces.add(piece):
                return text

    @property
    def ids(self) -> list[int]:
        """The tokens so far."""
        return self._pieces.ids

    async def text(self) -> Text:
        """Waits for the rest, and returns the whole text, what was read before included."""
        async for _ in self:
            pass
        return self._pieces.whole()

    async def aclose(self) -> None:
        """Ends the generation."""
        if self._texts is not None:
            self._texts.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class Sequence:
    """Tokens in the cache of a model, to be continued token by token.

    Sequences that begin alike share memory. As many may be held as `Model.load` leaves room for
    beside texts. A sequence is for one thread at a time.
    """

    def __init__(self, native: _native.Sequence, last: _native.Array | None) -> None:
        self._native = native
        self._last = last

    def append(self, tokens: Tokens) -> Floats:
        """Appends tokens.

        Returns the logits after the last one, float32 ``[vocab_size]``. If it fails, the sequence
        is unchanged.
        """
        self._last = self._native.append(_ids(tokens), False)
        return self.logits

    def append_all(self, tokens: Tokens) -> Floats:
        """Appends tokens.

        Returns the logits after each, float32 ``[n_tokens, vocab_size]``.
        """
        rows = self._native.append(_ids(tokens), True)
        self._last = None
        return cast("Floats", _array(rows))

    @property
    def logits(self) -> Floats:
        """The logits after the last token, float32 ``[vocab_size]``."""
        if self._last is None:
            tokens = self.tokens
            if len(tokens) == 0:
                raise ValueError("the sequence has no tokens")
            self._native.truncate(len(tokens) - 1)
            self._last = self._native.append([int(tokens[-1])], False)
        return cast("Floats", _array(self._last))

    @property
    def tokens(self) -> Ids:
        """The tokens, int32 ``[n_tokens]``."""
        return cast("Ids", _array(self._native.tokens()))

    def fork(self) -> Sequence:
        """Returns another sequence with the same tokens; both may go on."""
        return Sequence(self._native.fork(), self._last)

    def truncate(self, n_tokens: int) -> None:
        """Keeps only the first tokens."""
        if n_tokens < len(self):
            self._last = None
        self._native.truncate(n_tokens)

    def close(self) -> None:
        """Releases the memory."""
        self._native.close()

    def __len__(self) -> int:
        return len(self._native)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Model:
    """A loaded model. Any number of threads may use it at once: their texts are generated
    together, and are the same as alone."""

    name: str
    """Its name in OpenAI's documents."""
    family: str
    kernel: str
    """What computes, such as ``x86_64-i2xi8-avx2``."""
    device: str
    threads: int
    n_ctx: int
    """Positions of the context."""
    vocab_size: int
    hidden_dim: int
    """Size of embeddings."""
    n_parameters: int
    weight_bytes: int
    """Bytes of the weights in memory."""
    fingerprint: str
    """A hash of what it computes, the same on every machine."""
    has_chat_template: bool
    bos_id: int | None
    eos_ids: list[int]
    """The tokens that end a text."""
    notes: list[str]
    """What is to be said about its files."""

    def __init__(self, native: _native.Model) -> None:
        """Use `Model.load`."""
        self._native = native
        self._process = os.getpid()
        (
            self.name,
            self.family,
            self.kernel,
            self.device,
            self.threads,
            self.n_ctx,
            self.vocab_size,
            self.hidden_dim,
            self.n_parameters,
            self.weight_bytes,
            self.fingerprint,
            self.has_chat_template,
        ) = native.facts()
        self.bos_id, self.eos_ids = native.control_tokens()
        self.notes = native.notes
        _open_models.add(self)

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "builtin",
        *,
        n_ctx: int | None = None,
        threads: int | None = None,
        device: str = "auto",
        memory_limit: int | str | None = None,
        parallel: int = 8,
        kernel: str | None = None,
        kv: Literal["auto", "f32", "f16", "int8"] | None = None,
        head: Literal["exact", "int8"] | None = None,
        weight_bits: Literal["auto", "2.0", "1.6"] | None = None,
        pin: bool = False,
        speculate: bool = True,
        cache: bool = True,
        chat_template: str | os.PathLike[str] | None = None,
        name: str | None = None,
        revision: str | None = None,
        lenient: bool = False,
    ) -> Self:
        """Loads a model, by default the built-in storyteller.

        Args:
            model: a GGUF file, a HuggingFace folder, ``OWNER/NAME`` of a model that was pulled
                (see `pull`), or ``"builtin"``.
            n_ctx: positions of the context; by default the model's, up to 4096.
            threads: by default as many as the system offers.
            device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"metal"`` or ``"vulkan"``.
            memory_limit: bytes, or text such as ``"1.2GiB"``; a model that needs more is refused
                before it is loaded.
            parallel: texts that are generated at the same time; others wait. Sequences and
                `logits` have room if it is 2 or more.
            kernel: such as ``"avx2"`` or ``"scalar"``; by default the best.
            kv: precision of keys and values, by default f16; auto is int8 if f16 needs too
                much memory.
            head: precision of the output matrix, by default int8.
            weight_bits: packing of ternary weights, by default the faster one.
            pin: whether each thread stays on a processor.
            speculate: whether tokens are drafted from what a text repeats. The text is the same.
            cache: whether packed weights of a large model are kept in the user's cache folder, for
                a faster start (``bitnet cache list``).
            chat_template: a name, a file or Jinja text; by default the model's.
            name: in OpenAI's documents; by default that of the file.
            revision: of a pulled model.
            lenient: whether fields that are unknown, or cannot be honoured, are ignored.

        Raises:
            ModelOptionError: an option is wrong.
            ModelError: the model cannot be loaded; `ModelError.hint` may say what helps.
        """
        args = [f"--model={os.fspath(model)}", f"--device={device}", f"--parallel={parallel}"]
        values = {
            "--context": n_ctx,
            "--threads": threads,
            "--memory-limit": memory_limit,
            "--kernel": kernel,
            "--kv": kv,
            "--head": head,
            "--weight-bits": weight_bits,
            "--chat-template": None if chat_template is None else os.fspath(chat_template),
            "--alias": name,
            "--revision": revision,
            "--speculate": None if speculate else "off",
        }
        args += [f"{option}={value}" for option, value in values.items() if value is not None]
        switches = (("--pin", pin), ("--lenient", lenient), ("--no-cache", not cache))
        args += [option for option, is_on in switches if is_on]
        loaded = cls(_native.Model.load(args))
        for note in loaded.notes:
            if note.startswith("warning: "):
                warnings.warn(note.removeprefix("warning: "), RuntimeWarning, stacklevel=2)
        if loaded.kernel.endswith("scalar"):
            _warn_of_scalar_kernel(kernel)
        return loaded

    # Texts

    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        stream: Literal[False] = False,
        logits_processor: LogitsProcessor | Iterable[LogitsProcessor] | None = None,
        **options: Unpack[Options],
    ) -> Text: ...
    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        stream: Literal[True],
        logits_processor: LogitsProcessor | Iterable[LogitsProcessor] | None = None,
        **options: Unpack[Options],
    ) -> TextStream: ...
    def generate(
        self,
        prompt: Prompt,
        *,
        stream: bool = False,
        logits_processor: LogitsProcessor | Iterable[LogitsProcessor] | None = None,
        **options: Unpack[Options],
    ) -> Text | TextStream:
        """Continues a text, or token ids. Ctrl-C ends it.

        Returns the `Text`, or with ``stream=True`` an iterator of its pieces.

        Raises:
            RequestError: the prompt or an option is wrong.
            ComputeError: the text cannot be computed.
        """
        made = TextStream(self._texts(_prompt(prompt), options, logits_processor))
        if stream:
            return made
        with made:
            return made.text()

    def agenerate(
        self,
        prompt: Prompt,
        *,
        logits_processor: LogitsProcessor | Iterable[LogitsProcessor] | None = None,
        **options: Unpack[Options],
    ) -> AsyncTextStream:
        """Continues a text, for ``async for piece in …``, or ``await ….text()``."""
        given = _prompt(prompt)
        return AsyncTextStream(
            lambda on_item: self._texts(given, options, logits_processor, on_item)
        )

    def generate_batch(
        self, prompts: SequenceOf[Prompt], **options: Unpack[Options]
    ) -> list[Text]:
        """Continues each of several prompts, `parallel` of them at a time.

        The texts are those that `generate` gives for each with the same options.
        """
        texts: list[Text] = []
        given = [_prompt(prompt) for prompt in prompts]
        if not all(isinstance(prompt, str) for prompt in given):
            # A request has texts or ids.
            given = [self._tokens(prompt) for prompt in given]
        for start in range(0, len(given), BATCH):
            some = given[start : start + BATCH]
            pieces = [_Pieces() for _ in some]
            native = self._texts(some, options, None)
            try:
                for piece in native:
                    pieces[piece[0]].add(piece)
            finally:
                native.close()
            texts += [text.whole() for text in pieces]
        return texts

    # Chats

    @overload
    def chat(
        self,
        messages: str | SequenceOf[Mapping[str, Any]],
        *,
        stream: Literal[False] = False,
        tools: SequenceOf[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> Document: ...
    @overload
    def chat(
        self,
        messages: str | SequenceOf[Mapping[str, Any]],
        *,
        stream: Literal[True],
        tools: SequenceOf[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> Iterator[str]: ...
    def chat(
        self,
        messages: str | SequenceOf[Mapping[str, Any]],
        *,
        stream: bool = False,
        tools: SequenceOf[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> Document | Iterator[str]:
        """Answers a message, or the messages of a conversation, by the model's chat template.

        Returns the message of the assistant, ``{"role", "content"}`` and ``"tool_calls"`` if the
        model calls tools; with ``stream=True`` an iterator of pieces of its content.

        Raises:
            RequestError: a message or an option is wrong, or the model has no chat template.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        fields = _fields(options)
        if options.get("max_tokens") is None:
            fields.pop("max_tokens", None)
        if tools is not None:
            fields["tools"] = tools
        if tool_choice is not None:
            fields["tool_choice"] = tool_choice
        if not stream:
            reply = self.create_chat_completion(messages, **fields)
            return cast("Document", reply["choices"][0]["message"])
        chunks = self.create_chat_completion(messages, stream=True, **fields)
        return _contents(chunks)

    # OpenAI's documents

    @overload
    def create_completion(
        self, prompt: Prompt | list[str], *, stream: Literal[False] = False, **fields: Any
    ) -> Document: ...
    @overload
    def create_completion(
        self, prompt: Prompt | list[str], *, stream: Literal[True], **fields: Any
    ) -> Iterator[Document]: ...
    def create_completion(
        self, prompt: Prompt | list[str], *, stream: bool = False, **fields: Any
    ) -> Document | Iterator[Document]:
        """Answers as ``/v1/completions`` of ``bitnet serve``, with the same fields.

        Returns its document, or with ``stream=True`` an iterator of those of its chunks.
        """
        given = prompt if _is_batch(prompt) else _prompt(cast("Prompt", prompt))
        return self._reply("/v1/completions", {"prompt": given, "stream": stream, **fields})

    __call__ = create_completion

    @overload
    def create_chat_completion(
        self,
        messages: SequenceOf[Mapping[str, Any]],
        *,
        stream: Literal[False] = False,
        **fields: Any,
    ) -> Document: ...
    @overload
    def create_chat_completion(
        self, messages: SequenceOf[Mapping[str, Any]], *, stream: Literal[True], **fields: Any
    ) -> Iterator[Document]: ...
    def create_chat_completion(
        self, messages: SequenceOf[Mapping[str, Any]], *, stream: bool = False, **fields: Any
    ) -> Document | Iterator[Document]:
        """Answers as ``/v1/chat/completions`` of ``bitnet serve``, with the same fields.

        Returns its document, or with ``stream=True`` an iterator of those of its chunks.
        """
        given = {"messages": messages, "stream": stream, **fields}
        return self._reply("/v1/chat/completions", given)

    def create_embedding(self, input: Prompt | list[str], **fields: Any) -> Document:  # noqa: A002
        """Answers as ``/v1/embeddings`` of ``bitnet serve``, with the same fields."""
        given = input if _is_batch(input) else _prompt(cast("Prompt", input))
        reply = self._reply("/v1/embeddings", {"input": given, **fields})
        return cast("Document", reply)

    # Arrays

    def tokenize(self, text: str, *, add_bos: bool = True) -> Ids:
        """Returns the ids of a text, int32 ``[n_tokens]``; with BOS if the model uses one.

        Spellings of special tokens are recognized.
        """
        return cast("Ids", _array(self._model().tokenize(text, add_bos)))

    def detokenize(self, ids: Tokens, *, special: bool = False) -> str:
        """Returns the text of ids, without special tokens unless ``special``.

        Bytes that are not UTF-8 become U+FFFD.
        """
        return self._model().detokenize(_ids(ids), special)

    @overload
    def embed(self, text: str) -> Floats: ...
    @overload
    def embed(self, text: list[str]) -> Floats: ...
    def embed(self, text: str | list[str]) -> Floats:
        """Returns the embedding of a text, float32 ``[hidden_dim]`` of length 1, or those of
        several, ``[n_texts, hidden_dim]``."""
        rows = _array(self._model().embed(json.dumps({"input": text})))
        return cast("Floats", rows[0] if isinstance(text, str) else rows)

    def logits(self, prompt: Prompt) -> Floats:
        """Returns the logits after each token, float32 ``[n_tokens, vocab_size]``: row ``i``
        predicts token ``i + 1``."""
        return cast("Floats", _array(self._model().logits(self._tokens(prompt))))

    def score(self, prompt: Prompt) -> Floats:
        """Returns ln p of each token from the second on, float32 ``[n_tokens - 1]``."""
        return self.score_batch([prompt])[0][0]

    def score_batch(self, prompts: SequenceOf[Prompt]) -> list[tuple[Floats, Flags]]:
        """Returns for each prompt `score`, and whether each token is the most likely one, bool
        ``[n_tokens - 1]``."""
        np = _numpy()
        scores: list[tuple[Floats, Flags]] = []
        given = [self._tokens(prompt) for prompt in prompts]
        for start in range(0, len(given), BATCH):
            some = given[start : start + BATCH]
            fields: Options = {"max_tokens": 0, "temperature": 0}
            native = self._texts(some, fields, None, None, {"echo": True, "logprobs": 1})
            found = [(np.empty(0, np.float32), np.empty(0, np.bool_)) for _ in some]
            for index, _, _, logprobs, flags, _ in native:
                if logprobs is not None and flags is not None:
                    found[index] = (_array(logprobs), _array(flags))
            scores += found
        return scores

    def sequence(self, tokens: Prompt = ()) -> Sequence:
        """Starts a sequence with tokens, or those of a text.

        Raises:
            CacheFullError: there is no room for another one.
        """
        return Sequence(*self._model().sequence(self._tokens(tokens)))

    # Receipts

    def verify(self, receipt: Mapping[str, Any]) -> bool:
        """Computes the text of a receipt again. Returns whether it is by these weights, and each
        token is the same.

        The model must be loaded with the context, ``kv`` and ``head`` of the receipt.
        """
        sampling = dict(receipt["sampling"])
        window = sampling.pop("penalty_window")
        fields = {**sampling, "repeat_last_n": -1 if window is None else window}
        fields["logit_bias"] = {str(id): bias for id, bias in receipt["logit_bias"]}
        grammars = {"json_schema": "json_schema", "regex": "guided_regex", "lark": "grammar"}
        for kind, grammar in (receipt["grammar"] or {}).items():
            fields[grammars[kind]] = grammar
        has_end = receipt["end"] == "eos"
        options: Options = {"max_tokens": len(receipt["ids"]) + has_end, "receipt": True}
        native = self._texts(receipt["prompt_ids"], options, None, None, fields)
        with TextStream(native) as stream:
            computed = stream.text().receipt
        return computed is not None and computed == receipt

    def close(self) -> None:
        """Ends what is computed, and releases the memory."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Model {self.name!r}, {self.n_parameters:,} parameters, {self.kernel}>"

    # Inside

    def _model(self) -> _native.Model:
        if os.getpid() != self._process:
            raise ClosedError("the model was loaded before this process was forked: load it again")
        return self._native

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return cast("list[int]", self.tokenize(prompt).tolist())
        return _ids(prompt)

    def _texts(
        self,
        prompt: object,
        options: Options,
        processor: LogitsProcessor | Iterable[LogitsProcessor] | None,
        on_item: Callable[[], object] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> _native.Texts:
        fields = {"max_tokens": MAX_TOKENS, **_fields(options), **(more or {}), "prompt": prompt}
        if fields["max_tokens"] is None:
            fields["max_tokens"] = self.n_ctx
        changed = None if processor is None else _processor(processor)
        return self._model().texts(json.dumps(fields), changed, on_item)

    def _reply(self, path: str, fields: Document) -> Document | Iterator[Document]:
        documents = self._model().ask(path, json.dumps(fields, default=_plain))
        if fields.get("stream"):
            return _documents(documents)
        for document in documents:
            return cast("Document", json.loads(document))
        raise ClosedError("the model was closed")


def _documents(documents: _native.Documents) -> Iterator[Document]:
    try:
        for document in documents:
            yield json.loads(document)
    finally:
        documents.close()


def _contents(chunks: Iterator[Document]) -> Iterator[str]:
    for chunk in chunks:
        for choice in chunk["choices"]:
            if content := choice["delta"].get("content"):
                yield content


def _ids(tokens: Iterable[Any]) -> list[int]:
    return [int(token) for token in tokens]


def _prompt(prompt: Prompt) -> str | list[int]:
    return prompt if isinstance(prompt, str) else _ids(prompt)


def _is_batch(prompt: object) -> bool:
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], (str, list))


def _plain(value: Any) -> Any:
    """Makes what numpy has into what JSON has."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no value of a JSON document")


def _fields(options: Options) -> Document:
    """Returns the fields of a request. Unknown names are refused by the server, by name."""
    fields: Document = dict(options)
    for name, field in (("regex", "guided_regex"), ("choices", "guided_choice")):
        if name in fields:
            fields[field] = fields.pop(name)
    if isinstance(fields.get("json_schema"), str):
        fields["json_schema"] = json.loads(fields["json_schema"])
    if fields.get("logit_bias") is not None:
        fields["logit_bias"] = {str(id): bias for id, bias in fields["logit_bias"].items()}
    return fields


def _processor(
    processor: LogitsProcessor | Iterable[LogitsProcessor],
) -> Callable[[_native.Array, _native.Array], None]:
    processors = [processor] if callable(processor) else list(processor)

    def change(ids: _native.Array, array: _native.Array) -> None:
        tokens, logits = _array(ids), _array(array)
        for process in processors:
            changed = process(tokens, logits)
            if changed is not None and changed is not logits:
                logits[:] = changed

    return change


def _numpy() -> Any:
    try:
        import numpy as np
    except ImportError as error:
        raise ImportError("arrays need numpy: pip install bitnet-rust[numpy]") from error
    return np


def _array(array: _native.Array) -> Any:
    """Returns an array that shares the memory."""
    return _numpy().asarray(array)


_has_warned = False


def _warn_of_scalar_kernel(asked: str | None) -> None:
    global _has_warned  # noqa: PLW0603
    if _has_warned:
        return
    _has_warned = True
    why = "this processor has the instructions of no other" if asked is None else "as asked for"
    message = f"the model is computed by the scalar kernel, {why}: many times slower, same texts"
    warnings.warn(message, RuntimeWarning, stacklevel=3)


_open_models: weakref.WeakSet[Model] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Ends the threads of models before the interpreter, which they may call."""
    for model in list(_open_models):
        if model._process == os.getpid():
            model.close()
