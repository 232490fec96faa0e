"""What the kernels can read, and one message for each kind of thing that they cannot."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ...core.weights import Weight

log = logging.getLogger("parity")
_said: set[str] = set()


def usable(tensor: Tensor) -> bool:
    """Whether its rows are float32 numbers beside each other."""
    return tensor.dtype == torch.float32 and (tensor.shape[-1] == 1 or tensor.stride(-1) == 1)


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
