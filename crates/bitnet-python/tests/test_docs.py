"""The pages: their Python is run, in the order of the page."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = {"docs/python.md": 10, "crates/bitnet-python/README.md": 1}


@pytest.mark.parametrize(("page", "least"), PAGES.items())
def test_the_blocks_of_a_page_run(page: str, least: int, tmp_path: Path, monkeypatch) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) >= least
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        # Lines of errors are those of the page.
        code = "\n" * text.count("\n", 0, block.start(1)) + block.group(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(code, str(ROOT / page), "exec"), names)  # noqa: S102
    names["model"].close()  # type: ignore[attr-defined]
