"""The conformance suite: green on what is right, red on each op broken in a typical way."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from parity.core.errors import UsageError
from parity.core.weights import Weight
from parity.stacks import cpu, null, reference
from parity.stacks.base import Memory, Stack
from parity.stacks.check import check
from parity.stacks.check.case import Make
from parity.stacks.check.device import check_device
from parity.stacks.check.oracle import exact, upcast
from parity.stacks.check.run import CASES
from parity.stacks.host import HostDevice
from parity.stacks.registry import open_stack, with_table

from .mutants import MUTANTS, in_place, packed_wrong

REF = reference.OPS


PACKED = frozenset({"q4_0", "q6_k", "fp8_block", "mxfp4", "int4_group", "int8_group", "awq", "gptq", "bfloat16"})


def stack(formats: frozenset[str] = frozenset(), **ops: Callable[..., Any]) -> Stack:
    """The reference with some ops replaced."""
    return Stack(
        name="test",
        device=HostDevice(),
        ops=replace(REF, **ops),
        train_ops=REF,
        dtypes=(torch.float32,),
        formats=formats,
    )


@pytest.mark.skipif("float32" not in cpu.open_stack().tables, reason="the cpu stack's kernels are not built")
@pytest.mark.parametrize("isa", ["", "portable"])
def test_the_cpu_table_in_float32_rounds_no_activations(isa: str) -> None:
    """No case is granted the rounding of activations to eight bits, which the table that serves needs."""
    from parity.stacks.cpu.native import native

    before = native().isa()
    native().set_isa(isa)
    try:
        report = check(open_stack("cpu:float32")[0], ops=["linear", "head_linear", "experts"], dtypes=[torch.float32])
        assert report.ok, report.failures[:3]
        coarse = replace(cpu.open_stack(), rounded=frozenset())
        assert not check(coarse, ops=["linear"], dtypes=[torch.float32], only=lambda op, case: "q8_0, 33" in case).ok
    finally:
        native().set_isa(before)


def test_every_op_has_cases() -> None:
    assert tuple(CASES) == REF.names()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_reference_passes(dtype: torch.dtype) -> None:
    quick = [name for name in REF.names() if dtype == torch.float32 or name not in ("attend_latent", "attend", "gated_delta")]
    report = check(stack(), ops=quick, dtypes=[dtype])
    assert report.ok, report.failures
    assert all(row.num_cases >= 3 and row.worst <= 1 for row in report.rows)


def test_the_cpu_stack_passes() -> None:
    report = check(cpu.open_stack(), dtypes=[torch.float32])
    assert report.ok, report.failures


def test_the_reference_table_of_a_stack_passes_and_its_notes_are_shown() -> None:
    report = check(with_table(cpu.open_stack(), "reference"), ops=["rms_norm", "sample"])
    assert report.ok
    assert {row.origin for row in report.rows} == {"parity.stacks.reference"}
    assert all("asked for" in row.note for row in report.rows)


def test_a_stack_that_computes_nothing_fails() -> None:
    report = check(null.open_stack(), ops=["linear", "attend", "gated_delta", "experts"], dtypes=[torch.float32])
    assert all(row.failures for row in report.rows)


def test_no_rounding_decides_a_choice() -> None:
    """Float32 and float64 choose alike, so an integer result that differs is a kernel's mistake."""
    for name in ("select", "route", "sample"):
        for case in CASES[name](Make(torch.float32)):
            rows = slice(None) if case.judged is None else list(case.judged)
            found = getattr(REF, name)(*case.args.values(), **case.options)
            wanted = exact(name, [upcast(value) for value in case.args.values()], case.options)
            a, b = (found[1], wanted[1]) if name == "route" else (found, wanted)
            assert torch.equal(a[rows], b[rows]), (name, case.name)


def test_every_op_has_a_mutant() -> None:
    assert tuple(MUTANTS) == REF.names()


@pytest.mark.parametrize("name", ["embed", "linear", "experts"])
def test_the_reference_passes_on_packed_weights(name: str) -> None:
    report = check(stack(PACKED), ops=[name])
    assert report.ok, report.failures
    assert report.rows[0].num_cases > check(stack(), ops=[name]).rows[0].num_cases + len(PACKED) - 3


def test_a_wrong_zero_point_is_caught_in_each_format() -> None:
    report = check(stack(PACKED, linear=packed_wrong), ops=["linear"])
    caught = {failure.case.split()[0].strip(",") for failure in report.failures}
    assert caught >= PACKED - {"bfloat16"}


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, mutants in MUTANTS.items() for i in range(len(mutants))])
def test_a_broken_op_is_caught(name: str, index: int) -> None:
    report = check(stack(**{name: MUTANTS[name][index]}), ops=[name], dtypes=[torch.float32])
    assert not report.ok
    assert all(failure.op == name and "raised" not in failure.what for failure in report.failures), report.failures


def test_a_rounding_too_many_is_caught_in_half_precision() -> None:
    """An intermediate in three bits less than the dtype has."""

    def coarse(x: Tensor, weight: Tensor, eps: float, zero_centred: bool = False) -> Tensor:
        return REF.rms_norm(x.to(torch.float8_e4m3fn).to(x.dtype), weight, eps, zero_centred)

    assert not check(stack(rms_norm=coarse), ops=["rms_norm"], dtypes=[torch.bfloat16]).ok


