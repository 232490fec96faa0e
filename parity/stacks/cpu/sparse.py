"""Experts, layers with a state for each request, and the choice of a token."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.batch import Batch
from ...core.weights import Rows, Weight
from .. import reference
from ..ops import Activation, Routing
from .arena import empty
from .dense import activation_numbers, plain
from .fallback import told, usable
from .native import native
from .weights import native_format, stacked

_SCORES = {"softmax": 0, "sigmoid": 1, "sqrtsoftplus": 2}
_MAX_GROUPS = 64


def route(logits: Tensor, routing: Routing, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if not (usable(logits) and plain(bias) and _routable(routing, logits.shape[1])):
        told("route", logits)
        return reference.route(logits, routing, bias)
    return _route(logits, routing, bias=bias)


def route_to(logits: Tensor, tokens: Tensor, table: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    whole = all(x.dtype == torch.int32 and x.is_contiguous() for x in (tokens, table))
    if not (whole and usable(logits) and _routable(routing, logits.shape[1])):
        told("route_to", logits, tokens, table)
        return reference.route_to(logits, tokens, table, routing)
    return _route(logits, routing, tokens=tokens, table=table)


def _routable(routing: Routing, num_experts: int) -> bool:
    groups = routing.num_groups
    fits = groups <= _MAX_GROUPS and num_experts % groups == 0
    return fits and routing.score in _SCORES and routing.top_k <= num_experts // groups * routing.top_groups


def _route(
    logits: Tensor,
    routing: Routing,
    *,
    bias: Tensor | None = None,
    tokens: Tensor | None = None,
    table: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    rows, columns = logits.shape
    weights = empty(rows, routing.top_k)
    chosen = empty(rows, routing.top_k, dtype=torch.int32)
    native().route(
        logits.data_ptr(),
        logits.stride(0),
        0 if bias is None else bias.data_ptr(),
        0 if tokens is None else tokens.data_ptr(),
        0 if table is None else table.data_ptr(),
        weights.data_ptr(),
        chosen.data_ptr(),
        rows,
        columns,
        routing.top_k,
        _SCORES[routing.score],
        routing.num_groups,
        routing.top_groups,
        routing.group_score == "max",
        routing.renormalize,
        routing.scale,
    )
    return weights, chosen


def experts(
    x: Tensor,
    gate_up: Weight,
    down: Weight,
    weights: Tensor,
    experts: Tensor,
    activation: Activation,
    *,
    as_floats: bool = False,
) -> Tensor:
    numbers = activation_numbers(activation)
    right = experts.dtype == torch.int32 and weights.dtype == x.dtype == torch.float32 and weights.is_contiguous()
    if not (right and numbers and stacked(gate_up) and stacked(down)):
        told("experts", x, gate_up, down)
        return reference.experts(x, gate_up, down, weights, experts, activation)
    assert not isinstance(gate_up, Rows)
    assert not isinstance(down, Rows)
    x, experts = x.contiguous(), experts.contiguous()
    out = empty(*x.shape)
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
        as_floats,
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
    out = empty(*x.shape)
    native().causal_conv(
        x.data_ptr(), x.stride(0), weight.data_ptr(), 0 if bias is None else bias.data_ptr(), state.data_ptr(), out.data_ptr(),
        batch.starts.data_ptr(), batch.slots.data_ptr(), batch.num_sequences, *x.shape, weight.shape[-1],
        activation is not None,
    )  # fmt: skip
    return out


def _rows_in_one_piece(x: Tensor) -> bool:
    return usable(x) and (x.shape[0] == 0 or x[0].is_contiguous())


def delta_gates(
    a: Tensor, b: Tensor, a_log: Tensor, dt_bias: Tensor, lower_bound: float | None = None
) -> tuple[Tensor, Tensor]:
    if not (_rows_in_one_piece(a) and usable(b) and plain(a_log, dt_bias)):
        told("delta_gates", a, b)
        return reference.delta_gates(a, b, a_log, dt_bias, lower_bound)
    decay, beta = empty(*a.shape), empty(*b.shape)
    rows, heads = b.shape
    native().delta_gates(
        a.data_ptr(), a.stride(0), b.data_ptr(), b.stride(0), a_log.data_ptr(), dt_bias.data_ptr(), decay.data_ptr(),
        beta.data_ptr(), rows, heads, a.shape[2] if a.ndim == 3 else 1, lower_bound is not None, lower_bound or 0.0,
    )  # fmt: skip
    return decay, beta


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, batch: Batch, scale: float
) -> Tensor:
    plain = all(usable(tensor) and tensor.is_contiguous() for tensor in (decay, beta, state))
    if not (plain and all(_rows_in_one_piece(tensor) for tensor in (q, k, v))):
        told("gated_delta", q, v, state)
        return reference.gated_delta(q, k, v, decay, beta, state, batch, scale)
    out = empty(*v.shape)
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
    out = empty(logits.shape[0], dtype=torch.int64)
    native().sample(
        logits.data_ptr(), logits.stride(0), temperature.data_ptr(), top_k.data_ptr(), top_p.data_ptr(), min_p.data_ptr(),
        uniform.data_ptr(), *logits.shape, out.data_ptr(),
    )  # fmt: skip
    return out
