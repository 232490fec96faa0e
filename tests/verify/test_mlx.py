"""A genuinely different stack: MLX with mlx-lm's model code, against ours, on the same tiny checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from parity.verify import suites
from parity.verify.capture import capture, plan_for
from parity.verify.gates import load_rules
from parity.verify.levels import LEVELS
from parity.verify.outcome import Outcome
from parity.verify.run import verify
from parity.verify.settings import Settings

from .suite import write_suite
from .tiny import write_checkpoint

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

REFERENCE = "cpu:reference:float32"


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_suite(tmp_path_factory.mktemp("suite") / "tiny.jsonl"))


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, suite_file: str) -> tuple[Path, Path]:
    """(checkpoint, pack that MLX made of it)."""
    from .mlx_capture import MlxSide

    folder = write_checkpoint(tmp_path_factory.mktemp("model") / request.param, request.param)
    suite = suites.load(suite_file)
    pack = folder.parent / "mlx.pack"
    capture(MlxSide(folder), suite, plan_for(suite, load_rules().hash), pack)
    return folder, pack


def check(pack: Path, folder: Path, suite_file: str, out: Path, *levels: int) -> Outcome:
    options = {"num_pages": 64, "page_size": 16}
    settings = Settings(model=str(folder), suite=suite_file, out=out, levels=levels or tuple(LEVELS), options=options)
    return verify(str(pack), REFERENCE, settings)


def test_our_reference_is_accepted_at_level_3(made: tuple[Path, Path], suite_file: str, tmp_path: Path) -> None:
    folder, pack = made
    outcome = check(pack, folder, suite_file, tmp_path)
    assert outcome.verdict.word == "EQUIVALENT", outcome.verdict
    found = {finding.gate: finding for finding in outcome.findings}
    assert found["float32_kl"].outcome == "pass"
    assert found["float32_kl"].tight
    assert found["tokens"].outcome == "identical"
    assert found["layers"].outcome == "pass"
    assert found["forks"].outcome in ("pass", "identical")
    assert {"one_shot", "chunked", "stepwise", "answer"} <= {path for r in outcome.results for path in r.kl}


_CHANGED = "model.layers.1.self_attn.v_proj.weight"


def changed(folder: Path, copy: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A copy of a checkpoint with one matrix in the middle changed."""
    shutil.copytree(folder, copy)
    tensors = safetensors.numpy.load_file(copy / "model.safetensors")
    tensors[_CHANGED] = np.ascontiguousarray(change(tensors[_CHANGED]), np.float32)
    safetensors.numpy.save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy


def test_one_number_changed_by_one_step_is_refused(made: tuple[Path, Path], suite_file: str, tmp_path: Path) -> None:
    """A single number of a single matrix, moved by one step of float32: no output would show it, and its hash does."""
    folder, pack = made

    def one_step(matrix: np.ndarray) -> np.ndarray:
        matrix = matrix.copy()
        matrix[3, 5] = np.nextafter(matrix[3, 5], np.float32(np.inf))
        return matrix

    outcome = check(pack, changed(folder, tmp_path / "changed", one_step), suite_file, tmp_path / "out", 0, 1)
    assert outcome.verdict.word == "DIFFERENT"
    assert f"weights differ in 1 tensors, such as {_CHANGED}" in outcome.verdict.cause


def test_one_weight_changed_by_one_step_is_refused(made: tuple[Path, Path], suite_file: str, tmp_path: Path) -> None:
    """One matrix in the middle, moved by one step of bfloat16: nothing that a text would show."""
    folder, pack = made
    copy = changed(folder, tmp_path / "changed", lambda matrix: matrix * np.float32(1 + 2**-8))
    # Its hash would tell at once: here the computation must.
    outcome = check(pack, copy, suite_file, tmp_path / "out", 1, 2, 3, 4, 5, 6, 7)
    assert outcome.verdict.word == "DIFFERENT"
    assert "level 3" in outcome.verdict.cause
    assert "layer 1" in outcome.verdict.cause
