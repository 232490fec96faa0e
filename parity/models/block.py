"""One layer of a decoder: sites that read and join the stream, and the parts between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from ..core.state import LayerState, StateSpec
from .layers.norm import RMSNorm
from .layers.residual import PlainSite, Site, Stream
from .step import Step


class Part(Protocol):
    """A mixer or an MLP. A mixer also has `state`, the specs of what it keeps."""

    def __call__(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> [T, hidden]."""


class Block(nn.Module):
    """One layer: each site reads the stream, its part computes, the result joins the stream.

    Args:
        parts: (site, part) in the order computed: the mixer, the MLP, and what an architecture has beside them.
        modules: the layer's modules under their checkpoint names.
    """

    def __init__(self, parts: Sequence[tuple[Site, Part]], modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.parts = tuple(parts)
        self.state: tuple[StateSpec, ...] = tuple(spec for _, part in parts for spec in getattr(part, "state", ()))

    def forward(self, stream: Stream, step: Step, state: LayerState) -> Stream:
        for site, part in self.parts:
            x, stream = site.enter(stream, step)
            stream = site.leave(stream, part(x, step, state), step)
        return stream


def plain_block(mixer: nn.Module, mlp: nn.Module, input_norm: RMSNorm, post_norm: RMSNorm, *, mixer_name: str) -> Block:
    """The usual pre-norm layer under its usual names."""
    return Block(
        [(PlainSite(input_norm), mixer), (PlainSite(post_norm), mlp)],
        {mixer_name: mixer, "mlp": mlp, "input_layernorm": input_norm, "post_attention_layernorm": post_norm},
    )
