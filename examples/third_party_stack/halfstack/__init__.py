"""A whole stack: a device, two kernels of its own, and the reference for the rest.

`pip install .` registers it through the entry point in pyproject.toml; after that `--stack halfstack` runs any model on it,
and `parity stacks --check halfstack` holds its kernels to the contract.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from parity.stacks import reference
from parity.stacks.base import Stack

from .device import PlainDevice
from .kernels import rms_norm, sigmoid_gate

OPS = replace(reference.OPS, rms_norm=rms_norm, sigmoid_gate=sigmoid_gate)


def open_stack() -> Stack:
    """The stack; called when somebody asks for it by name."""
    return Stack(
        name="halfstack",
        device=PlainDevice(),
        ops=OPS,
        train_ops=reference.OPS,
        dtypes=(torch.float32, torch.bfloat16),
        memory_fraction=0.25,
        notes={name: "not written yet" for name in OPS.names() if OPS.origin(name) == "parity.stacks.reference"},
    )
