"""Texts: whole, in pieces, in batches, from many threads."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PROMPT, PROMPTS, program_ids

from bitnet_rust import (
    ClosedError,
    ComputeError,
    ContextLengthError,
    Model,
    RequestError,
    Text,
)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_ids_are_those_of_the_program(model: Model, prompt: str) -> None:
    greedy = model.generate(prompt, temperature=0, max_tokens=24)
    assert greedy.ids == program_ids(prompt, "--temp", "0", "-n", "24")
    drawn = model.generate(prompt, seed=7, max_tokens=24)
    assert drawn.ids == program_ids(prompt, "--seed", "7", "-n", "24")
    assert drawn.seed == 7


def test_a_text_says_what_is_known_of_it(model: Model) -> None:
    text = model.generate(PROMPT, temperature=0, max_tokens=4)
    assert text == " great noise of shouting"
    assert isinstance(text, Text)
    assert text.finish_reason == "length"
    assert len(text.ids) == 4
    assert text.n_prompt == 9
    assert text.receipt is None
    assert len(text.receipt_digest or "") == 64
    stopped = model.generate(PROMPT, temperature=0, stop=" of")
    assert stopped == " great noise"
    assert stopped.finish_reason == "stop"


def test_a_prompt_may_be_ids(model: Model) -> None:
    ids = model.tokenize(PROMPT)
    of_ids = model.generate(ids, temperature=0, max_tokens=8)
    assert of_ids == model.generate(PROMPT, temperature=0, max_tokens=8)
    assert of_ids == model.generate(ids.tolist(), temperature=0, max_tokens=8)


def test_pieces_are_the_text(model: Model) -> None:
    whole = model.generate(PROMPT, seed=3, max_tokens=32)
    stream = model.generate(PROMPT, seed=3, max_tokens=32, stream=True)
    pieces = list(stream)
    assert len(pieces) > 8
    assert "".join(pieces) == whole
    assert stream.ids == whole.ids
    assert stream.text() == whole


def test_a_stream_that_is_closed_ends(model: Model) -> None:
    with model.generate(PROMPT, seed=3, max_tokens=None, ignore_eos=True, stream=True) as stream:
        next(stream)
    assert len(list(stream)) == 0
    with pytest.raises(ClosedError, match="not generated to its end"):
        stream.text()


def test_pieces_come_to_coroutines(model: Model) -> None:
    seeds = range(6)
    whole = [model.generate(PROMPT, seed=seed, max_tokens=24) for seed in seeds]

    async def read(seed: int) -> str:
        stream = model.agenerate(PROMPT, seed=seed, max_tokens=24)
        return "".join([piece async for piece in stream])

    async def all_at_once() -> list[str]:
        return list(await asyncio.gather(*map(read, seeds)))

    assert asyncio.run(all_at_once()) == whole

    async def closed() -> int:
        async with model.agenerate(PROMPT, seed=1, max_tokens=None, ignore_eos=True) as stream:
            await anext(stream)
        return len([piece async for piece in stream])

    assert asyncio.run(closed()) == 0


def test_a_batch_is_the_texts_alone(model: Model) -> None:
    alone = [model.generate(prompt, seed=5, max_tokens=16) for prompt in PROMPTS]
    assert model.generate_batch(PROMPTS, seed=5, max_tokens=16) == alone
    mixed = [PROMPTS[0], model.tokenize(PROMPTS[1])]
    assert model.generate_batch(mixed, seed=5, max_tokens=16) == alone[:2]
    assert model.generate_batch([]) == []
    many = model.generate_batch([PROMPT] * 300, temperature=0, max_tokens=1)
    assert many == [" great"] * 300


def test_eight_threads_at_once_get_what_each_gets_alone(model: Model) -> None:
    def ask(seed: int) -> list[int]:
        return model.generate(PROMPTS[seed % len(PROMPTS)], seed=seed, max_tokens=24).ids

    alone = [ask(seed) for seed in range(16)]
    barrier = threading.Barrier(8)

    def together(seed: int) -> list[int]:
        if seed < 8:
            barrier.wait()
        return ask(seed)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(together, range(16))) == alone


def test_texts_follow_schemas_expressions_grammars_and_choices(model: Model) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"enum": [8, 9]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    for given in (schema, json.dumps(schema)):
        person = json.loads(model.generate(PROMPT, json_schema=given, temperature=0))
        assert set(person) == {"name", "age"}
        assert person["age"] in {8, 9}
    assert model.generate(PROMPT, regex=" [0-9]{4}", seed=1).strip().isdigit()
    assert model.generate(PROMPT, grammar='start: " a" " b"', seed=1) == " a b"
    assert model.generate(PROMPT, choices=[" king", " queen"], seed=1) in {" king", " queen"}


def test_biases_and_processors_change_what_is_chosen(model: Model) -> None:
    noise = int(model.tokenize(" noise", add_bos=False)[0])
    without = model.generate(PROMPT, temperature=0, max_tokens=8, logit_bias={noise: -100})
    assert noise not in without.ids
    seen: list[list[int]] = []

    def forbid(ids, logits):  # type: ignore[no-untyped-def]
        assert ids.dtype == "int32"
        assert logits.dtype == "float32"
        assert logits.shape == (model.vocab_size,)
        seen.append(ids.tolist())
        logits[noise] = -float("inf")

    processed = model.generate(PROMPT, temperature=0, max_tokens=8, logits_processor=forbid)
    assert processed == without
    assert processed.receipt_digest is None
    prompt = model.tokenize(PROMPT).tolist()
    assert seen == [prompt + processed.ids[:n] for n in range(8)]

    def another(ids, logits):  # type: ignore[no-untyped-def]
        changed = logits.copy()
        changed[noise] = -float("inf")
        return changed

    chain = [forbid, another]
    assert model.generate(PROMPT, temperature=0, max_tokens=8, logits_processor=chain) == without


def test_the_exception_of_a_processor_is_raised(model: Model) -> None:
    class Enough(Exception):
        pass

    def fail(ids, logits):  # type: ignore[no-untyped-def]
        raise Enough("of it")

    with pytest.raises(Enough, match="of it"):
        model.generate(PROMPT, logits_processor=fail)

    def impossible(ids, logits):  # type: ignore[no-untyped-def]
        logits[:] = -float("inf")

    with pytest.raises(ComputeError, match="every logit is NaN or minus infinity"):
        model.generate(PROMPT, logits_processor=impossible)
    assert model.generate(PROMPT, temperature=0, max_tokens=1) == " great"


def test_what_is_wrong_is_named(model: Model) -> None:
    with pytest.raises(RequestError, match="temperature is 3") as error:
        model.generate(PROMPT, temperature=3)
    assert error.value.param == "temperature"
    with pytest.raises(RequestError, match="typical_p"):
        model.generate(PROMPT, typical_p=1)  # type: ignore[call-arg]
    with pytest.raises(RequestError, match="prompt is an empty list"):
        model.generate([])
    with pytest.raises(RequestError, match="no token 9000"):
        model.generate([1, 9000])
    with pytest.raises(ContextLengthError) as too_long:
        model.generate([1] * (model.n_ctx + 1))
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(ValueError, match="one text, not for 2"):
        processor = lambda ids, logits: None  # noqa: E731
        list(model._texts(["a", "b"], {}, processor))
    stream = model.generate(PROMPT, top_p=2, stream=True)
    with pytest.raises(RequestError, match="top_p is 2"):
        next(stream)


def test_a_receipt_is_computed_again(model: Model) -> None:
    text = model.generate(PROMPT, seed=11, max_tokens=12, receipt=True)
    receipt = text.receipt
    assert receipt is not None
    assert receipt["digest"] == text.receipt_digest
    assert receipt["ids"] == text.ids
    assert model.verify(receipt)
    other = {**receipt, "ids": [*receipt["ids"][:-1], receipt["ids"][-1] + 1]}
    assert not model.verify(other)
