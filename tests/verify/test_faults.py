"""Faults of every sort are caught at their level and named at their place; equal runs raise no alarm."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.verify import suites
from parity.verify.gates import load_rules
from parity.verify.outcome import compare_packs
from parity.verify.packs import Pack
from parity.verify.power import FAULTS
from parity.verify.power.trial import capture_local, plan_of, try_fault

from .suite import write_suite
from .tiny import write_checkpoint

# One of each sort; bench/verify_power.py runs them all.
CHOSEN = (
    "rope base",
    "norm epsilon",
    "gate and up swapped",
    "one expert's weights swapped",
    "router bias used in the weights",
    "cache in lower precision",
    "position off by one after a prefix hit",
    "8-bit weights served as 16",
    "whitespace in the template",
    "sampling defaults applied silently",
)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> suites.Suite:
    return suites.load(str(write_suite(tmp_path_factory.mktemp("suite") / "tiny.jsonl")))


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory, suite: suites.Suite) -> dict[str, tuple[Path, Pack]]:
    """Checkpoints and packs by kind, made when first asked for."""
    root = tmp_path_factory.mktemp("right")

    class Made(dict[str, tuple[Path, Pack]]):
        def __missing__(self, kind: str) -> tuple[Path, Pack]:
            folder = write_checkpoint(root / kind, kind)
            self[kind] = folder, capture_local(folder, suite, plan_of(suite), root / f"{kind}.pack")
            return self[kind]

    return Made()


def test_names_are_unique_and_chosen_ones_exist() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 24
    assert set(CHOSEN) <= set(names)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_planted_fault_is_caught_and_placed(
    name: str, right: dict[str, tuple[Path, Pack]], suite: suites.Suite, tmp_path: Path
) -> None:
    fault = next(fault for fault in FAULTS if fault.name == name)
    folder, pack = right[fault.kind]
    trial = try_fault(fault, folder, pack, suite, tmp_path)
    assert trial.caught
    assert trial.level == fault.level
    assert trial.place_right in (True, None), trial.place


def test_the_same_model_on_other_pages_raises_no_alarm(
    right: dict[str, tuple[Path, Pack]], suite: suites.Suite, tmp_path: Path
) -> None:
    folder, pack = right["qwen3"]
    plan = plan_of(suite)
    other = capture_local(
        folder, suite, plan, tmp_path / "b.pack", reference=pack, page_size=32, max_num_batched_tokens=40, enforce_eager=True
    )
    outcome = compare_packs(pack, other, suite=suite, rules=load_rules(), levels=(0, 1, 2, 3, 4, 5, 6, 7))
    assert outcome.verdict.word in ("EQUIVALENT", "IDENTICAL")
    covered = {finding.gate for finding in outcome.findings if finding.outcome != "uncovered"}
    assert {"identity", "tokens", "float32_kl", "float32_paths", "flips", "forks", "layers"} <= covered
    assert {"one_shot", "chunked", "stepwise", "mixed", "prefix_hit"} <= {path for r in outcome.results for path in r.kl}
