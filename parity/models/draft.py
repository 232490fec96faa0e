"""Draft layers (multi-token prediction): each guesses the token after the next from a hidden state and the next token."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.state import State
from ..core.weights import Ignore
from ..stacks.ops import Ops
from .block import Block, Part
from .decoder import Decoder, ends
from .drafting import Choose, Drafted, last_rows, one_further, stacked
from .layers.linear import Linear
from .layers.norm import RMSNorm
from .layers.residual import Pending, Site, Stream, Streams

WHY = "draft layers for speculative decoding"
SHARED = "what draft layers share with the model: embedding and head"


def skipped(pattern: str) -> Ignore:
    """Checkpoint tensors of draft layers, left out unless they are asked for."""
    return Ignore(pattern, WHY)


def shared(pattern: str) -> Ignore:
    """Copies of the embedding and the head beside draft layers; the model's own are used."""
    return Ignore(pattern, SHARED)


class Join(Protocol):
    """What a draft layer's block begins with."""

    modules: Mapping[str, nn.Module]
    """Under the names that they have beside the layer's own."""

    def __call__(self, embedded: Tensor, hidden: Tensor) -> Stream:
        """Embeddings of the tokens that follow [T, hidden], and the hidden states before them, as a stream."""


class Concatenated:
    """eh_proj [enorm(embedding) | hnorm(hidden)] (DeepSeek-V3, arXiv 2412.19437, equation 21)."""

    def __init__(self, ops: Ops, hidden_size: int, eps: float, *, zero_centred: bool = False) -> None:
        self.enorm, self.hnorm = (RMSNorm(ops, hidden_size, eps, zero_centred=zero_centred) for _ in range(2))
        self.eh_proj = Linear(ops, 2 * hidden_size, hidden_size)
        self.modules: Mapping[str, nn.Module] = {"enorm": self.enorm, "hnorm": self.hnorm, "eh_proj": self.eh_proj}

    def __call__(self, embedded: Tensor, hidden: Tensor) -> Stream:
        return Pending(self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1)), None)


class Added:
    """stream_i = h_proj hnorm(stream)_i + e_proj enorm(embedding), for the models that keep several residual streams.

    Args:
        together: the streams are normed as one vector, not each for itself.
    """

    def __init__(
        self, ops: Ops, hidden_size: int, count: int, eps: float, *, zero_centred: bool = False, together: bool = False
    ) -> None:
        self.ops, self.together = ops, together
        self.enorm = RMSNorm(ops, hidden_size, eps, zero_centred=zero_centred)
        self.hnorm = RMSNorm(ops, hidden_size * count if together else hidden_size, eps, zero_centred=zero_centred)
        self.e_proj, self.h_proj = (Linear(ops, hidden_size, hidden_size) for _ in range(2))
        names = ("enorm", "hnorm", "e_proj", "h_proj")
        self.modules: Mapping[str, nn.Module] = {name: getattr(self, name) for name in names}

    def __call__(self, embedded: Tensor, hidden: Tensor) -> Stream:
        normed = self.hnorm(hidden.flatten(1)).view_as(hidden) if self.together else self.hnorm(hidden)
        projected = self.h_proj(normed.flatten(0, 1)).view_as(hidden)
        new = self.e_proj(self.enorm(embedded)).unsqueeze(1).expand_as(projected)
        return Streams(self.ops.add(projected, new.contiguous()))


class DraftLayer(Block):
    """A block between a join and a last site of its own; embedding and head are the model's.

    Args:
        parts, modules: as a block's.
        last: the site after the block, which norms.
    """

    def __init__(self, join: Join, parts: Sequence[tuple[Site, Part]], modules: Mapping[str, nn.Module], last: Site) -> None:
        super().__init__(parts, {**modules, **join.modules})
        self.join, self.last = join, last


class OneByOne:
    """Each draft layer guesses one token, from the guess before and what the layer before left to read."""

    def __init__(self, layers: Sequence[DraftLayer]) -> None:
        self.layers, self.num_tokens = tuple(layers), len(layers)

    def run(
        self, model: Decoder, index: int, batch: Batch, following: Tensor, state: State, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `Decoder.states`, from one draft layer: the head's logits of it are of the token after `following`."""
        layer, step = self.layers[index], model.step(dataclasses.replace(batch, tokens=following))
        stream = layer.join(model.model.embed_tokens(following), before)
        return ends(layer.last, layer(stream, step, state[len(model.model.layers) + index]), step)

    def __call__(
        self, model: Decoder, batch: Batch, following: Tensor, state: State, before: Tensor, choose: Choose
    ) -> Drafted:
        guesses, logits = [], []
        for index in range(self.num_tokens):
            normed, before = self.run(model, index, batch, following, state, before)
            logits.append(model.head(normed[last_rows(batch)]))
            guesses.append(choose(logits[-1]))
            following = one_further(batch, following, guesses[-1])
        return stacked(guesses, logits)


def add_drafts(model: Decoder, layers: Iterable[DraftLayer]) -> None:
    """Gives a model its draft layers, if there are any."""
    if drafts := list(layers):
        model.mtp.extend(drafts)
        model.drafter = OneByOne(drafts)
