"""The kernel tables of the cuda stack: one file that shows what is accelerated, and why the rest is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .. import reference
from .kernels import attend, conv, delta, experts, latent, linear, norm, packed, pointwise, rotary, route, sample, select

FORMATS = packed.FORMATS
"""Packed formats that the products compute on."""

OPS = replace(
    reference.OPS,
    embed=linear.embed,
    linear=linear.linear,
    rms_norm=norm.rms_norm,
    add_rms_norm=norm.add_rms_norm,
    layer_norm=norm.layer_norm,
    gated_rms_norm=norm.gated_rms_norm,
    gated_activation=pointwise.gated_activation,
    sigmoid_gate=pointwise.sigmoid_gate,
    rope=rotary.rope,
    write=rotary.write,
    rope_write=rotary.rope_write,
    attend=attend.attend,
    attend_latent=latent.attend_latent,
    select=select.select,
    route=route.route,
    experts=experts.experts,
    causal_conv=conv.causal_conv,
    delta_gates=pointwise.delta_gates,
    gated_delta=delta.gated_delta,
    sample=sample.sample,
)
"""The fast table."""

NOTES: Mapping[str, str] = {
    "embed": "plain weights: one gather, which PyTorch does at the memory's rate",
    "linear": "plain weights: cuBLAS through PyTorch; packed ones: few rows read them as they are, many expand them first",
    "head_linear": "cuBLAS, batched, through PyTorch",
    "add": "one launch, at the memory's rate",
    "rope_angles": "once a step, for all layers",
    **dict.fromkeys(
        ("select_blocks", "attend_selected", "pool", "write_pooled", "attend_pooled", "token_windows", "gather"),
        "no kernel yet: the reference, which asks the host for lengths, so that its steps are not recorded",
    ),
    **dict.fromkeys(
        (
            *("route_to", "activate", "spread", "hyper_weights", "hyper_read", "hyper_write"),
            *("stream_norm", "gated_mean", "stream_gate", "mix", "hash_windows"),
        ),
        "no kernel yet: the reference runs on the device",
    ),
    "attend": "our own kernel: other libraries' have not been measured against it",
}
"""Why an op is as it is."""

DETERMINISTIC = replace(
    OPS,
    linear=linear.linear_fixed,
    head_linear=linear.head_linear_fixed,
    attend=attend.fixed,
    attend_latent=latent.fixed,
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
    "experts": "one tile shape for any routing",
    "gated_delta": "row by row, so that it does not matter how a prompt is cut",
}
