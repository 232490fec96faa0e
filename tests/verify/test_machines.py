"""A pack from one machine, the same stack on another: here, another instruction set of the native kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from parity.stacks.cpu.native import missing, native
from parity.verify import suites
from parity.verify.capture import capture, plan_for
from parity.verify.gates import load_rules
from parity.verify.outcome import compare_packs
from parity.verify.packs import Pack
from parity.verify.sides.local import LocalSide

from .suite import write_suite
from .tiny import write_checkpoint

pytestmark = pytest.mark.skipif(missing() is not None, reason="the cpu stack's kernels are not built")


@pytest.fixture
def isas() -> Iterator[list[str]]:
    before = native().isa()
    yield native().isas()
    native().set_isa(before)


def test_a_pack_accepts_the_same_stack_on_another_machine(isas: list[str], tmp_path: Path) -> None:
    if len(isas) < 2:
        pytest.skip("this machine has only the portable kernels")
    folder = write_checkpoint(tmp_path / "model", "qwen3_moe")
    suite = suites.load(str(write_suite(tmp_path / "tiny.jsonl")))
    rules, known = load_rules(), None
    for isa in (isas[0], "portable"):
        native().set_isa(isa)
        side, path = LocalSide("cpu", str(folder), num_pages=64), tmp_path / f"{isa}.pack"
        capture(side, suite, plan_for(suite, rules.hash), path, reference=known)
        side.close()
        assert Pack(path).identity.environment["isa"] == isa
        known = known or Pack(path)
    assert known is not None
    outcome = compare_packs(known, Pack(tmp_path / "portable.pack"), suite=suite, rules=rules, levels=tuple(range(8)))
    assert outcome.verdict.word == "EQUIVALENT", outcome.verdict
    found = {finding.gate: finding for finding in outcome.findings}
    assert found["float32_kl"].tight
    assert found["exact"].outcome == "identical"
    assert found["layers"].outcome == "pass"
