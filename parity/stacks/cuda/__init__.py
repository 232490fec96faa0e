"""NVIDIA GPUs (and AMD's through PyTorch's ROCm build, which answers to the same name)."""

from __future__ import annotations

import importlib.util

import torch

from ...core.errors import UsageError
from .. import reference
from ..base import Stack
from .device import CudaDevice

_NO_TRITON = "Triton is not installed (pip install 'parity-llm[cuda]'): the reference runs on the device"
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def open_stack() -> Stack:
    """The cuda stack on the first visible device. The engine has a thread of its own, and each thread begins there.

    Raises:
        UsageError: PyTorch sees no CUDA device, or this thread has chosen another; the text says what to do.
    """
    if not torch.cuda.is_available():
        built = "its build has no CUDA" if torch.version.cuda is None else "no device or driver was found"
        raise UsageError(f"PyTorch {torch.__version__} sees no CUDA device: {built}")
    index = torch.cuda.current_device()
    if index != 0:
        raise UsageError(f"Parity takes the first GPU: set CUDA_VISIBLE_DEVICES={index} instead of calling set_device")
    if importlib.util.find_spec("triton") is None:
        return without_triton(index)
    return with_triton(index)


def without_triton(index: int) -> Stack:
    """The device with the reference table."""
    return Stack(
        name="cuda",
        device=CudaDevice(index),
        ops=reference.OPS,
        train_ops=reference.OPS,
        dtypes=_DTYPES,
        int8_pages=True,
        notes=dict.fromkeys(reference.OPS.names(), _NO_TRITON),
    )


def with_triton(index: int, *, deterministic: bool = False) -> Stack:
    """The device with our kernels, whose steps can be recorded."""
    from . import table
    from .kernels.packed import prepare

    return Stack(
        name="cuda:deterministic" if deterministic else "cuda",
        device=CudaDevice(index, records=True),
        ops=table.DETERMINISTIC if deterministic else table.OPS,
        train_ops=reference.OPS,
        dtypes=_DTYPES,
        formats=table.FORMATS,
        prepare=prepare,
        notes=table.DETERMINISTIC_NOTES if deterministic else table.NOTES,
        tables={} if deterministic else {"deterministic": lambda: with_triton(index, deterministic=True)},
    )