# --- what is reported --------------------------------------------------------------------------------------------------------


def test_an_op_that_raises_is_a_failure_with_its_text() -> None:
    def raises(x: Tensor, gate: Tensor) -> Tensor:
        raise RuntimeError("no such instruction")

    report = check(stack(sigmoid_gate=raises), ops=["sigmoid_gate"])
    assert {failure.what for failure in report.failures} == {"raised RuntimeError: no such instruction"}
    assert report.rows[0].worst == float("inf")


def test_whatever_is_raised_is_a_failure_and_ends_nothing() -> None:
    def no_row_alone(x: Tensor, gate: Tensor) -> Tensor:
        if len(x) == 1:
            raise RuntimeError("one row")
        return REF.sigmoid_gate(x, gate)

    def unknown(weight: Weight) -> Weight:
        raise NotImplementedError("in what order?")

    broken = replace(stack(frozenset({"q8_0"}), sigmoid_gate=no_row_alone), prepare=unknown)
    assert {failure.what for failure in check(broken, ops=["sigmoid_gate", "embed"]).failures} == {
        "raised RuntimeError: one row",
        "raised RuntimeError: one row, of a row without its batch",
        "raised NotImplementedError: in what order?",
    }


@pytest.mark.parametrize(
    ("member", "broken", "what"),
    [
        ("memory", lambda self: Memory(4, 8), "free must be between 0 and total"),
        ("zeros", lambda self, shape, dtype: torch.ones(shape, dtype=dtype), "holds other numbers"),
        ("zeros", lambda self, shape, dtype: torch.zeros(shape), "gave torch.float32"),
        ("staging", lambda self, shape, dtype: torch.zeros(shape), "zeroed memory of the host is wanted"),
        ("send", lambda self, data: data + 1, "not the numbers on the device"),
        ("fetch", lambda self, data: lambda: data + 1, "not the numbers on the host"),
        ("capture", lambda self, run, beside=None: (None, (run(), run())[1]), "exactly once"),
        ("capture", lambda self, run, beside=None: (Stale(), run()), "a replay does not compute"),
        ("recorded_rows", (4, 2), "must rise"),
        ("describe", lambda self: {"threads": 2}, "names and texts"),
        ("read", None, "raised TypeError"),
    ],
)
def test_a_broken_device_is_caught(member: str, broken: object, what: str) -> None:
    device = type("Broken", (HostDevice,), {member: broken})()
    row = check_device(replace(stack(), device=device))
    assert not check_device(stack()).failures
    assert {failure.case for failure in row.failures} >= {member}
    assert any(what in failure.what for failure in row.failures if failure.case == member), row.failures


class Stale:
    """A recording that computes nothing."""

    num_bytes = 0

    def replay(self) -> None:
        """Leaves everything as it is."""


def test_a_device_passes_on_every_stack_of_ours() -> None:
    for name in ("cpu", "cpu:reference", "null"):
        row = check_device(open_stack(name)[0])
        assert not row.failures, row.failures
        assert row.num_cases > 5


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (lambda x: x.double(), "float64, not torch.float32"),
        (lambda x: x[..., :1], "shape"),
        (lambda x: None, "gave NoneType"),
        (lambda x: (x, None), "gave tuple"),
    ],
)
def test_a_result_of_another_kind_is_named(result: Callable[[Tensor], Any], what: str) -> None:
    report = check(stack(sigmoid_gate=lambda x, gate: result(REF.sigmoid_gate(x, gate))), ops=["sigmoid_gate"])
    assert what in report.failures[-1].what


def test_dependence_on_the_batch_is_reported_and_no_failure() -> None:
    def by_batch(x: Tensor, gate: Tensor) -> Tensor:
        return REF.sigmoid_gate(x, gate) * (1 + 1e-7 * (len(x) > 1))

    rows = check(stack(sigmoid_gate=by_batch), ops=["sigmoid_gate"]).rows
    assert rows[0].invariant is False
    assert not rows[0].failures
    assert check(stack(), ops=["rope", "attend"]).rows[0].invariant is True


def test_progress_and_choice_of_ops() -> None:
    seen: list[tuple[str, int, int]] = []
    report = check(stack(), ops=["rope", "embed"], progress=lambda *step: seen.append(step))
    assert [row.op for row in report.rows] == ["rope", "embed"]
    assert seen == [("rope", 0, 2), ("embed", 1, 2)]
    chosen = check(stack(), ops=["rope"], only=lambda op, case: "inverse" in case, rows_alone=False).rows[0]
    assert 0 < chosen.num_cases < report.rows[0].num_cases
    assert chosen.invariant is None
    with pytest.raises(UsageError, match="no op is called 'ropes'"):
        check(stack(), ops=["ropes"])


def test_the_table_names_op_origin_and_failures() -> None:
    noted = replace(stack(sigmoid_gate=in_place), notes={"sigmoid_gate": "ours is slower"})
    report = check(noted, ops=["sigmoid_gate", "rope"])
    console = Console(width=200, file=io.StringIO(), no_color=True)
    console.print(report)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    for part in ("sigmoid_gate", "ours is slower", "parity.stacks.reference", "changed its argument x", "cases passed"):
        assert part in text


def test_a_stack_by_its_spec() -> None:
    opened, dtype = open_stack("cpu:reference:float32")
    assert check(opened, ops=["rope"], dtypes=[dtype or torch.float32]).ok
