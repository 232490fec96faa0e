"""`parity bench`: what it counts, prints and refuses. Speeds mean nothing here."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from parity.bench import steps
from parity.bench.peer import Peer
from parity.bench.reads import share_of_experts, step_bytes
from parity.bench.run import Row
from parity.bench.work import Work
from parity.core.errors import UsageError
from parity.hub import open_checkpoint, write_gguf
from parity.stacks.registry import open_stack

from . import tiny
from .conftest import Run

SMALL = ("--input-len", "20", "--batch-size", "3", "1", "--num-prompts", "3", "--prompt-len", "5", "--output-len", "4")

# Stands for llama.cpp: each row takes a second for each token that it was asked for.
FAKE_PEER = """\
import json, sys
print(json.dumps({"ready": True}), flush=True)
print("words " * 100_000, file=sys.stderr)
for line in sys.stdin:
    work = json.loads(line)
    rows = {f"decode_{streams}": float(streams) for streams in work["decode"]}
    rows |= {"prefill": float(work["input_len"]), "throughput": float(work["num_prompts"] * work["output_len"])}
    print(json.dumps(rows), flush=True)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("bench") / "tiny")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A file that is GGUF by its name and beginning; a fake peer does not read on."""
    path = tmp_path / "m.gguf"
    write_gguf(path, {}, {"one": torch.zeros(32)})
    return path


def script(folder: Path, text: str) -> str:
    """A program that runs a text of Python, whatever arguments it is given."""
    (folder / "fake.py").write_text(text)
    program = folder / "python"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {folder / 'fake.py'}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(("stack", "rounds"), [("cpu", 2), ("cpu:reference", 1)])
def test_every_row_is_measured(run: Run, model: Path, stack: str, rounds: int) -> None:
    code, out, _ = run("bench", str(model), "--stack", stack, "--rounds", str(rounds), "--json", "-", *SMALL)
    assert code == 0
    found = json.loads(out)
    rows = {row["work"]: row for row in found["rows"]}
    names = "prefill, 20 tokens", "decode, 1 stream", "decode, 3 streams", "first token of 20", "3 requests, 5 in and 4 out"
    assert list(rows) == list(names)
    assert len(found["rounds"]) == rounds
    assert found["stack"] == stack
    assert found["peer"] is None
    for row in rows.values():
        assert row["seconds"] > 0
        assert row["ratio_to_peer"] is None
    for streams, name in ((1, "decode, 1 stream"), (3, "decode, 3 streams")):
        size, ours = found["step_bytes"][str(streams)], [one["parity"] for one in found["rounds"]]
        limits = [size / one[f"memory_{streams}"] for one in ours]
        reached = [limit / one[f"decode_{streams}"] for limit, one in zip(limits, ours, strict=True)]
        assert rows[name]["limit_tokens_per_s"] == pytest.approx(streams / statistics.median(limits))
        assert rows[name]["fraction_of_limit"] == pytest.approx(statistics.median(reached))


def test_the_table(run: Run, model: Path, tmp_path: Path) -> None:
    code, out, _ = run("bench", str(model), "--stack", "cpu", "--rounds", "1", "--json", str(tmp_path / "b.json"), *SMALL)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith(f"{model} on cpu (float32): device ")
    assert "GB/s" in lines[1]
    assert lines[2].split() == ["WORK", "TIME", "TOKENS/S", "LIMIT", "REACHED"]
    assert len(lines) == 8
    assert json.loads((tmp_path / "b.json").read_text())["model"] == str(model)


def test_decoding_at_a_depth(run: Run, model: Path) -> None:
    code, out, _ = run("bench", str(model), "--stack", "cpu", "--rounds", "1", "--json", "-", "--depth", "100", *SMALL)
    assert code == 0
    assert [row["work"] for row in json.loads(out)["rows"]][1:3] == ["decode, 1 stream at 100", "decode, 3 streams at 100"]
    code, _, err = run("bench", str(model), "--stack", "cpu", "--depth", "250", *SMALL)
    assert code == 2
    assert "283 tokens, which is above the 256 tokens" in err


def test_a_peer_is_measured_in_turns(gguf: Path, tmp_path: Path) -> None:
    work = Work(input_len=8, batch_sizes=(1, 4), num_prompts=2, output_len=5)
    with Peer(gguf, 2, script(tmp_path, FAKE_PEER)) as peer:
        assert peer.measure(work) == {"decode_1": 1, "decode_4": 4, "prefill": 8, "throughput": 10}
        assert peer.measure(work)["prefill"] == 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise SystemExit('no memory for it')", "no memory for it"),
        ("import llama_cpp_that_is_not_there", "llama_cpp_that_is_not_there"),
        ("import sys; sys.exit(\"No module named 'llama_cpp'\")", "--peer-python"),
    ],
)
def test_a_peer_that_fails_says_why(gguf: Path, tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Peer(gguf, 2, script(tmp_path, text))


def test_a_peer_that_went_away_meanwhile_says_why(gguf: Path, tmp_path: Path) -> None:
    text = "import sys\nprint('{\"ready\": true}', flush=True)\nsys.stderr.write('killed: no memory')\nsys.exit(1)"
    with Peer(gguf, 2, script(tmp_path, text)) as peer:
        peer._process.wait()
        with pytest.raises(UsageError, match="killed: no memory"):
            peer.measure(Work())


def test_a_peer_that_cannot_be(run: Run, model: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is no program"):
        Peer(gguf, 2, "no/such/python")
    with pytest.raises(UsageError, match="needs a GGUF file"):
        Peer(model, 2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install llama-cpp-python"):
        Peer(gguf, 2)
    assert "add --vs" in run("bench", str(model), "--peer-python", "x")[2]


def test_more_tokens_than_the_model_was_made_for(run: Run, model: Path) -> None:
    code, _, err = run("bench", str(model), "--stack", "cpu", "--input-len", "1000")
    assert code == 2
    assert "1001 is above the 256 tokens" in err


def test_rates_and_ratios() -> None:
    row = Row("decode", 0.5, 4, limit_s=0.4, peer_s=1.0, fraction=0.8)
    assert row.as_json() == {
        "work": "decode",
        "seconds": 0.5,
        "tokens_per_s": 8.0,
        "limit_tokens_per_s": 10.0,
        "fraction_of_limit": 0.8,
        "peer_tokens_per_s": 4.0,
        "ratio_to_peer": 2.0,
    }


def test_the_memorys_speed_is_bytes_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(100))
    monkeypatch.setattr(steps.time, "perf_counter", lambda: float(next(seconds)))
    read: list[int] = []
    device: Any = SimpleNamespace(torch_device="cpu", synchronize=lambda: None, read=lambda data: read.append(data.numel()))
    assert steps.memory_rates(device, 4096, 2) == [4096, 4096]
    assert set(read) == {1024}


def test_a_step_reads_what_the_stack_holds(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    head = checkpoint.tensors["lm_head.weight"]
    embedding = checkpoint.tensors["model.embed_tokens.weight"]
    held = sum(info.nbytes for info in checkpoint.tensors.values()) - embedding.nbytes
    assert head.nbytes == embedding.nbytes
    stack = open_stack("cpu")[0]
    assert step_bytes(checkpoint, stack, torch.float32) == held
    exact = sum(info.nbytes for info in checkpoint.tensors.values() if len(info.shape) == 1)
    assert step_bytes(checkpoint, open_stack("cpu:reference")[0], torch.bfloat16) == (held - exact) / 2 + exact


def test_a_step_reads_the_experts_that_its_rows_choose() -> None:
    config = {"num_experts": 8, "num_experts_per_tok": 2}
    assert share_of_experts(config, 1) == 0.25
    assert share_of_experts({"text_config": config}, 2) == 1 - 0.75**2
    assert share_of_experts({"num_experts": 8, "num_experts_per_token": 2}, 1) == 0.25  # as Kimi's configs have it
    assert share_of_experts({"num_experts": None}, 3) == 1
