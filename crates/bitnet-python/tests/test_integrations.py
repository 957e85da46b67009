"""What other packages make of a model; only where they are installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import PROMPT, ROOT, WEATHER

from bitnet_rust import Model

TASKS = ROOT / "scripts/peers/lm_eval"


def test_the_harness_scores_and_continues(model: Model, tmp_path: Path, monkeypatch) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    from bitnet_rust.lm_eval import BitnetLM

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for file in TASKS.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    # Texts that the model itself continues: greedy by definition.
    texts = [json.loads(line)["text"] for line in (TASKS / "endings.jsonl").open()]
    lines = [
        {"text": text, "target": model.generate(text, temperature=0, max_tokens=5)}
        for text in texts
    ]
    (tmp_path / "greedy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    harness = BitnetLM(model)
    results = lm_eval.simple_evaluate(
        model=harness,
        tasks=["endings", "greedy", "rolling"],
        task_manager=TaskManager(include_path=str(tmp_path)),
    )["results"]
    assert results["greedy"]["acc,none"] == 1
    assert results["endings"]["acc,none"] >= 0.9
    assert 1 < results["rolling"]["byte_perplexity,none"] < 10
    # By the logits, without the harness.
    context, rest = lines[0]["text"], lines[0]["target"]
    ids, n_context = model.tokenize(context + rest), len(model.tokenize(context))
    rows = model.logits(ids)[n_context - 1 : -1].astype(np.float64)
    logprobs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    expected = logprobs[np.arange(len(rows)), ids[n_context:]].sum()
    pair = ((context, rest), ids[:n_context].tolist(), ids[n_context:].tolist())
    ((score, is_greedy),) = harness._loglikelihood_tokens([pair])
    assert is_greedy
    assert abs(score - expected) < 1e-4
    assert harness._generate(PROMPT, {"until": [" of"]}) == " great noise"


def test_langchain_continues_streams_and_calls_tools(model: Model, chatting: Model) -> None:
    pytest.importorskip("langchain_core")
    from bitnet_rust.langchain import BitnetLLM, ChatBitnet

    llm = BitnetLLM(model=model, options={"temperature": 0, "max_tokens": 4})
    assert llm.invoke(PROMPT) == " great noise of shouting"
    assert "".join(llm.stream(PROMPT)) == " great noise of shouting"
    assert llm.invoke(PROMPT, stop=[" of"]) == " great noise"
    assert llm.batch([PROMPT, PROMPT]) == [" great noise of shouting"] * 2

    chat = ChatBitnet(model=chatting, options={"temperature": 0, "max_tokens": 8})
    expected = chatting.chat(PROMPT, temperature=0, max_tokens=8)["content"]
    assert chat.invoke(PROMPT).content == expected
    assert "".join(str(chunk.content) for chunk in chat.stream(PROMPT)) == expected

    tools = ChatBitnet(model=chatting, options={"temperature": 0, "max_tokens": 60})
    answer = tools.bind_tools([WEATHER], tool_choice="required").invoke(PROMPT)
    (call,) = answer.tool_calls
    assert call["name"] == "weather"
    assert call["args"]["unit"] in {"C", "F"}


def test_the_tool_llm_has_the_model(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("llm")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    from click.testing import CliRunner
    from llm.cli import cli

    asked = ["-m", "bitnet", "-o", "raw", "true", "-o", "temperature", "0", "-o", "max_tokens", "4"]
    for options in ([], ["--no-stream"]):
        done = CliRunner().invoke(cli, ["prompt", PROMPT, *asked, *options])
        assert (done.exit_code, done.output) == (0, " great noise of shouting\n")
    assert "bitnet" in CliRunner().invoke(cli, ["models"]).output
