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
from ..core.errors import ConfigError
from ..core.state import LayerState, State
from .config import Fields
from .decoder import Block, Decoder
from .drafting import Choose, Drafted, last_rows, stacked
from .layers.hyper import HyperHead
from .layers.linear import Linear
from .layers.markov import ConfidenceHead, MarkovHead
from .layers.norm import RMSNorm
from .layers.shared_kv import BlockAttention
from .standard import Sizes
from .step import Step

KEYS = (
    "dspark_block_size",
    "dspark_noise_token_id",
    "dspark_target_layer_ids",
    "dspark_markov_rank",
    "dspark_n_routed_experts",
    "dspark_num_experts_per_tok",
)


@dataclass(frozen=True)
class Spark:
    """The keys of DSpark.

    Args:
        num_layers: draft layers.
        block: tokens guessed at a time.
        noise: the token that stands for those not known yet.
        targets: the model's layers that are read, in order.
        entering: they are read before their attention, else after their MLP.
        rank: of the matrix from the token before to what it adds to the logits.
        experts: (all, chosen) in a draft layer; None where they are as many as in the model's.
    """

    num_layers: int
    block: int
    noise: int
    targets: tuple[int, ...]
    entering: bool
    rank: int
    experts: tuple[int, int] | None

    @property
    def taps(self) -> tuple[str, ...]:
        """What is read, by name."""
        return tuple(f"tap{layer}" for layer in self.targets)

    def tap(self, layer: int) -> Tap | None:
        """What reads this layer, if anything does."""
        return Tap(f"tap{layer}") if layer in self.targets else None


def read_spark(fields: Fields, sizes: Sizes, *, entering: bool) -> Spark:
    """Takes the keys of DSpark.

    Raises:
        ConfigError: one is missing, or does not fit the model.
    """
    targets, noise = fields.list("dspark_target_layer_ids"), fields.int("dspark_noise_token_id")
    if not all(type(layer) is int and 0 <= layer < sizes.num_layers for layer in targets) or sorted(set(targets)) != targets:
        raise ConfigError(f"dspark_target_layer_ids = {targets!r} must rise and name some of {sizes.num_layers} layers")
    if noise >= sizes.vocab:
        raise ConfigError(f"dspark_noise_token_id = {noise} is not among the {sizes.vocab} tokens")
    # The list of ratios goes on with those of the draft layers, and so counts them: num_nextn_predict_layers is still 1 in the
    # 0731 release of V4, which has three.
    ratios = fields.list("compress_ratios", [])[sizes.num_layers :]
    if any(ratios):
        raise ConfigError(f"compress_ratios ends in {ratios!r}: DSpark's draft layers pool nothing, so these must be 0")
    given, chosen = fields.int("dspark_n_routed_experts", 0), fields.int("dspark_num_experts_per_tok", 0)
    if bool(given) != bool(chosen) or chosen > given:
        raise ConfigError(f"dspark_num_experts_per_tok = {chosen} does not fit dspark_n_routed_experts = {given}")
    return Spark(
        num_layers=len(ratios) or fields.size("num_nextn_predict_layers"),
        block=fields.size("dspark_block_size"),
        noise=noise,
        targets=tuple(targets),
        entering=entering,
        rank=fields.size("dspark_markov_rank", 256),
        experts=(given, chosen) if given else None,
    )


class Tap:
    """Leaves what it is given for the draft layers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        step.shared[self.name] = x
        return x


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
