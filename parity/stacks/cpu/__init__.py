"""The plain CPU, with kernels of its own where they were built."""

from __future__ import annotations

from dataclasses import replace

import torch

from .. import reference
from ..base import Stack
from ..host import HostDevice
from .native import missing


def open_stack() -> Stack:
    """The cpu stack; without the compiled kernels it computes with the reference table, and says so once."""
    if missing() is not None:
        notes = dict.fromkeys(reference.OPS.names(), missing() or "")
        return Stack("cpu", HostDevice(), reference.OPS, reference.OPS, dtypes=(torch.float32,), int8_pages=True, notes=notes)
    from . import table, weights
    from .device import NativeDevice
    from .graph import TORCH_THREADS

    TORCH_THREADS.restore()

    stack = Stack(
        name="cpu",
        device=NativeDevice(),
        ops=table.OPS,
        train_ops=reference.OPS,
        dtypes=(torch.float32,),
        formats=weights.FORMATS,
        rounded=weights.ROUNDED,
        prepare=weights.prepare,
        int8_pages=True,
        notes=table.NOTES,
    )
    float32 = replace(stack, name="cpu:float32", ops=table.FLOAT32_OPS, rounded=frozenset())
    return replace(stack, tables={"float32": lambda: float32})
