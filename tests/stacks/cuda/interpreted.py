"""The tables of the cuda stack on the host, for Triton's interpreter (TRITON_INTERPRET=1 before Triton is imported)."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint

import torch

from parity.stacks import reference, registry
from parity.stacks.base import Stack
from parity.stacks.cuda import table
from parity.stacks.cuda.kernels.packed import prepare
from parity.stacks.host import HostDevice

DETERMINISTIC = Stack(
    name="interpreted:deterministic",
    device=HostDevice(),
    ops=table.DETERMINISTIC,
    train_ops=reference.OPS,
    dtypes=(torch.bfloat16, torch.float32),
    formats=table.FORMATS,
    prepare=prepare,
    int8_pages=True,
)
FAST = replace(DETERMINISTIC, name="interpreted", ops=table.OPS, tables={"deterministic": lambda: DETERMINISTIC})


def open_stack() -> Stack:
    """As the entry point of a package would."""
    return FAST


POINT = EntryPoint("interpreted", f"{__name__}:{open_stack.__name__}", registry.GROUP)
