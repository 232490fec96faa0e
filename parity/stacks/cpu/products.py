"""The reference table on a CPU: its matrices are multiplied by oneDNN where that is faster than PyTorch's default."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.weights import Weight
from .. import reference
from ..ops import Activation

MOST_ROWS = 64
"""Up to here oneDNN needs half to nine tenths of the time of MKL, which packs a matrix before it reads it; then as much."""
LEAST_WEIGHTS = 2**20
"""From here on: going to oneDNN's tensors and back costs 60 us, ten times the product of a small model."""


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """`reference.linear` in the same precision; a few rows are summed in another library's order."""
    few = x.ndim == 2 and x.dtype == torch.float32 and 0 < len(x) <= MOST_ROWS and math.prod(weight.shape) >= LEAST_WEIGHTS
    if not few or torch.is_grad_enabled() or not torch.backends.mkldnn.is_available():
        return reference.linear(x, weight, bias)
    return F.linear(x.to_mkldnn(), reference.plain(weight, x.dtype), bias).to_dense()


def gated_linear(x: Tensor, weight: Weight, bias: Tensor | None, activation: Activation) -> Tensor:
    return reference.gated_activation(linear(x, weight, bias), activation)


REFERENCE_OPS = replace(reference.OPS, linear=linear, gated_linear=gated_linear)
