"""Matrices, norms and activations."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.weights import Rows, Weight
from .. import reference
from ..ops import Activation
from .fallback import rows_of, told, usable
from .native import native
from .weights import matrices, parts, stacked

_KINDS = {"silu": 0, "situ": 2}
_GATES = {"silu": 0, "sigmoid": 1}


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    found = parts(weight)
    if found is None or len(found) > 5 or not usable(x) or not (bias is None or usable(bias)):
        told("linear", x, weight)
        return reference.linear(x, weight, bias)
    rows = rows_of(x)
    out = torch.empty(*x.shape[:-1], weight.shape[0])
    native().linear(
        rows.data_ptr(), rows.stride(0), rows.shape[0], rows.shape[1], found, _address(bias), out.data_ptr(), weight.shape[0]
    )
    return out


def head_linear(x: Tensor, weight: Weight) -> Tensor:
    heads, outputs, inputs = weight.shape
    if not (stacked(weight) and usable(x)):
        told("head_linear", x, weight)
        return reference.head_linear(x, weight)
    assert not isinstance(weight, Rows)
    out = torch.empty(x.shape[0], heads, outputs)
    for head, part in enumerate(matrices(weight)):
        native().linear(
            x.data_ptr() + 4 * head * x.stride(1), x.stride(0), x.shape[0], inputs, [part], 0,
            out.data_ptr() + 4 * head * outputs, heads * outputs,
        )  # fmt: skip
    return out


def embed(tokens: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
    found = parts(weight)
    if found is None or len(found) > 1 or dtype != torch.float32 or tokens.dtype != torch.int32:
        told("embed", tokens, weight)
        return reference.embed(tokens, weight, dtype)
    ((data, number, height),) = found
    out = torch.empty(*tokens.shape, weight.shape[1])
    native().embed(tokens.contiguous().data_ptr(), tokens.numel(), weight.shape[1], data, number, height, out.data_ptr())
    return out


def _norm(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    shift: float = 0.0,
    activation: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """(the norm, the sum x + residual if there is one)."""
    rows = rows_of(x)
    out = torch.empty(x.shape)
    total = None if residual is None else torch.empty(x.shape)
    native().norm(
        rows.data_ptr(),
        rows.stride(0),
        _address(residual),
        _address(weight),
        _address(bias),
        _address(gate),
        _address(total),
        out.data_ptr(),
        rows.shape[0],
        rows.shape[1],
        eps,
        shift,
        activation,
    )
    return out, total


def _plain(*tensors: Tensor | None) -> bool:
    return all(tensor is None or (usable(tensor) and tensor.is_contiguous()) for tensor in tensors)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, zero_centred: bool = False) -> Tensor:
    if not (usable(x) and _plain(weight)):
        told("rms_norm", x, weight)
        return reference.rms_norm(x, weight, eps, zero_centred)
    return _norm(x, weight, eps, shift=float(zero_centred))[0]


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float, zero_centred: bool = False
) -> tuple[Tensor, Tensor]:
    if not (usable(x) and _plain(residual, weight)):
        told("add_rms_norm", x, weight)
        return reference.add_rms_norm(x, residual, weight, eps, zero_centred)
    out, total = _norm(x, weight, eps, residual=residual, shift=float(zero_centred))
    assert total is not None
    return out, total


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    if not (usable(x) and _plain(weight, bias)):
        told("layer_norm", x, weight)
        return reference.layer_norm(x, weight, bias, eps)
    return _norm(x, weight, eps, bias=bias)[0]


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, activation: str) -> Tensor:
    if not (usable(x) and usable(gate) and _plain(weight) and activation in _GATES):
        told("gated_rms_norm", x, weight)
        return reference.gated_rms_norm(x, gate, weight, eps, activation)
    return _norm(x, weight, eps, gate=gate.contiguous(), activation=_GATES[activation])[0]


def activation_numbers(activation: Activation) -> tuple[int, float, float, float] | None:
    """(kind, limit, beta, linear) as the kernels take them; None for a kind that they do not know."""
    if activation.kind not in _KINDS:
        return None
    limited = activation.kind == "silu" and activation.limit is not None
    return 1 if limited else _KINDS[activation.kind], activation.limit or 0.0, activation.beta, activation.linear


def gated_activation(gate_up: Tensor, activation: Activation) -> Tensor:
    numbers = activation_numbers(activation)
    if numbers is None or not _plain(gate_up):
        told("gated_activation", gate_up)
        return reference.gated_activation(gate_up, activation)
    columns = gate_up.shape[-1] // 2
    out = torch.empty(*gate_up.shape[:-1], columns)
    native().gated_activation(gate_up.data_ptr(), out.data_ptr(), gate_up.numel() // gate_up.shape[-1], columns, *numbers)
    return out


def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    if not (usable(x) and usable(gate) and x.shape == gate.shape):
        told("sigmoid_gate", x, gate)
        return reference.sigmoid_gate(x, gate)
    rows, gates = rows_of(x), rows_of(gate)
    out = torch.empty(x.shape)
    native().sigmoid_gate(rows.data_ptr(), rows.stride(0), gates.data_ptr(), gates.stride(0), out.data_ptr(), *rows.shape)
    return out
