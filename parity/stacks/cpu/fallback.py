"""What the kernels can read, and one message for each kind of thing that they cannot."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from ...core.weights import Weight

log = logging.getLogger("parity")
_said: set[str] = set()


def usable(tensor: Tensor) -> bool:
    """Whether its rows are float32 numbers beside each other."""
    return tensor.dtype == torch.float32 and (tensor.shape[-1] == 1 or tensor.stride(-1) == 1)


Spaced = tuple[int, int, int, int]
"""Rows at two distances: row r stands at address + 4 (r // inner * stride + r % inner * inner stride)."""

NO_ROWS: Spaced = (0, 0, 1, 0)


def spaced(x: Tensor) -> Spaced | None:
    """Where the rows of x [..., D] stand, without a copy; None if they have more than two distances."""
    levels: list[tuple[int, int]] = []  # (rows, distance), the outer first
    for size, distance in zip(x.shape[:-1], x.stride()[:-1], strict=True):
        if size == 1:
            continue
        if levels and levels[-1][1] == size * distance:
            levels[-1] = (levels[-1][0] * size, distance)
        else:
            levels.append((size, distance))
    if len(levels) > 2:
        return None
    if len(levels) == 2:
        return x.data_ptr(), levels[0][1], levels[1][0], levels[1][1]
    return x.data_ptr(), levels[0][1] if levels else 0, 1, 0


def num_rows(x: Tensor) -> int:
    """Rows of x [..., D]."""
    return math.prod(x.shape[:-1])


def rows_of(x: Tensor) -> Tensor:
    """x [..., D] as [rows, D], without a copy if the rows have one distance."""
    if x.ndim == 2:
        return x
    return x.reshape(-1, x.shape[-1])


def told(op: str, *values: Tensor | Weight | None) -> None:
    """Says once for an op that it goes to the reference, and for what."""
    what = ", ".join(_described(value) for value in values if value is not None)
    if op not in _said:
        _said.add(op)
        log.info("cpu: %s has no native kernel for %s; the reference computes it", op, what)


def _described(value: Tensor | Weight) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return f"{getattr(value, 'format', 'rows')} {value.shape}"
