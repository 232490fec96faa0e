"""How far a model is from the one that it was made from: mean KL divergence, the same most likely token, perplexity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from ..core.errors import UsageError
from ..llm import LLM
from ..verify.suites import load

WINDOW = 512
_ROWS = 64  # rows of logits compared at a time

Logits: TypeAlias = Callable[[Sequence[int]], np.ndarray]
"""The logits [tokens, vocabulary] of tokens read from the beginning."""


@dataclass(frozen=True)
class Quality:
    """Over `num_tokens` tokens of a text, each window of it read from its beginning.

    Args:
        mean_kl: of the source from the result, nats a token.
        same_top: share of the tokens after which both have the same most likely token.
        perplexity, source_perplexity: of the text.
    """

    num_tokens: int
    mean_kl: float
    same_top: float
    perplexity: float
    source_perplexity: float

    def __str__(self) -> str:
        return (
            f"over {self.num_tokens} tokens: mean KL divergence {self.mean_kl:.5f} nats, same most likely token "
            f"{self.same_top:.1%}, perplexity {self.perplexity:.3f} (source {self.source_perplexity:.3f})"
        )


def own_text() -> str:
    """A text of ours: prose in several languages, code, tables and sums."""
    texts = [item.text for item in load("full").items if item.kind == "text" and len(item.text) < 2000]
    return "\n\n".join(texts)


def open_pair(source: Path, result: Path, stack: str | None) -> tuple[LLM, LLM]:
    """Both models with state for one window, on one stack.

    Raises:
        ParityError: one of them cannot be run there.
    """
    options: dict[str, Any] = {"stack": stack, "max_num_seqs": 1, "num_pages": 32}
    return LLM(source, **options), LLM(result, **options)


def quality(source: LLM, result: LLM, text: str) -> Quality:
    """Compares two models on a text, window by window.

    Raises:
        UsageError: the text has fewer than two tokens.
    """
    size = min(WINDOW, source.info.max_model_len - 1, result.info.max_model_len - 1)
    return compare(source.logits, result.logits, windows(source.encode(text), size))


def windows(tokens: Sequence[int], size: int = WINDOW) -> list[Sequence[int]]:
    """A text's tokens in pieces that are each read from their beginning; one of a single token predicts nothing."""
    pieces = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    return [piece for piece in pieces if len(piece) > 1]


def compare(source: Logits, result: Logits, pieces: Sequence[Sequence[int]]) -> Quality:
    """Compares the logits that two give for the same tokens.

    Raises:
        UsageError: there are no tokens.
    """
    sums = np.zeros(5)
    for piece in pieces:
        sums += _compared(source(piece), result(piece), piece)
    if not sums[0]:
        raise UsageError("the text for the quality is empty; give a longer one")
    count, divergence, same, loss, source_loss = (float(value) for value in sums)
    return Quality(
        int(count), divergence / count, same / count, float(np.exp(loss / count)), float(np.exp(source_loss / count))
    )


def _compared(source: np.ndarray, result: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """Sums over a window: tokens predicted, KL divergence, same most likely token, loss, the source's loss."""
    following = torch.tensor(tokens[1:])
    width = min(source.shape[1], result.shape[1])  # a vocabulary may be padded in one of them
    sums = np.zeros(5)
    for start in range(0, len(following), _ROWS):
        rows = slice(start, min(start + _ROWS, len(following)))
        p, q = (torch.from_numpy(logits[rows, :width]).double().log_softmax(-1) for logits in (source, result))
        chosen = following[rows].unsqueeze(1)
        divergence = (p.exp() * (p - q)).sum()
        same = (p.argmax(-1) == q.argmax(-1)).sum()
        losses = (-q.gather(1, chosen).sum(), -p.gather(1, chosen).sum())
        sums += np.array([len(chosen), divergence.item(), same.item(), *(loss.item() for loss in losses)])
    return sums
