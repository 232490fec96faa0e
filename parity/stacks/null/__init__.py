"""A stack that computes nothing: shapes and dtypes are right, values are zero.

For timing and testing everything above the kernels, and as the shortest example of a stack.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...core.weights import Weight
from .. import reference
from ..base import Stack
from ..host import HostDevice
from ..ops import Activation


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    return x.new_zeros(x.shape[0], weight.shape[0])


def gated_linear(x: Tensor, weight: Weight, bias: Tensor | None, activation: Activation) -> Tensor:
    return x.new_zeros(x.shape[0], weight.shape[0] // 2)


def head_linear(x: Tensor, weight: Weight) -> Tensor:
    return x.new_zeros(x.shape[0], x.shape[1], weight.shape[1])


def attend(q: Tensor, k_pages: Tensor, v_pages: Tensor, *args: object, **kwargs: object) -> Tensor:
    return q.new_zeros(q.shape[0], q.shape[1], v_pages.shape[-1])


def attend_latent(q: Tensor, *args: object, **kwargs: object) -> Tensor:
    return torch.zeros_like(q)


def gated_delta(q: Tensor, k: Tensor, v: Tensor, *args: object, **kwargs: object) -> Tensor:
    return torch.zeros_like(v)


def experts(x: Tensor, *args: object, **kwargs: object) -> Tensor:
    return torch.zeros_like(x)


def gated_activation(gate_up: Tensor, activation: Activation) -> Tensor:
    return gate_up.new_zeros(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


def open_stack() -> Stack:
    """The null stack."""
    return Stack(
        name="null",
        device=HostDevice(),
        ops=replace(
            reference.OPS,
            linear=linear,
            gated_linear=gated_linear,
            head_linear=head_linear,
            attend=attend,
            attend_latent=attend_latent,
            gated_delta=gated_delta,
            experts=experts,
            gated_activation=gated_activation,
        ),
        train_ops=reference.OPS,
        dtypes=(torch.float32, torch.bfloat16),
        memory_fraction=0.25,
    )
