"""Runs the cases of whole numbers: what a stack's kernel gave, and what is right, each as one hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..base import Stack
from .case import Case
from .oracle import exact, upcast
from .run import given
from .whole import WHOLE
from .whole_make import Whole

_NOTHING = 2.0**-100
"""Below any number of the cases; kernels may bound exp from below by the smallest normal number."""


class Digests(NamedTuple):
    """SHA-256 of an op's results over all its cases: as the kernel gave them, and as they must be."""

    found: str
    right: str


def op_digests(stack: Stack) -> Iterator[tuple[str, Digests]]:
    """The ops of a stack in float32, but for those of `NOT_WHOLE`; a kernel that fails has its error for a digest."""
    for name in WHOLE:
        found = hashlib.sha256()
        try:
            for case in WHOLE[name](Whole()):
                found.update(as_bytes(case, kernel_results(stack, name, case)))
            yield name, Digests(found.hexdigest(), right_digest(name))
        except Exception as problem:  # a kernel is others' code: whatever it raises is its result
            yield name, Digests(f"raised {type(problem).__name__}: {problem}"[:200], right_digest(name))


@cache
def right_digest(name: str) -> str:
    """The digest of an op's results as they must be."""
    right = hashlib.sha256()
    for case in WHOLE[name](Whole()):
        right.update(as_bytes(case, exact_results(name, case)))
    return right.hexdigest()


def kernel_results(stack: Stack, name: str, case: Case) -> list[Tensor]:
    """What the op returns and leaves in the state, on the host."""
    args, options = given(case, stack)
    with torch.inference_mode():
        result = getattr(stack.ops, name)(*args.values(), **options)
        stack.device.synchronize()
    return [tensor.cpu() for tensor in (*_listed(result), *(args[key] for key in case.state)) if isinstance(tensor, Tensor)]


def exact_results(name: str, case: Case) -> list[Tensor]:
    """The same from the definition, in float64."""
    args = {key: upcast(value) for key, value in case.args.items()}
    options = {key: upcast(value) for key, value in case.options.items()}
    result = exact(name, list(args.values()), options)
    return [tensor for tensor in (*_listed(result), *(args[key] for key in case.state)) if isinstance(tensor, Tensor)]


def _listed(result: object) -> tuple[object, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def as_bytes(case: Case, tensors: list[Tensor]) -> bytes:
    """Numbers as float32 or int64; both zeros, and what an exp may leave instead of one, are alike, and so are all NaNs, which
    stand where nothing belongs to anybody."""
    parts = []
    for place, tensor in enumerate(tensors):
        if case.judged is not None and place < len(tensors) - len(case.state):
            tensor = tensor[list(case.judged)]
        if tensor.is_floating_point():
            tensor = tensor.float().nan_to_num(7e33)
            tensor = tensor.masked_fill(tensor.abs() < _NOTHING, 0.0)
        else:
            tensor = tensor.long()
        parts.append(tensor.contiguous().numpy().tobytes())
    return b"".join(parts)
