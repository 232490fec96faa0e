"""What the plain definitions of the paged ops share: a batch's sequences, their entries, and who sees what.

Pages of a float dtype hold numbers. Pages of int8 hold rows of D signed bytes and behind them the two bytes of a bfloat16
scale, so that a row is D + 2 long and carries all that reading it needs: a number is scale * byte, and the scale is a 127th of
the row's largest magnitude, rounded to bfloat16 before the bytes are chosen.
"""

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


_SCALE_BYTES = 2


def stored_shape(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, ...]:
    """The shape that an entry [..., D] has in pages of a dtype."""
    return (*shape[:-1], shape[-1] + _SCALE_BYTES) if dtype == torch.int8 else shape


def row_size(pages: Tensor) -> int:
    """D, of pages whose rows hold D numbers."""
    return pages.shape[-1] - _SCALE_BYTES if pages.dtype == torch.int8 else pages.shape[-1]


def stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers [..., D] as pages of a dtype hold them; values of that dtype are taken as they are."""
    if values.dtype == dtype or dtype != torch.int8:
        return values.to(dtype)
    values = values.float()
    scale = (values.abs().amax(-1, keepdim=True) / 127).to(torch.bfloat16)
    steps = values / scale.float().masked_fill(scale == 0, 1.0)
    codes = steps.round().clamp(-127, 127).nan_to_num(0.0).to(torch.int8)
    # In one dimension, since the strides of an empty tensor are not always its shape's.
    scale_bytes = scale.reshape(-1).view(torch.int8).reshape(*values.shape[:-1], _SCALE_BYTES)
    return torch.cat([codes, scale_bytes], dim=-1)


def numbers(entries: Tensor) -> Tensor:
    """What entries read from pages stand for: those of int8 as float32 [..., D], others as they are."""
    if entries.dtype != torch.int8:
        return entries
    scale = entries[..., -_SCALE_BYTES:].contiguous().view(torch.bfloat16)
    return entries[..., :-_SCALE_BYTES].float() * scale.float()


def entries_of(pages: Tensor, batch: Batch, s: int, length: int) -> Tensor:
    """A sequence's entries in order: [length, ...]."""
    used = batch.pages[s, : -(-length // pages.shape[1])].long()
    return numbers(pages[used].flatten(0, 1)[:length])


def entries_at(pages: Tensor, batch: Batch, s: int, index: Tensor) -> Tensor:
    """Some of a sequence's entries, [*index.shape, ...]; the others are not read."""
    index, size = index.long(), pages.shape[1]
    return numbers(pages[batch.pages[s].long()[index // size], index % size])


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
