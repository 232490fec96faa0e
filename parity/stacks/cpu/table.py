"""What the cpu stack computes with kernels of its own."""

from __future__ import annotations

from dataclasses import replace

from .. import reference
from . import dense, paged, sparse

OPS = replace(
    reference.OPS,
    embed=dense.embed,
    linear=dense.linear,
    head_linear=dense.head_linear,
    rms_norm=dense.rms_norm,
    add_rms_norm=dense.add_rms_norm,
    layer_norm=dense.layer_norm,
    gated_rms_norm=dense.gated_rms_norm,
    gated_activation=dense.gated_activation,
    sigmoid_gate=dense.sigmoid_gate,
    rope_angles=paged.rope_angles,
    rope=paged.rope,
    write=paged.write,
    rope_write=paged.rope_write,
    attend=paged.attend,
    attend_latent=paged.attend_latent,
    experts=sparse.experts,
    causal_conv=sparse.causal_conv,
    gated_delta=sparse.gated_delta,
    sample=sparse.sample,
)

NOTES = {name: "no native kernel yet" for name in OPS.names() if getattr(OPS, name) is getattr(reference.OPS, name)}
