"""Ops on whole numbers: two independent tables and float64 agree to the last bit; a kernel that is nearly right does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parity.stacks.check.exact import as_bytes, exact_results, kernel_results, op_digests
from parity.stacks.check.whole import NOT_WHOLE, WHOLE
from parity.stacks.check.whole_make import Whole
from parity.stacks.ops import Ops
from parity.stacks.registry import open_stack


def test_every_op_has_cases_or_a_reason() -> None:
    assert sorted((*WHOLE, *NOT_WHOLE)) == sorted(Ops.names())
    assert all(NOT_WHOLE.values())


@pytest.mark.parametrize("name", WHOLE)
def test_reference_and_native_kernels_give_the_same_bits(name: str) -> None:
    stacks = [open_stack(spec)[0] for spec in ("cpu:reference", "cpu")]
    for case in WHOLE[name](Whole()):
        right = exact_results(name, case)
        for stack in stacks:
            assert as_bytes(case, kernel_results(stack, name, case)) == as_bytes(case, right), (stack.name, case.name)
        judged = right[0][list(case.judged)] if case.judged is not None else right[0]
        if judged.is_floating_point():
            # What is right must be a float32 itself: else its rounding would hide who is not exact.
            error = (judged - judged.float().double()).abs().nan_to_num(0.0)
            assert (error <= judged.abs().nan_to_num(1.0) * 2.0**-40 + 2.0**-100).all(), case.name


@pytest.mark.parametrize("name", ["rms_norm", "linear", "attend", "experts", "gated_delta", "hyper_weights"])
def test_a_kernel_that_is_one_step_off_is_seen(name: str) -> None:
    stack, _ = open_stack("cpu:reference")
    kernel = getattr(stack.ops, name)

    def nearly(*args: object, **options: object) -> object:
        result = kernel(*args, **options)
        return (result[0] * (1 + 2**-23), *result[1:]) if isinstance(result, tuple) else result * (1 + 2**-23)

    wrong = replace(stack, ops=replace(stack.ops, **{name: nearly}))
    cases = list(WHOLE[name](Whole()))
    assert any(as_bytes(case, kernel_results(wrong, name, case)) != as_bytes(case, exact_results(name, case)) for case in cases)


def test_a_kernel_that_raises_is_not_exact() -> None:
    stack, _ = open_stack("cpu:reference")

    def broken(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        raise ValueError("not today")

    found = dict(op_digests(replace(stack, ops=replace(stack.ops, add=broken))))
    assert found.pop("add").found == "raised ValueError: not today"
    assert all(digests.found == digests.right for digests in found.values())
