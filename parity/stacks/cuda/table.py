"""The kernel tables of the cuda stack: one file that shows what is accelerated, and why the rest is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .. import reference
from .kernels import (
    attend,
    conv,
    delta,
    experts,
    latent,
    linear,
    norm,
    packed,
    pointwise,
    pooled,
    rotary,
    route,
    sample,
    select,
    selected,
    streams,
)

FORMATS = packed.FORMATS
"""Packed formats that the products compute on."""

OPS = replace(
    reference.OPS,
    embed=linear.embed,
    linear=linear.linear,
    gated_linear=linear.gated_linear,
    rms_norm=norm.rms_norm,
    add_rms_norm=norm.add_rms_norm,
    layer_norm=norm.layer_norm,
    gated_rms_norm=norm.gated_rms_norm,
    gated_activation=pointwise.gated_activation,
    sigmoid_gate=pointwise.sigmoid_gate,
    rope=rotary.rope,
    write=rotary.write,
    rope_write=rotary.rope_write,
    norm_rope_write=rotary.norm_rope_write,
    attend=attend.attend,
    attend_latent=latent.attend_latent,
    select=select.select,
    select_blocks=select.select_blocks,
    attend_selected=selected.attend_selected,
    pool=pooled.pool,
    write_pooled=rotary.write_pooled,
    attend_pooled=pooled.attend_pooled,
    route=route.route,
    route_to=route.route_to,
    experts=experts.experts,
    causal_conv=conv.causal_conv,
    delta_gates=pointwise.delta_gates,
    gated_delta=delta.gated_delta,
    hyper_weights=streams.hyper_weights,
    hyper_read=streams.hyper_read,
    hyper_write=streams.hyper_write,
    stream_norm=streams.stream_norm,
    activate=pointwise.activate,
    gated_mean=streams.gated_mean,
    stream_gate=streams.stream_gate,
    mix=streams.mix,
    token_windows=streams.token_windows,
    sample=sample.sample,
)
"""The fast table."""

NOTES: Mapping[str, str] = {
    "embed": "plain weights: one gather, which PyTorch does at the memory's rate",
    "linear": "plain weights of more than 8 rows: cuBLAS through PyTorch; packed ones of more than 256: expanded, then cuBLAS",
    "gated_linear": "few rows: one launch; others: the product, then the activation",
    "head_linear": "cuBLAS, batched, through PyTorch",
    "add": "one launch, at the memory's rate",
    "rope_angles": "once a step, for all layers",
    "spread": "one copy, at the memory's rate",
    "hash_windows": "a few integers a row, by PyTorch",
    "gather": "the table is the host's: its rows are looked up there, so that such steps are not recorded",
    "attend": "our own kernel: other libraries' have not been measured against it",
}
"""Why an op is as it is."""

DETERMINISTIC = replace(
    OPS,
    linear=linear.linear_fixed,
    gated_linear=linear.gated_linear_fixed,
    head_linear=linear.head_linear_fixed,
    attend=attend.fixed,
    attend_latent=latent.fixed,
    attend_selected=selected.fixed,
    attend_pooled=pooled.fixed,
    experts=experts.fixed,
    gated_delta=delta.fixed,
)
"""A row's result does not depend on its batch: one tile shape for every size, no sum split by what else there is."""

DETERMINISTIC_NOTES: Mapping[str, str] = {
    **{name: note for name, note in NOTES.items() if name not in ("linear", "head_linear", "attend")},
    "linear": "one tile shape for any number of rows: slower than cuBLAS, the same sums always",
    "head_linear": "one tile shape for any number of rows",
    "attend": "nothing split over the context",
    "attend_latent": "nothing split over the context",
    "attend_selected": "nothing split over the selection",
    "attend_pooled": "nothing split over the entries",
    "experts": "one tile shape for any routing",
    "gated_delta": "row by row, so that it does not matter how a prompt is cut",
}
