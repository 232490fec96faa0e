"""DSpark (DeepSeek-V4's 0731 release, V4.1): draft layers that guess a block of tokens at once.

They read the residual streams of some of the model's layers: of these come the keys of the tokens already there. The block is
the token that was chosen last and a placeholder for each that is not known yet; it is computed in one pass, every token seeing
every other. Guesses are then taken from left to right, each with logits that the guess before adds to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.state import LayerState, State
from .block import Block
from .decoder import Decoder
from .drafting import Choose, Drafted, last_rows, stacked
from .dspark_keys import Spark
from .layers.block_attention import BlockAttention
from .layers.hyper import HyperHead
from .layers.linear import Linear
from .layers.markov import ConfidenceHead, MarkovHead
from .layers.norm import RMSNorm


@dataclass(frozen=True)
class Ends:
    """What stands before the first draft layer and after the last."""

    main_proj: Linear
    main_norm: RMSNorm
    last: HyperHead
    markov: MarkovHead
    confidence: ConfidenceHead


class BlockDrafter:
    """All draft layers compute one block, of which all guesses come.

    Args:
        layers: the draft layers and their attentions.
    """

    def __init__(self, spark: Spark, layers: Sequence[tuple[Block, BlockAttention]], ends: Ends) -> None:
        self.num_tokens, self.noise = spark.block, spark.noise
        self.layers, self.ends = tuple(layers), ends

    def __call__(
        self, model: Decoder, batch: Batch, following: Tensor, state: State, before: Tensor, choose: Choose
    ) -> Drafted:
        kept = state[len(model.model.layers) :]
        self._remember(model, batch, kept, before)
        previous = following[last_rows(batch)]
        hidden = self._block(model, block_after(batch, previous, self.num_tokens, self.noise), kept)
        sides = (batch.num_sequences, self.num_tokens)
        base, hidden = model.head(self.ends.last.norm(hidden)).unflatten(0, sides), hidden.unflatten(0, sides)
        guesses, logits, confidence = [], [], []
        for place in range(self.num_tokens):
            rows, added = self.ends.markov(previous)
            logits.append(base[:, place] + added)
            confidence.append(self.ends.confidence(hidden[:, place], rows))
            previous = choose(logits[-1])
            guesses.append(previous)
        return stacked(guesses, logits, confidence)

    def _remember(self, model: Decoder, batch: Batch, kept: Sequence[LayerState], before: Tensor) -> None:
        context, step = self.ends.main_norm(self.ends.main_proj(before)), model.step(batch)
        for (_, attention), layer_state in zip(self.layers, kept, strict=True):
            attention.remember(context, step, layer_state)

    def _block(self, model: Decoder, block: Batch, kept: Sequence[LayerState]) -> Tensor:
        """[S N, hidden], not yet normed."""
        step, stream = model.step(block), model.start(model.model.embed_tokens(block.tokens))
        for (layer, _), layer_state in zip(self.layers, kept, strict=True):
            stream = layer(stream, step, layer_state)
        return self.ends.last.collapse(stream)


def block_after(batch: Batch, first: Tensor, count: int, fill: int) -> Batch:
    """The step of `count` tokens after each sequence of a batch: `first` int32 [S], then `fill`."""
    num, lengths = batch.num_sequences, batch.lengths[:, None]
    assert max(batch.host_lengths) + count <= batch.pages.shape[1] * batch.page_size, "no pages for the block"
    tokens = torch.full((num, count), fill, dtype=batch.tokens.dtype, device=batch.tokens.device)
    tokens[:, 0] = first
    places = torch.arange(count, dtype=lengths.dtype, device=lengths.device)
    return replace(
        batch,
        tokens=tokens.flatten(),
        positions=(lengths + places).flatten(),
        starts=count * torch.arange(num + 1, dtype=batch.starts.dtype, device=batch.starts.device),
        lengths=batch.lengths + count,
        host_starts=tuple(range(0, count * num + 1, count)),
        host_lengths=tuple(length + count for length in batch.host_lengths),
        probe=None,
    )
