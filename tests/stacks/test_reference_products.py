"""The reference's products on a CPU: the same numbers whichever library sums them, and the definition where gradients flow."""

from __future__ import annotations

import pytest
import torch

from parity.stacks import reference
from parity.stacks.cpu.products import LEAST_WEIGHTS, MOST_ROWS, linear
from parity.stacks.registry import open_stack


@pytest.mark.parametrize("rows", [1, 3, MOST_ROWS, MOST_ROWS + 1])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("outputs", [40, LEAST_WEIGHTS // 96 + 1])
def test_products_are_the_reference_s(outputs: int, biased: bool, rows: int) -> None:
    torch.manual_seed(rows)
    x, weight = torch.randn(2 * rows, 96)[::2], torch.randn(outputs, 96)
    bias = torch.randn(outputs) if biased else None
    with torch.inference_mode():
        found = linear(x, weight, bias)
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_the_definition() -> None:
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(4, 8)
    linear(x, weight).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, 8))


def test_the_reference_table_of_the_cpu_has_them() -> None:
    stack, _ = open_stack("cpu:reference")
    assert stack.ops.linear is linear
    assert stack.train_ops is reference.OPS
