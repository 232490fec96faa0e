"""NVIDIA GPUs."""

from __future__ import annotations

import torch

from ...core.errors import UsageError
from .. import reference
from ..base import Stack
from .device import CudaDevice

_WHY = "no kernel of its own yet: the reference runs on the device"


def open_stack() -> Stack:
    """The cuda stack on the current device.

    Raises:
        UsageError: PyTorch sees no CUDA device; the text says why.
    """
    if not torch.cuda.is_available():
        built = "its build has no CUDA" if torch.version.cuda is None else "no device or driver was found"
        raise UsageError(f"PyTorch {torch.__version__} sees no CUDA device: {built}")
    return Stack(
        name="cuda",
        device=CudaDevice(torch.cuda.current_device()),
        ops=reference.OPS,
        train_ops=reference.OPS,
        dtypes=(torch.bfloat16, torch.float16, torch.float32),
        notes=dict.fromkeys(reference.OPS.names(), _WHY),
    )
