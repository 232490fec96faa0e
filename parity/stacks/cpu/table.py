"""What the cpu stack computes with kernels of its own."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ...core.weights import Weight
from .. import reference
from ..ops import Activation
from . import choice, dense, memory, paged, sparse, streams

OPS = replace(
    reference.OPS,
    embed=dense.embed,
    linear=dense.linear,
    gated_linear=dense.gated_linear,
    head_linear=dense.head_linear,
    rms_norm=dense.rms_norm,
    add_rms_norm=dense.add_rms_norm,
    layer_norm=dense.layer_norm,
    gated_rms_norm=dense.gated_rms_norm,
    gated_activation=dense.gated_activation,
    add=dense.add,
    sigmoid_gate=dense.sigmoid_gate,
    rope_angles=paged.rope_angles,
    rope=paged.rope,
    write=paged.write,
    rope_write=paged.rope_write,
    norm_rope_write=paged.norm_rope_write,
    attend=paged.attend,
    attend_latent=paged.attend_latent,
    select=choice.select,
    select_blocks=choice.select_blocks,
    attend_selected=paged.attend_selected,
    pool=choice.pool,
    write_pooled=paged.write_pooled,
    attend_pooled=paged.attend_pooled,
    route=sparse.route,
    route_to=sparse.route_to,
    experts=sparse.experts,
    causal_conv=sparse.causal_conv,
    delta_gates=sparse.delta_gates,
    gated_delta=sparse.gated_delta,
    spread=streams.spread,
    hyper_weights=streams.hyper_weights,
    hyper_read=streams.hyper_read,
    hyper_write=streams.hyper_write,
    stream_norm=dense.stream_norm,
    activate=dense.activate,
    gated_mean=streams.gated_mean,
    stream_gate=streams.stream_gate,
    mix=streams.mix,
    token_windows=memory.token_windows,
    hash_windows=memory.hash_windows,
    gather=memory.gather,
    sample=sparse.sample,
)

NOTES = {name: "no native kernel yet" for name in OPS.names() if getattr(OPS, name) is getattr(reference.OPS, name)}


def _linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    return dense.linear(x, weight, bias, as_floats=True)


def _gated_linear(x: Tensor, weight: Weight, bias: Tensor | None, activation: Activation) -> Tensor:
    return dense.gated_linear(x, weight, bias, activation, as_floats=True)


def _head_linear(x: Tensor, weight: Weight) -> Tensor:
    return dense.head_linear(x, weight, as_floats=True)


def _experts(x: Tensor, gate_up: Weight, down: Weight, weights: Tensor, experts: Tensor, activation: Activation) -> Tensor:
    return sparse.experts(x, gate_up, down, weights, experts, activation, as_floats=True)


FLOAT32_OPS = replace(OPS, linear=_linear, gated_linear=_gated_linear, head_linear=_head_linear, experts=_experts)
"""The same kernels over the same packed weights, with activations as they are: what the model is in float32."""
