"""Products with packed matrices under the interpreter: what is launched for them, and that the numbers are the reference's."""

from __future__ import annotations

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from parity.core.weights import Packed, Rows
from parity.formats import pack
from parity.stacks import reference
from parity.stacks.check import check
from parity.stacks.cuda.kernels import linear, split
from parity.stacks.ops import Activation

from .interpreted import FAST


class Launches:
    """Counts what is launched, by the kernel's name, and computes it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        original = GridExecutor.__call__

        def call(executor: GridExecutor, *args: object, **options: object) -> None:
            self.names.append(executor.fn.__name__)
            original(executor, *args, **options)

        patch.setattr(GridExecutor, "__call__", call)


@pytest.mark.parametrize("format", ["fp8_block", "int8_group", "int4_group", "mxfp4", "int4_zero"])
def test_matrices_over_one_input_are_one_launch(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed parts of one form become one matrix, where its scales allow it, and give what the parts give."""
    dice, launches = torch.Generator().manual_seed(0), Launches(monkeypatch)
    meta = {"fp8_block": {"block_rows": 32, "block_columns": 32}, "mxfp4": {}}.get(format, {"group_size": 32})
    numbers = [torch.randn(rows, 128, generator=dice) / 11 for rows in (32, 32, 20)]
    parts = Rows(tuple(pack(part, format, **meta) for part in numbers))
    x, bias = torch.randn(3, 128, generator=dice), torch.randn(84, generator=dice)
    joined = FAST.prepare(parts)
    assert isinstance(joined, Packed)
    assert joined.nbytes == sum(FAST.prepare(part).nbytes for part in parts.parts)
    expected = reference.OPS.linear(x, parts, bias)
    torch.testing.assert_close(FAST.ops.linear(x, joined, bias), expected, rtol=1e-5, atol=1e-5)
    assert launches.names == ["_linear"]
    backwards = FAST.prepare(Rows(tuple(reversed(parts.parts))))  # 20 rows do not fill a block of scales
    assert isinstance(backwards, Rows) == (format == "fp8_block")


def test_matrices_of_several_forms_stay_apart() -> None:
    """Formats, groups and orders of the inputs that differ; plain ones of one dtype are joined too."""
    dice = torch.Generator().manual_seed(0)
    numbers = torch.randn(32, 128, generator=dice) / 11
    fine, coarse = (pack(numbers, "int4_zero", group_size=size) for size in (32, 128))
    orders = [torch.randperm(128, generator=dice).int() for _ in range(2)]
    ordered = [Packed("int4_zero", fine.shape, {**fine.arrays, "order": order}, fine.meta) for order in orders]
    parts = [numbers, numbers, fine, fine, coarse, ordered[0], ordered[0], ordered[1], pack(numbers, "mxfp4")]
    prepared = FAST.prepare(Rows(tuple(parts)))
    assert isinstance(prepared, Rows)
    assert [part.shape[0] for part in prepared.parts] == [64, 64, 32, 64, 32, 32]
    x = torch.randn(2, 128, generator=dice)
    expected = reference.OPS.linear(x, Rows(tuple(parts)))
    torch.testing.assert_close(FAST.ops.linear(x, prepared), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", [Activation(), Activation(limit=0.5), Activation("situ", beta=4.0, linear=25.0)])
def test_gates_are_joined_to_what_they_let_by_in_the_product(activation: Activation, monkeypatch: pytest.MonkeyPatch) -> None:

    dice, launches = torch.Generator().manual_seed(0), Launches(monkeypatch)
    packed = pack(torch.randn(2 * 35, 256, generator=dice) / 16, "int8_group", group_size=32)
    x, bias = torch.randn(5, 256, generator=dice), torch.randn(70, generator=dice)
    expected = reference.OPS.gated_linear(x, packed, bias, activation)
    for least in (4, 1):  # the sum whole, and in parts
        monkeypatch.setattr(split, "_LEAST_BLOCKS", least)
        launches.names.clear()
        found = FAST.ops.gated_linear(x, FAST.prepare(packed), bias, activation)
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
        assert launches.names == ["_linear"]


def test_sums_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long sums of few rows over several programs."""

    monkeypatch.setattr(split, "_LEAST_BLOCKS", 1)
    splits, several = list[int](), linear.num_splits
    monkeypatch.setattr(linear, "num_splits", lambda *given: splits.append(several(*given)) or splits[-1])
    cases = ("fp8_block, 2 x 256", "fp8_block, bias", "mxfp4, 2 x 256", "rows of several")
    half = [torch.bfloat16]
    report = check(FAST, ops=["linear"], dtypes=half, only=lambda _, name: name.startswith(cases), rows_alone=False)
    assert report.ok, report.failures
    assert set(splits) == {2, 4}
    assert not linear._arrivals(torch.device("cpu")).any()


@pytest.mark.parametrize("format", [None, "fp8_block", "int4_group"])
def test_experts_of_few_rows_are_two_launches(format: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair by itself, its sum in parts, and the sum over a row's experts; more pairs are brought together."""
    monkeypatch.setattr(split, "_LEAST_BLOCKS", 1)
    dice, launches, dtype = torch.Generator().manual_seed(0), Launches(monkeypatch), torch.float32
    meta = {"fp8_block": {"block_rows": 64, "block_columns": 64}, "int4_group": {"group_size": 32}}.get(format or "", {})
    stacks = [torch.randn(6, *shape, generator=dice) / 16 for shape in ((2 * 128, 256), (64, 128))]
    packed = [pack(stack, format, **meta) if format else stack for stack in stacks]
    prepared = [FAST.prepare(weight) for weight in packed]
    for rows, expected in ((1, ["_linear"] * 2), (3, ["_linear"] * 2), (17, None)):
        x = torch.randn(rows, 256, generator=dice, dtype=dtype)
        experts = torch.rand(rows, 6, generator=dice).argsort(-1)[:, :2].int()
        weights = torch.rand(rows, 2, generator=dice)
        launches.names.clear()
        found = FAST.ops.experts(x, *prepared, weights, experts, Activation())
        assert len(launches.names) == 5 if expected is None else launches.names == expected
        torch.testing.assert_close(
            found, reference.OPS.experts(x, *packed, weights, experts, Activation()), rtol=1e-4, atol=1e-4
        )
    assert not linear._arrivals(torch.device("cpu")).any()


@pytest.mark.parametrize(("rows", "names"), [(8, ["_linear"]), (9, [])])
def test_plain_weights_of_few_rows_take_our_kernel(rows: int, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    dice, launches = torch.Generator().manual_seed(0), Launches(monkeypatch)
    x, weight = (torch.randn(count, 96, generator=dice).bfloat16() for count in (rows, 40))
    found = FAST.ops.linear(x, weight)
    assert launches.names == names
    torch.testing.assert_close(found, reference.OPS.linear(x, weight), rtol=1e-2, atol=1e-1)
