"""The plain CPU."""

from __future__ import annotations

import torch

from .. import reference
from ..base import Stack
from ..host import HostDevice


def open_stack() -> Stack:
    """The cpu stack."""
    return Stack(
        name="cpu",
        device=HostDevice(),
        ops=reference.OPS,
        train_ops=reference.OPS,
        dtypes=(torch.float32,),
        memory_fraction=0.25,
    )
