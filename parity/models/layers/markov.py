"""What corrects tokens guessed side by side: logits that depend on the token before, and how likely a guess is right."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...stacks.ops import Ops
from .linear import Embedding, Linear
from .weight import Parameter, Slot


class MarkovHead(nn.Module):
    """Logits of the next token from the one before it alone, through a matrix [vocabulary, vocabulary] of low rank."""

    def __init__(self, ops: Ops, vocab_size: int, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.markov_w1 = Embedding(ops, vocab_size, rank, dtype)
        self.markov_w2 = Linear(ops, rank, vocab_size, split="column")

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens int32 [S] -> (their rows [S, rank], what is added to the logits: float32 [S, vocabulary])."""
        rows = self.markov_w1(tokens)
        return rows, self.markov_w2(rows).float()


class ConfidenceHead(nn.Module):
    """How likely a guess is to be accepted, from the hidden state it was made of and the token before it."""

    def __init__(self, ops: Ops, hidden_size: int, rank: int) -> None:
        super().__init__()
        self.ops = ops
        self.weight = Parameter("proj.weight", 1, hidden_size + rank, exact=True)

    def slots(self) -> Iterator[Slot]:
        yield self.weight.slot()

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        """hidden [S, hidden], the Markov head's rows [S, rank] -> the logit of the probability: float32 [S]."""
        both: Tensor = self.ops.linear(torch.cat([hidden, before], dim=-1).float(), self.weight.tensor)
        return both.squeeze(-1)
