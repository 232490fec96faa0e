"""Which parts the exact checkpoint of each architecture is put together from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Mixer = Literal["grouped", "latent", "gated_delta", "kimi_delta", "shared_key"]
Streams = Literal["hyper", "gated"]


@dataclass(frozen=True, slots=True)
class Kind:
    """An architecture's parts.

    Args:
        mixers: of the two layers.
        routed: experts instead of a dense MLP; `fused`: released as one tensor.
        shared: the name of the expert that all tokens share; `shared_gate`: it has a gate.
        corrected: the router has a correction.
        biased: biases on queries; `normed`: heads of queries and keys are normed; `gated`: the attention's output has a gate.
        zero_centred: norms multiply by 1 + weight.
        indexed: an index chooses what the attention sees.
        packed: the gated delta layer's projections stand key head by key head.
        full_rank_gate: Kimi's delta layer has its output gate in one matrix.
        situ: the activation of the MLPs; `reordered`: experts compute on another space, here the same in another order.
        mixes: sites read a mean of the embedding and of what was added to it, with weights of their own.
        streams: the residual is several streams; `lagged`: what is read of them is decided one site before.
        hashed: the first layer's experts stand in a table.
        prefix: before the names of the text part.
    """

    mixers: tuple[Mixer, Mixer] = ("grouped", "grouped")
    routed: bool = False
    fused: bool = False
    shared: str | None = None
    shared_gate: bool = False
    corrected: bool = False
    biased: bool = False
    normed: bool = False
    gated: bool = False
    zero_centred: bool = False
    indexed: bool = False
    packed: bool = False
    full_rank_gate: bool = False
    situ: bool = False
    reordered: bool = False
    mixes: bool = False
    streams: Streams | None = None
    lagged: bool = False
    hashed: bool = False
    prefix: str = ""


_LATENT: tuple[Mixer, Mixer] = ("latent", "latent")
_HYBRID: tuple[Mixer, Mixer] = ("gated_delta", "grouped")
_KIMI: tuple[Mixer, Mixer] = ("kimi_delta", "latent")
_SHARED: tuple[Mixer, Mixer] = ("shared_key", "shared_key")

KINDS: Mapping[str, Kind] = {
    "llama": Kind(),
    "qwen2": Kind(biased=True),
    "qwen3": Kind(normed=True),
    "qwen2_moe": Kind(routed=True, shared="shared_expert", shared_gate=True, biased=True),
    "qwen3_moe": Kind(routed=True, normed=True),
    "qwen3_next": Kind(
        _HYBRID, routed=True, shared="shared_expert", shared_gate=True, normed=True, gated=True, zero_centred=True, packed=True
    ),
    "qwen3_5": Kind(_HYBRID, normed=True, gated=True, zero_centred=True),
    "qwen3_5_moe": Kind(
        _HYBRID, routed=True, fused=True, shared="shared_expert", shared_gate=True, normed=True, gated=True, zero_centred=True
    ),
    "deepseek_v2": Kind(_LATENT, routed=True, shared="shared_experts"),
    "deepseek_v3": Kind(_LATENT, routed=True, shared="shared_experts", corrected=True),
    "deepseek_v32": Kind(_LATENT, routed=True, shared="shared_experts", corrected=True, indexed=True),
    "deepseek_v4": Kind(_SHARED, routed=True, shared="shared_experts", corrected=True, streams="hyper", hashed=True),
    "deepseek_v41": Kind(_SHARED, routed=True, shared="shared_experts", corrected=True, streams="hyper", lagged=True),
    "qwen4_exp": Kind(
        _HYBRID,
        routed=True,
        shared="shared_expert",
        shared_gate=True,
        normed=True,
        gated=True,
        zero_centred=True,
        indexed=True,
        streams="gated",
    ),
    "kimi_k25": Kind(_LATENT, routed=True, shared="shared_experts", corrected=True, prefix="language_model."),
    "kimi_linear": Kind(_KIMI, routed=True, fused=True, shared="shared_experts", corrected=True),
    "kimi_k3": Kind(
        _KIMI,
        routed=True,
        shared="shared_experts",
        corrected=True,
        gated=True,
        full_rank_gate=True,
        situ=True,
        reordered=True,
        mixes=True,
        prefix="language_model.",
    ),
}
