"""A model in this process: what is left running when its caller goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from parity import LLM, SamplingParams
from parity.verify import exact as probes


@pytest.fixture
def llm(tmp_path: Path) -> Iterator[LLM]:
    probes.write("qwen3", tmp_path)
    with LLM(tmp_path, stack="cpu:reference:float32", num_pages=32, page_size=2, max_num_seqs=4) as model:
        yield model


def test_stopped_while_it_submits_nothing_is_left_running(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = llm.service.submit_all

    def stopped(*given: object) -> None:
        submit(*given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(llm.service, "submit_all", stopped)
    with pytest.raises(KeyboardInterrupt):
        llm.generate([1, 2, 3], SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True))
    while llm.service.call(lambda: llm._engine.has_work):
        continue
    assert llm.stats().num_generated_tokens < 40
