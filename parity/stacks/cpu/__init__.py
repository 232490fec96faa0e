"""The plain CPU, with kernels of its own where they were built."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from .. import reference
from ..base import Stack
from ..host import HostDevice
from . import products
from .native import missing

STEP_TOKENS = 512
"""More would not compute faster; a step's arrays, whose memory is kept, grow with them: 39 MiB for half a billion weights."""
HEAD_ROWS = 32
"""From 16 rows on products bound the head, so that reading it anew costs little; 32 rows of logits may take 19 MiB."""
MEMORY_FRACTION = 0.5
"""Of the free memory for pages: what they once took they keep, and the rest of the machine lives in the same memory, mapped
weights included, which count as free until they are read."""


def open_stack() -> Stack:
    """The cpu stack; without the compiled kernels it computes with the reference table, and says so once."""
    if missing() is not None:
        notes = dict.fromkeys(reference.OPS.names(), missing() or "")
        return Stack(
            "cpu",
            HostDevice(),
            products.REFERENCE_OPS,
            reference.OPS,
            dtypes=(torch.float32,),
            memory_fraction=MEMORY_FRACTION,
            int8_pages=True,
            notes=notes,
            reference=products.REFERENCE_OPS,
        )
    from . import table, weights
    from .device import NativeDevice
    from .graph import TORCH_THREADS

    TORCH_THREADS.restore()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch takes large arrays in large pages: fewer faults, of 4 KiB each

    stack = Stack(
        name="cpu",
        device=NativeDevice(),
        ops=table.OPS,
        train_ops=reference.OPS,
        dtypes=(torch.float32,),
        formats=weights.FORMATS,
        rounded=weights.ROUNDED,
        prepare=weights.prepare,
        memory_fraction=MEMORY_FRACTION,
        step_tokens=STEP_TOKENS,
        head_rows=HEAD_ROWS,
        int8_pages=True,
        notes=table.NOTES,
        reference=products.REFERENCE_OPS,
    )
    float32 = replace(stack, name="cpu:float32", ops=table.FLOAT32_OPS, rounded=frozenset())
    return replace(stack, tables={"float32": lambda: float32})
