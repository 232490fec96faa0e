"""What kernels are sized by: the GPU that they run on."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Gpu:
    """The numbers of a GPU.

    Args:
        processors: its multiprocessors.
        shared_bytes: memory that a program may share.
    """

    processors: int
    shared_bytes: int


@functools.cache
def overlaps() -> bool:
    """Whether a launch may start while the one before it ends: NVIDIA's from Hopper on, unless PARITY_CUDA_OVERLAP is 0.

    Called programmatic dependent launch. It spares most of what a launch costs, which is what small kernels take.
    """
    from triton.runtime import driver

    target = driver.active.get_current_target()
    return target.backend == "cuda" and target.arch >= 90 and os.environ.get("PARITY_CUDA_OVERLAP") != "0"


@functools.cache
def of(device: torch.device) -> Gpu:
    """The device's; plain numbers where there is no GPU to ask."""
    if device.type != "cuda":
        return Gpu(8, 227 << 10)
    properties = torch.cuda.get_device_properties(device)
    # AMD's are not told of; none has less.
    return Gpu(properties.multi_processor_count, getattr(properties, "shared_memory_per_block_optin", 64 << 10))
