"""Arrays and sequences."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import PROMPT, REFERENCE, bitnet

from bitnet_rust import CacheFullError, ClosedError, ContextLengthError, Model, RequestError


def test_tokens_are_those_of_the_reference(model: Model) -> None:
    for case in REFERENCE["tokenizer"]:
        ids = model.tokenize(case["text"])
        assert ids.dtype == np.int32
        assert ids.tolist() == case["ids"]
    ids = model.tokenize(PROMPT, add_bos=False)
    assert model.tokenize(PROMPT).tolist() == [model.bos_id, *ids]
    assert model.detokenize(ids) == PROMPT
    assert model.detokenize([]) == ""
    with pytest.raises(RequestError, match="no token 8192"):
        model.detokenize([8192])
    with pytest.raises(RequestError, match="no token -1"):
        model.detokenize([-1])


def test_logits_are_those_of_the_program(model: Model) -> None:
    ids = model.tokenize(PROMPT)
    logits = model.logits(PROMPT)
    assert logits.shape == (len(ids), model.vocab_size)
    assert logits.dtype == np.float32
    said = bitnet("logits", "--json", "-q", "--tokens", ",".join(map(str, ids)), "--top", "5")
    top = json.loads(said.stdout)["top"]
    order = np.argsort(-logits[-1], kind="stable")[:5]
    assert order.tolist() == [entry["id"] for entry in top]
    assert logits[-1, order].tolist() == [np.float32(entry["logit"]) for entry in top]


def test_an_array_shares_the_memory_it_was_computed_in(model: Model) -> None:
    native = model._native.tokenize(PROMPT, True)
    first, second = np.asarray(native), np.asarray(native)
    first[0] = 17
    assert second[0] == 17
    del native
    assert second.tolist()[1:] == model.tokenize(PROMPT).tolist()[1:]


def test_scores_are_those_of_the_logits(model: Model) -> None:
    ids, logits = model.tokenize(PROMPT), model.logits(PROMPT).astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    logprobs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    expected = logprobs[np.arange(len(ids) - 1), ids[1:]]
    scores = model.score(PROMPT)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    text = model.generate(PROMPT, temperature=0, max_tokens=6)
    whole = [*ids.tolist(), *text.ids]
    (again, is_top), (nothing, none) = model.score_batch([whole, ids[:1]])
    assert is_top[-6:].all()
    np.testing.assert_array_equal(again[: len(scores)], scores)
    assert len(nothing) == len(none) == 0


def test_embeddings_have_length_one(model: Model) -> None:
    one = model.embed("a king")
    assert one.shape == (model.hidden_dim,)
    assert abs(float(np.linalg.norm(one)) - 1) < 1e-5
    several = model.embed(["a king", "a queen", "a king"])
    assert several.shape == (3, model.hidden_dim)
    np.testing.assert_array_equal(several[0], one)
    np.testing.assert_array_equal(several[2], one)
    with pytest.raises(RequestError, match="empty text"):
        model.embed("")


def test_a_sequence_is_continued_forked_and_truncated(model: Model) -> None:
    ids = model.tokenize(PROMPT).tolist()
    expected = model.generate(PROMPT, temperature=0, max_tokens=8).ids
    logits = model.logits(PROMPT)
    with model.sequence(PROMPT) as sequence:
        np.testing.assert_array_equal(sequence.logits, logits[-1])
        found = [int(sequence.logits.argmax())]
        while len(found) < 8:
            found.append(int(sequence.append(found[-1:]).argmax()))
        assert found == expected
        assert sequence.tokens.tolist() == ids + found[:-1]
        with sequence.fork() as fork:
            assert fork.tokens.tolist() == sequence.tokens.tolist()
            fork.truncate(len(ids))
            np.testing.assert_array_equal(fork.logits, logits[-1])
            rows = fork.append_all(found)
            assert rows.shape == (8, model.vocab_size)
            assert rows.argmax(axis=1).tolist()[:-1] == found[1:]
            assert len(fork) == len(ids) + 8
        assert len(sequence) == len(ids) + 7
        with pytest.raises(RequestError, match="cannot be truncated to 99"):
            sequence.truncate(99)
        with pytest.raises(RequestError, match="9999"):
            sequence.append([1, 9999])
        with pytest.raises(RequestError, match="no tokens to append"):
            sequence.append([])
        assert len(sequence) == len(ids) + 7
    with pytest.raises(ClosedError):
        len(sequence)


def test_an_empty_sequence_has_no_logits(model: Model) -> None:
    with model.sequence() as sequence:
        assert len(sequence) == 0
        with pytest.raises(ValueError, match="no tokens"):
            _ = sequence.logits
        row = sequence.append(model.tokenize(PROMPT))
        np.testing.assert_array_equal(row, model.logits(PROMPT)[-1])


def test_sequences_leave_room_for_texts() -> None:
    with Model.load(threads=1, n_ctx=256, parallel=2) as model:
        held = []
        with pytest.raises(CacheFullError, match="pages of the KV cache"):
            while len(held) < 99:
                held.append(model.sequence([1] * 120))
        # A context of two pages is left for texts, and two for sequences.
        assert len(held) == 2
        prompt = [2] * 100
        text = model.generate(prompt, temperature=0, max_tokens=None, ignore_eos=True)
        assert len(text.ids) == 157
        with pytest.raises(ContextLengthError):
            held[0].append([1] * 200)
        assert len(held[0]) == 120
        held.pop().close()
        held.append(model.sequence([3] * 120))


def test_texts_and_sequences_do_not_disturb_each_other(model: Model) -> None:
    expected = model.generate(PROMPT, seed=9, max_tokens=40).ids
    row = model.logits(PROMPT)[-1]
    stream = model.generate(PROMPT, seed=9, max_tokens=40, stream=True)
    for _ in stream:
        with model.sequence(PROMPT) as sequence:
            np.testing.assert_array_equal(sequence.logits, row)
    assert stream.ids == expected
