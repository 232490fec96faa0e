"""Experts, layers with a state for each request, and the choice of a token."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.batch import Batch
from ...core.weights import Rows, Weight
from .. import reference
from ..ops import Activation
from .dense import activation_numbers
from .fallback import told, usable
from .native import native
from .weights import native_format, stacked


def experts(x: Tensor, gate_up: Weight, down: Weight, weights: Tensor, experts: Tensor, activation: Activation) -> Tensor:
    numbers = activation_numbers(activation)
    right = experts.dtype == torch.int32 and weights.dtype == torch.float32 and weights.is_contiguous()
    if not (right and numbers and usable(x) and stacked(gate_up) and stacked(down)):
        told("experts", x, gate_up, down)
        return reference.experts(x, gate_up, down, weights, experts, activation)
    assert not isinstance(gate_up, Rows)
    assert not isinstance(down, Rows)
    x, experts = x.contiguous(), experts.contiguous()
    out = torch.empty(x.shape)
    native().experts(
        x.data_ptr(),
        _data(gate_up).data_ptr(),
        _data(down).data_ptr(),
        weights.data_ptr(),
        experts.data_ptr(),
        out.data_ptr(),
        x.shape[0],
        x.shape[1],
        down.shape[2],
        down.shape[0],
        experts.shape[1],
        native_format(gate_up),
        native_format(down),
        *numbers,
    )
    return out


def _data(weight: Weight) -> Tensor:
    return weight if isinstance(weight, Tensor) else weight.arrays["panels"]  # type: ignore[union-attr]  # never rows


def causal_conv(
    x: Tensor, weight: Tensor, state: Tensor, batch: Batch, bias: Tensor | None = None, activation: str | None = "silu"
) -> Tensor:
    plain = all(tensor is None or (usable(tensor) and tensor.is_contiguous()) for tensor in (weight, state, bias))
    if not (plain and usable(x) and activation in ("silu", None)):
        told("causal_conv", x, weight, state)
        return reference.causal_conv(x, weight, state, batch, bias, activation)
    out = torch.empty(x.shape)
    native().causal_conv(
        x.data_ptr(), x.stride(0), weight.data_ptr(), 0 if bias is None else bias.data_ptr(), state.data_ptr(), out.data_ptr(),
        batch.starts.data_ptr(), batch.slots.data_ptr(), batch.num_sequences, *x.shape, weight.shape[-1],
        activation is not None,
    )  # fmt: skip
    return out


def _rows_in_one_piece(x: Tensor) -> bool:
    return usable(x) and (x.shape[0] == 0 or x[0].is_contiguous())


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, batch: Batch, scale: float
) -> Tensor:
    plain = all(usable(tensor) and tensor.is_contiguous() for tensor in (decay, beta, state))
    if not (plain and all(_rows_in_one_piece(tensor) for tensor in (q, k, v))):
        told("gated_delta", q, v, state)
        return reference.gated_delta(q, k, v, decay, beta, state, batch, scale)
    out = torch.empty(v.shape)
    native().gated_delta(
        q.data_ptr(), q.stride(0), k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0), decay.data_ptr(), beta.data_ptr(),
        state.data_ptr(), out.data_ptr(), batch.starts.data_ptr(), batch.slots.data_ptr(), batch.num_sequences, v.shape[0],
        q.shape[1], v.shape[1], q.shape[2], v.shape[2], decay.shape[2] if decay.ndim == 3 else 1, scale,
    )  # fmt: skip
    return out


def sample(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    floats = (temperature, top_p, min_p, uniform)
    if not (usable(logits) and all(one.dtype == torch.float32 and one.is_contiguous() for one in floats)):
        told("sample", logits, *floats)
        return reference.sample(logits, temperature, top_k, top_p, min_p, uniform)
    top_k = top_k.to(torch.int32).contiguous()
    out = torch.empty(logits.shape[0], dtype=torch.int64)
    native().sample(
        logits.data_ptr(), logits.stride(0), temperature.data_ptr(), top_k.data_ptr(), top_p.data_ptr(), min_p.data_ptr(),
        uniform.data_ptr(), *logits.shape, out.data_ptr(),
    )  # fmt: skip
    return out
