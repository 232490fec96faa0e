"""A model in this process: what is left running when its caller goes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from parity import LLM, SamplingParams
from parity.stacks.cpu.native import missing
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


ENDS = textwrap.dedent("""
    import sys, threading, time
    import torch
    from parity import LLM
    from parity.stacks.cpu.native import native

    llm = LLM(sys.argv[1], stack="cpu", num_pages=32, page_size=2, max_num_seqs=4)
    data, out, begun = torch.ones(1 << 24), torch.empty(64), threading.Event()

    def compute():
        begun.set()
        for _ in range(50):
            native().read(data.data_ptr(), data.numel(), out.data_ptr())

    threading.Thread(target=llm.service.call, args=(compute,), daemon=True).start()
    begun.wait()
    sys.exit(3)
""")


@pytest.mark.skipif(missing() is not None, reason="the kernels are not built")
def test_a_program_that_ends_while_the_engine_computes_ends_well(tmp_path: Path) -> None:
    probes.write("qwen3", tmp_path)
    done = subprocess.run([sys.executable, "-c", ENDS, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (3, "")


READS = textwrap.dedent("""
    import sys
    from parity import LLM

    llm = LLM(sys.argv[1], stack="cpu:reference:float32", num_pages=32, page_size=2, max_num_seqs=4)
    pieces = llm.logit_pieces([[1, 2, 3, 4]] * 8, chunk=2)
    next(pieces)  # the engine waits for whoever reads the next
""")


def test_a_program_that_ends_while_the_engine_waits_for_it_ends(tmp_path: Path) -> None:
    probes.write("qwen3", tmp_path)
    done = subprocess.run([sys.executable, "-c", READS, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
