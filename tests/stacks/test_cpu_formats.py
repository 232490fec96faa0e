"""The cpu stack's kernels on formats with scales beside their codes, for each instruction set that this machine runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.core.weights import Packed, Rows
from parity.formats import expand, pack, stack
from parity.stacks import reference
from parity.stacks.check.case import Make
from parity.stacks.check.weights import one
from parity.stacks.cpu.native import missing
from parity.stacks.ops import Activation

if missing() is not None:
    pytest.skip(f"the cpu stack's kernels: {missing()}", allow_module_level=True)

from parity.stacks.cpu import open_stack
from parity.stacks.cpu.native import native

STACK = open_stack()
OPS = STACK.ops

# What is packed, how, the type that its scales are stored in, and the layout that they take.
FLOATS: dict[str, tuple[str, dict[str, int], torch.dtype | None, str]] = {
    "fp8 128 x 128": ("fp8_block", {}, None, "fp8_128"),
    "fp8 128 x 128 powers of two": ("fp8_block", {"e8m0": 1}, None, "fp8_128"),
    "fp8 128 x 128 bfloat16 scales": ("fp8_block", {}, torch.bfloat16, "fp8_128"),
    "fp8 32 x 32": ("fp8_block", {"block_rows": 32, "block_columns": 32}, None, "fp8_32"),
    "fp8 32 x 32 powers of two": ("fp8_block", {"block_rows": 32, "block_columns": 32, "e8m0": 1}, None, "fp8_power"),
    "fp8 one scale for each row": ("fp8_block", {"block_rows": 1, "block_columns": 256}, None, "fp8_128"),
}
INTEGERS: dict[str, tuple[str, dict[str, int], torch.dtype | None, str]] = {
    "mxfp4": ("mxfp4", {}, None, "mxfp4"),
    "int4 of 32": ("int4_group", {"group_size": 32}, None, "int4_32"),
    "int4 of 32, float16": ("int4_group", {"group_size": 32}, torch.float16, "q4_0"),
    "int4 of 128": ("int4_group", {"group_size": 128}, None, "int4_128"),
    "int4 by channel": ("int4_group", {"group_size": 256}, torch.float32, "int4_128"),
    "int8 of 64": ("int8_group", {"group_size": 64}, None, "int8_32"),
    "int8 of 32, float16": ("int8_group", {"group_size": 32}, torch.float16, "q8_0"),
    "int8 of 128": ("int8_group", {"group_size": 128}, None, "int8_128"),
    "zero points of 32": ("int4_zero", {"group_size": 32}, None, "zero4_32"),
    "zero points of 128": ("int4_zero", {"group_size": 128}, None, "zero4_128"),
    "awq of 64": ("awq", {"group_size": 64}, None, "zero4_32"),
    "awq of 128": ("awq", {"group_size": 128}, None, "zero4_128"),
    "gptq of 128": ("gptq", {"group_size": 128, "in_order": 1}, None, "zero4_128"),
    "gptq of 32, inputs in an order": ("gptq", {"group_size": 32}, None, "zero4_32"),
}
ALL = FLOATS | INTEGERS


@pytest.fixture(autouse=True, params=native().isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native().isa()
    native().set_isa(request.param)
    yield request.param
    native().set_isa(before)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def made(label: str, rows: int, columns: int, seed: int = 0) -> Packed:
    """A matrix of normal numbers in one of the formats above."""
    name, meta, dtype, _ = ALL[label]
    weight = one(Make(torch.float32, seed=seed), name, rows, columns, meta)
    assert isinstance(weight, Packed)
    if dtype is None:
        return weight
    return Packed(name, weight.shape, {**weight.arrays, "scale": weight.arrays["scale"].to(dtype)}, weight.meta)


@pytest.mark.parametrize("label", ALL)
def test_the_layout_and_that_rows_of_it_are_the_numbers(label: str) -> None:
    weight = made(label, 40, 256)
    prepared = STACK.prepare(weight)
    assert isinstance(prepared, Packed)
    assert prepared.meta["layout"] == native().formats()[ALL[label][3]][0]
    if "order" not in prepared.arrays:
        tokens = torch.tensor([39, 0, 17, 16, 15], dtype=torch.int32)
        got = OPS.embed(tokens, prepared, torch.float32)
        torch.testing.assert_close(got, expand(weight)[tokens.long()], rtol=2**-20, atol=1e-7)


@pytest.mark.parametrize("label", FLOATS)
@pytest.mark.parametrize("rows", [16, 37])
def test_floats_are_multiplied_as_they_are(label: str, rows: int) -> None:
    weight, x, bias = made(label, rows, 256), normal(23, 256, seed=1), normal(rows, seed=2)
    plain = expand(weight).double()
    expected = x.double() @ plain.T + bias
    # 32 products in order, each block then times its scale: 32 + 2 * 8 roundings of at most the sum of sizes.
    allowed = 50 * 2**-24 * (x.double().abs() @ plain.abs().T + bias.abs()) + 1e-9
    assert ((OPS.linear(x, STACK.prepare(weight), bias) - expected).abs() <= allowed).all()


@pytest.mark.parametrize("label", INTEGERS)
@pytest.mark.parametrize("rows", [16, 40])
def test_integers_are_multiplied_by_rounded_activations(label: str, rows: int) -> None:
    weight, x, bias = made(label, rows, 256), normal(23, 256, seed=1), normal(rows, seed=2)
    plain = expand(weight)
    taken = x
    if weight.format == "gptq":  # blocks are of the inputs as the kernel takes them
        order = weight.arrays["groups"].long().argsort(stable=True)
        taken, plain = x[:, order], plain[:, order]
    expected = torch.nn.functional.linear(taken, plain, bias)
    steps = taken.unflatten(-1, (-1, 32)).abs().amax(-1) / 127
    bound = steps / 2 @ plain.abs().unflatten(-1, (-1, 32)).sum(-1).T
    got = OPS.linear(x, STACK.prepare(weight), bias)
    assert ((got - expected).abs() <= 1.001 * bound + 1e-5).all()
    assert (got - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("label", INTEGERS)
def test_integers_are_exact_where_activations_are(label: str) -> None:
    weight = made(label, 40, 256)
    x = torch.randint(-127, 128, (9, 256), generator=torch.Generator().manual_seed(3)).float()
    x[:, :] = torch.where(torch.arange(256) % 2 == 0, 127.0, x)  # in any order, each 32 hold the largest
    expected = x.double() @ expand(weight).double().T
    size = x.abs().double() @ expand(weight).abs().double().T
    assert ((OPS.linear(x, STACK.prepare(weight)) - expected).abs() <= 80 * 2**-24 * size + 1e-6).all()


@pytest.mark.parametrize("label", ALL)
def test_a_row_does_not_depend_on_its_batch(label: str) -> None:
    weight = STACK.prepare(made(label, 56, 256))
    x = normal(70, 256, seed=5)
    whole = OPS.linear(x, weight)
    for count in (1, 2, 3, 5, 6, 7, 13, 64):
        assert torch.equal(OPS.linear(x[:count], weight), whole[:count])
        assert torch.equal(OPS.linear(x[-count:], weight), whole[-count:])


def test_rows_of_several_formats_are_one_product() -> None:
    labels = ("fp8 128 x 128", "int4 of 128", "gptq of 32, inputs in an order", "mxfp4")
    parts: tuple[Any, ...] = (*(made(label, 24, 256, seed=index) for index, label in enumerate(labels)), normal(5, 256, seed=9))
    for cut in (parts, parts[:2] + parts[3:]):
        x, bias = normal(8, 256, seed=4), normal(sum(part.shape[0] for part in cut), seed=5)
        got = OPS.linear(x, STACK.prepare(Rows(cut)), bias)
        each = torch.cat([OPS.linear(x, STACK.prepare(part)) for part in cut], dim=1) + bias
        assert torch.equal(got, each)


def test_a_weight_of_more_parts_than_one_call_reads() -> None:
    parts: list[Any] = [made("int4 of 128", 8 * (1 + index), 256, seed=index) for index in range(7)]
    x, bias = normal(3, 256, seed=4), normal(sum(part.shape[0] for part in parts), seed=5)
    got = OPS.linear(x, STACK.prepare(Rows(tuple(parts))), bias)
    each = torch.cat([OPS.linear(x, STACK.prepare(part)) for part in parts], dim=1) + bias
    assert torch.equal(got, each)


def test_activations_at_any_distance() -> None:
    weight = STACK.prepare(made("int4 of 128", 24, 256))
    x = normal(6, 256, seed=4)
    for far in (x.T.contiguous().T, torch.stack([x, x], dim=-1)[..., 0]):
        assert torch.equal(OPS.linear(far, weight), OPS.linear(x, weight))
    stacked: Any = STACK.prepare(stack([made("int4 of 128", 256, 256, seed=e) for e in range(2)]))
    heads = torch.stack([x, x + 1], dim=1)
    far = torch.stack([heads, heads], dim=-1)[..., 0]
    assert torch.equal(OPS.head_linear(far, stacked), OPS.head_linear(heads, stacked))
    gate_up: Any = STACK.prepare(stack([made("int4 of 128", 512, 256, seed=e) for e in range(2)]))
    weights, chosen = torch.ones(6, 1), (torch.arange(6) % 2).int()[:, None]
    near = OPS.experts(x, gate_up, stacked, weights, chosen, Activation())
    assert torch.equal(OPS.experts(x.T.contiguous().T, gate_up, stacked, weights, chosen, Activation()), near)


@pytest.mark.parametrize("label", [label for label in ALL if "order" not in label])
def test_experts(label: str) -> None:
    count, rows = 5, 11
    inner = max(ALL[label][1].get("group_size", 0), 128)
    gate_up: Any = stack([made(label, 2 * inner, 256, seed=10 + e) for e in range(count)])
    down: Any = stack([made(label, 256, inner, seed=20 + e) for e in range(count)])
    x, weights = normal(rows, 256), normal(rows, 3, seed=1).softmax(-1)
    chosen = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(r))[:3] for r in range(rows)]).int()
    expected = reference.experts(x, gate_up, down, weights, chosen, Activation())
    prepared = STACK.prepare(gate_up), STACK.prepare(down)
    got = OPS.experts(x, *prepared, weights, chosen, Activation())
    assert (got - expected).norm() < (1e-6 if label in FLOATS else 0.02) * expected.norm()
    assert torch.equal(OPS.experts(x[4:5], *prepared, weights[4:5], chosen[4:5], Activation()), got[4:5])


def test_a_weight_that_is_no_number_stays_visible() -> None:
    weight = pack(normal(40, 128), "fp8_block")
    weight.arrays["data"].view(torch.uint8)[21, 5] = 0x7F
    got = OPS.linear(normal(4, 128, seed=1), STACK.prepare(weight))
    assert got[:, 21].isnan().all()
    assert got.isnan().sum() == 4


def test_what_no_layout_holds_is_expanded_and_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.stacks.cpu.groups._said", set())
    weight = pack(normal(8, 48), "int4_group", group_size=24)
    with caplog.at_level("WARNING", logger="parity"):
        prepared = STACK.prepare(weight)
    assert torch.equal(prepared, expand(weight))  # type: ignore[arg-type]  # a plain tensor
    assert "int4_group" in caplog.text
