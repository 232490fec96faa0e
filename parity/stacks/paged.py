"""What the plain definitions of the paged ops share: a batch's sequences, their entries, and who sees what."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..core.batch import Batch


def sequences(batch: Batch) -> Iterator[tuple[int, slice, int]]:
    """(sequence, its rows, tokens whose state exists after the step)."""
    starts, lengths = batch.starts.tolist(), batch.lengths.tolist()
    for s, length in enumerate(lengths):
        yield s, slice(starts[s], starts[s + 1]), length


def entries_of(pages: Tensor, batch: Batch, s: int, length: int) -> Tensor:
    """A sequence's entries in order: [length, ...]."""
    used = batch.pages[s, : -(-length // pages.shape[1])].long()
    return pages[used].flatten(0, 1)[:length]


def entries_at(pages: Tensor, batch: Batch, s: int, index: Tensor) -> Tensor:
    """Some of a sequence's entries, [*index.shape, ...]; the others are not read."""
    index, size = index.long(), pages.shape[1]
    return pages[batch.pages[s].long()[index // size], index % size]


def visible(positions: Tensor, length: int, window: int | None) -> Tensor:
    """bool [rows, length]: the entries that each row may see."""
    entries = torch.arange(length, device=positions.device)
    seen = entries <= positions[:, None]
    if window is not None:
        seen &= entries > positions[:, None] - window
    return seen


def softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Over the last dimension of [H, rows, entries]; a sink takes part and is dropped."""
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.float()[:, None, None].expand(-1, scores.shape[1], 1)
    return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]
