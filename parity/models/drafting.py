"""What draft layers are to a model: they read a step that it has computed, and guess the tokens that come next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.state import State

if TYPE_CHECKING:
    from .decoder import Decoder

Choose: TypeAlias = Callable[[Tensor], Tensor]
"""Logits float32 [S, vocabulary] -> the token of each sequence, int32 [S]."""


def greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row; of several alike the lowest."""
    return logits.argmax(-1).int()


@dataclass(frozen=True, slots=True, eq=False)
class Drafted:
    """What was guessed for each of S sequences.

    Args:
        tokens: int32 [S, N], in order; the first comes after the token that follows the sequence's last row.
        logits: float32 [S, N, vocabulary], from which they were chosen.
        confidence: float32 [S, N], how likely a guess is to be accepted if those before it are, as the logit of that
            probability; None where the draft layers do not tell.
    """

    tokens: Tensor
    logits: Tensor
    confidence: Tensor | None = None


class Drafter(Protocol):
    """How a model's draft layers work together."""

    num_tokens: int
    """Tokens guessed at a time."""

    def __call__(
        self, model: Decoder, batch: Batch, following: Tensor, state: State, before: Tensor, choose: Choose
    ) -> Drafted:
        """As `Decoder.draft`."""


def last_rows(batch: Batch) -> Tensor:
    """The row of each sequence's last token in a step: int64 [S]."""
    return batch.starts[1:].long() - 1


def one_further(batch: Batch, following: Tensor, guesses: Tensor) -> Tensor:
    """The tokens that come after `following` int32 [T]; after each sequence's last it is the guess, int32 [S]."""
    return following.roll(-1).index_copy(0, last_rows(batch), guesses)


def stacked(guesses: list[Tensor], logits: list[Tensor], confidence: list[Tensor] | None = None) -> Drafted:
    """What was guessed one token after the other."""
    return Drafted(torch.stack(guesses, 1), torch.stack(logits, 1), None if confidence is None else torch.stack(confidence, 1))
