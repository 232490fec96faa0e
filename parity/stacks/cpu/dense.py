"""Matrices, norms and activations."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.weights import Rows, Weight
from .. import reference, reference_streams
from ..ops import Activation
from .arena import empty
from .fallback import NO_ROWS, Spaced, num_rows, rows_of, spaced, told, usable
from .native import native
from .weights import halves, matrices, orders, parts, stacked

_MAX_PARTS = 5
"""Of a weight that one call reads."""
_KINDS = {"silu": 0, "situ": 2}
GATES = {"silu": 0, "sigmoid": 1}


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None, *, as_floats: bool = False) -> Tensor:
    """With `as_floats`, activations meet packed weights as they are, and are not rounded to bytes; here and below."""
    found = parts(weight)
    if found is None or x.dtype != torch.float32 or not (bias is None or usable(bias)):
        told("linear", x, weight)
        return reference.linear(x, weight, bias)
    rows = rows_of(x if usable(x) else x.contiguous())
    out, height = empty(*x.shape[:-1], weight.shape[0]), weight.shape[0]
    sorted_by = orders(weight)
    if len(found) <= _MAX_PARTS and not any(order is not None for order in sorted_by):
        native().linear(rows.data_ptr(), rows.stride(0), *rows.shape, found, _address(bias), out.data_ptr(), height, as_floats)
        return out
    first = 0  # each part is a product of its own, which may take its inputs in an order of its own
    for part, order in zip(found, sorted_by, strict=True):
        taken = rows if order is None else _reordered(rows, order)
        at = 0 if bias is None else bias.data_ptr() + 4 * first
        to = out.data_ptr() + 4 * first
        native().linear(taken.data_ptr(), taken.stride(0), *taken.shape, [part], at, to, height, as_floats)
        first += part[2]
    return out


def gated_linear(x: Tensor, weight: Weight, bias: Tensor | None, activation: Activation, *, as_floats: bool = False) -> Tensor:
    found, numbers = halves(weight), activation_numbers(activation)
    if found is None or numbers is None or not usable(x) or not (bias is None or usable(bias)):
        return gated_activation(linear(x, weight, bias, as_floats=as_floats), activation)
    rows, width = rows_of(x), weight.shape[0] // 2
    out = empty(*x.shape[:-1], width)
    native().gated_linear(
        rows.data_ptr(), rows.stride(0), *rows.shape, found, _address(bias), out.data_ptr(), width, as_floats, *numbers
    )
    return out


def _reordered(rows: Tensor, order: Tensor) -> Tensor:
    out = empty(*rows.shape)
    native().reorder(rows.data_ptr(), rows.stride(0), *rows.shape, order.data_ptr(), out.data_ptr())
    return out


def head_linear(x: Tensor, weight: Weight, *, as_floats: bool = False) -> Tensor:
    heads, outputs, inputs = weight.shape
    if not (stacked(weight) and x.dtype == torch.float32):
        told("head_linear", x, weight)
        return reference.head_linear(x, weight)
    x = x if usable(x) else x.contiguous()
    assert not isinstance(weight, Rows)
    out = empty(x.shape[0], heads, outputs)
    for head, part in enumerate(matrices(weight)):
        native().linear(
            x.data_ptr() + 4 * head * x.stride(1), x.stride(0), x.shape[0], inputs, [part], 0,
            out.data_ptr() + 4 * head * outputs, heads * outputs, as_floats,
        )  # fmt: skip
    return out


def embed(tokens: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
    found = parts(weight)
    if found is None or len(found) > 1 or dtype != torch.float32 or tokens.dtype != torch.int32:
        told("embed", tokens, weight)
        return reference.embed(tokens, weight, dtype)
    ((data, number, height),) = found
    out = empty(*tokens.shape, weight.shape[1])
    native().embed(tokens.contiguous().data_ptr(), tokens.numel(), weight.shape[1], data, number, height, out.data_ptr())
    return out


def _norm(
    x: Spaced,
    shape: torch.Size,
    weight: Tensor | None,
    eps: float,
    *,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
    gate: Spaced = NO_ROWS,
    shift: float = 0.0,
    activation: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """(the norm, the sum x + residual if there is one); the rows of a weight [N, D] are taken in turn."""
    out = empty(*shape)
    total = None if residual is None else empty(*shape)
    native().norm(
        x,
        _address(residual),
        _address(weight),
        _address(bias),
        gate,
        _address(total),
        out.data_ptr(),
        num_rows(out),
        shape[-1],
        1 if weight is None else num_rows(weight),
        eps,
        shift,
        activation,
    )
    return out, total


def plain(*tensors: Tensor | None) -> bool:
    """Whether all are float32 in one piece."""
    return all(tensor is None or (usable(tensor) and tensor.is_contiguous()) for tensor in tensors)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, zero_centred: bool = False) -> Tensor:
    rows = spaced(x)
    if rows is None or not (usable(x) and plain(weight)):
        told("rms_norm", x, weight)
        return reference.rms_norm(x, weight, eps, zero_centred)
    return _norm(rows, x.shape, weight, eps, shift=float(zero_centred))[0]


def stream_norm(streams: Tensor, weight: Tensor, eps: float, zero_centred: bool = False) -> Tensor:
    rows = spaced(streams)
    if rows is None or not (usable(streams) and plain(weight)):
        told("stream_norm", streams, weight)
        return reference_streams.stream_norm(streams, weight, eps, zero_centred)
    return _norm(rows, streams.shape, weight, eps, shift=float(zero_centred))[0]


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float, zero_centred: bool = False
) -> tuple[Tensor, Tensor]:
    rows = spaced(x)
    if rows is None or not (usable(x) and plain(residual, weight)):
        told("add_rms_norm", x, weight)
        return reference.add_rms_norm(x, residual, weight, eps, zero_centred)
    out, total = _norm(rows, x.shape, weight, eps, residual=residual, shift=float(zero_centred))
    assert total is not None
    return out, total


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    rows = spaced(x)
    if rows is None or not (usable(x) and plain(weight, bias)):
        told("layer_norm", x, weight)
        return reference.layer_norm(x, weight, bias, eps)
    return _norm(rows, x.shape, weight, eps, bias=bias)[0]


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, activation: str) -> Tensor:
    rows, gates = spaced(x), spaced(gate)
    if rows is None or gates is None or not (usable(x) and usable(gate) and plain(weight) and activation in GATES):
        told("gated_rms_norm", x, weight)
        return reference.gated_rms_norm(x, gate, weight, eps, activation)
    return _norm(rows, x.shape, weight, eps, gate=gates, activation=GATES[activation])[0]


def activation_numbers(activation: Activation) -> tuple[int, float, float, float] | None:
    """(kind, limit, beta, linear) as the kernels take them; None for a kind that they do not know."""
    if activation.kind not in _KINDS:
        return None
    limited = activation.kind == "silu" and activation.limit is not None
    return 1 if limited else _KINDS[activation.kind], activation.limit or 0.0, activation.beta, activation.linear


def gated_activation(gate_up: Tensor, activation: Activation) -> Tensor:
    numbers = activation_numbers(activation)
    if numbers is None or not plain(gate_up):
        told("gated_activation", gate_up)
        return reference.gated_activation(gate_up, activation)
    columns = gate_up.shape[-1] // 2
    out = empty(*gate_up.shape[:-1], columns)
    native().gated_activation(gate_up.data_ptr(), out.data_ptr(), gate_up.numel() // gate_up.shape[-1], columns, *numbers)
    return out


def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    rows, gates = spaced(x), spaced(gate)
    one = gate.shape[-1] == 1
    fits = gate.shape[:-1] == x.shape[:-1] and (one or gate.shape == x.shape)
    if rows is None or gates is None or not (fits and usable(x) and usable(gate)):
        told("sigmoid_gate", x, gate)
        return reference.sigmoid_gate(x, gate)
    out = empty(*x.shape)
    native().sigmoid_gate(rows, gates, one, out.data_ptr(), num_rows(x), x.shape[-1])
    return out


def add(a: Tensor, b: Tensor) -> Tensor:
    rows, others = spaced(a), spaced(b)
    if rows is None or others is None or not (a.shape == b.shape and usable(a) and usable(b)):
        told("add", a, b)
        return reference.add(a, b)
    out = empty(*a.shape)
    native().add(rows, others, out.data_ptr(), num_rows(a), a.shape[-1])
    return out


def activate(x: Tensor, kind: str, scale: float = 1.0, factor: float = 1.0) -> Tensor:
    rows = spaced(x)
    if rows is None or not (usable(x) and kind in GATES):
        told("activate", x)
        return reference_streams.activate(x, kind, scale, factor)
    out = empty(*x.shape)
    native().activate(rows, out.data_ptr(), num_rows(x), x.shape[-1], GATES[kind], scale, factor)
    return out
