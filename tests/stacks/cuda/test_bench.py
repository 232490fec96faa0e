"""The benchmark's own logic, with tiny models on the host: what it counts and how it ends. Speeds mean nothing here."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from parity.stacks.registry import open_stack

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        spec = importlib.util.spec_from_file_location("cuda_stack_bench", BENCH / "cuda_stack.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module


def test_it_runs_and_writes_its_numbers(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "numbers.json"
    options = ["--stack", "cpu:reference", "--small", "--here", "--parts", "rows", "--json", str(out)]
    assert bench.main([*options, "--rows", "Moonlight"]) == 0
    assert "Moonlight-16B-A3B" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert [row["row"]["batch"] for row in content["rows"]] == [1, 3, 3, 3]
    for row in content["rows"]:
        assert row["rates"]["bandwidth"] > 0
        assert row["rates"]["matrix"] > 0
        assert row["fraction"] == pytest.approx(row["tokens_per_s"] / row["limit"])
    assert bench.main([*options, "--rows", "Moonlight", "--minutes", "0"]) == 1
    assert {row["note"] for row in json.loads(out.read_text())["rows"]} == {"not run: out of time"}


def test_right_answers_come_before_speeds(bench: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "numbers.json"
    options = ["--stack", "cpu:reference", "--small", "--here", "--json", str(out), "--rows", "no such row"]
    assert bench.main([*options, "--ops", "rms_norm", "--architectures", "llama"]) == 0
    content = json.loads(out.read_text())
    assert [row["op"] for row in content["conformance"] if not row["failures"]] == [
        "rms_norm",
        "add_rms_norm",
        "gated_rms_norm",
    ]
    [found] = content["parity"]
    assert found["architecture"] == "llama"
    assert found["float32"] == 0
    assert 0 < found["bfloat16"] == found["noise"] < 0.1
    assert found["invariant"] is None  # this stack has no such table
    assert list(content) == ["device", "conformance", "parity"]


def test_what_fails_is_written_and_the_rest_is_tried(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel")

    out = tmp_path / "numbers.json"
    monkeypatch.setattr(bench, "check", broken)
    monkeypatch.setattr(sys.modules["cuda_parity"], "_agreement", broken)
    monkeypatch.setattr(bench.Bench, "rates", broken)
    options = ["--stack", "cpu:reference", "--small", "--here", "--json", str(out), "--ops", "rope", "--architectures", "llama"]
    assert bench.main([*options, "--rows", "sampling"]) == 1
    content = json.loads(out.read_text())
    assert {row["op"] for row in content["conformance"]} == {"rope_angles", "rope", "rope_write", "norm_rope_write"}
    assert all("no such kernel" in row["failures"][0] for row in content["conformance"])
    assert "no such kernel" in content["parity"][0]["problem"]
    assert {row["note"] for row in content["rows"]} == {"failed: RuntimeError: no such kernel"}


def test_each_kind_of_row(bench: ModuleType) -> None:
    stack, _ = open_stack("cpu:reference")
    small = bench.Bench(stack, small=True)
    rates = bench.Rates(1e9, 1e9)
    rows = [
        bench.Row("Qwen3-8B", "prefill", context=8192),
        bench.Row("Qwen3-0.6B", "throughput", batch=3),
        bench.Row("Qwen3.6-35B-A3B", "decode", batch=2),
        bench.Row("Qwen3-0.6B", "throughput (in order)", batch=3),
        bench.Row("Qwen3-8B", "sampling", batch=2),
        bench.Row("Qwen3-8B", "start"),
    ]
    prefill, throughput, decode, in_order, sampling, start = [small.measure(row, rates) for row in rows]
    assert prefill.tokens_per_s > 0
    assert prefill.limit > 0
    assert throughput.tokens_per_s > 0
    assert throughput.limit > 0
    assert in_order.tokens_per_s > 0
    assert not small.stack.device.asynchronous
    assert sampling.tokens_per_s > 0
    assert start.tokens_per_s is None
    assert start.seconds > 0
    assert decode.limit > 0
    shown = bench.table([replace(decode, rates=rates), bench.Measured(rows[0], note="failed: KeyError")])
    assert "copy 1 GB/s" in str(shown.title)
    assert "failed" in "".join(str(cell) for column in shown.columns for cell in column.cells)


@pytest.mark.parametrize("kind", ["decode", "throughput"])
def test_transformers_does_the_same_work(kind: str, bench: ModuleType) -> None:
    small = bench.Bench(open_stack("cpu:reference")[0], small=True)
    row = bench.Row("Qwen3-0.6B", f"{kind} (transformers)", batch=3)
    found = small.measure(row, bench.Rates(1e9, 1e9))
    assert found.tokens_per_s > 0
    if kind == "throughput":
        assert f" {sum(count for _, count in small.work(row))} tokens" in found.note


def test_what_a_step_reads_is_counted_from_the_shape(bench: ModuleType) -> None:
    stack, _ = open_stack("cpu:reference")
    small = bench.Bench(stack, small=True)
    decoder, common, routed = small.build("Qwen3-30B-A3B", None)
    experts, layers, hidden, inner = 8, 4, 64, 32
    assert routed == layers * experts * 3 * hidden * inner * 4
    attention = hidden * 32 * (4 + 2 + 2 + 4) + 2 * 32
    assert common == 4 * (layers * (attention + experts * hidden + 2 * hidden) + hidden + 512 * hidden)
    assert small.touched("Qwen3-30B-A3B", 1) == pytest.approx(2 / 8)
    assert small.touched("Qwen3-30B-A3B", 1000) == pytest.approx(1)
    assert small.touched("Qwen3-8B", 4) == 0
    assert small.state_bytes(decoder, 100) == layers * 2 * (2 * 32) * 4 * 100


def test_packed_rows_read_less(bench: ModuleType) -> None:
    stack = replace(open_stack("cpu:reference")[0], formats=frozenset({"int4_group"}), dtypes=(torch.bfloat16,))
    small = bench.Bench(stack, small=True)
    _, plain, _ = small.build("Qwen3-8B", None)
    _, packed, _ = small.build("Qwen3-8B", "int4_group")
    assert packed < plain


def test_the_order_of_rows_has_all_that_was_asked(bench: ModuleType) -> None:
    kinds = {(row.model, row.kind) for row in bench.ROWS}
    assert ("Qwen3-8B", "prefill") in kinds
    assert len(bench.ROWS) == len(set(bench.ROWS))
    assert {row.model for row in bench.ROWS} == set(sys.modules["cuda_models"].SHAPES)
