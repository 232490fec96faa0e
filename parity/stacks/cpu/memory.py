"""Hashed memories: windows of tokens, their rows in a table, and those rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.batch import Batch
from ...core.weights import Packed
from .. import reference_memory as reference
from .arena import empty
from .fallback import told
from .native import native
from .weights import table


def _whole(dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    return all(x is None or (x.dtype == dtype and x.is_contiguous()) for x in tensors)


def token_windows(tokens: Tensor, history: Tensor, batch: Batch, ids: Tensor | None = None) -> Tensor:
    if not _whole(torch.int32, tokens, history, ids):
        told("token_windows", tokens, history, ids)
        return reference.token_windows(tokens, history, batch, ids)
    width = history.shape[1] + 1
    out = empty(tokens.shape[0], width, dtype=torch.int64)
    native().token_windows(
        tokens.data_ptr(), 0 if ids is None else ids.data_ptr(), history.data_ptr(), batch.starts.data_ptr(),
        batch.slots.data_ptr(), batch.num_sequences, width, out.data_ptr(),
    )  # fmt: skip
    return out


def hash_windows(
    windows: Tensor, multipliers: Tensor, primes: Tensor, offsets: Tensor, fill: int, stop: int | None = None
) -> Tensor:
    if not _whole(torch.int64, windows, multipliers, primes, offsets):
        told("hash_windows", windows, primes)
        return reference.hash_windows(windows, multipliers, primes, offsets, fill, stop)
    tokens, width = windows.shape
    out = empty(tokens, primes.numel(), dtype=torch.int64)
    native().hash_windows(
        windows.data_ptr(), multipliers.data_ptr(), primes.data_ptr(), offsets.data_ptr(), out.data_ptr(), tokens, width,
        primes.shape[1], fill, -1 if stop is None else stop,
    )  # fmt: skip
    return out


def gather(rows: Tensor, parts: tuple[Tensor | Packed, ...], part_rows: int, dtype: torch.dtype) -> Tensor:
    tables = [table(part) for part in parts]
    if not (all(tables) and dtype == torch.float32 and _whole(torch.int64, rows)):
        told("gather", rows, parts[0])
        return reference.gather(rows, parts, part_rows, dtype)
    columns = parts[0].shape[1]
    out = empty(rows.shape[0], rows.shape[1] * columns)
    for index, (part, found) in enumerate(zip(parts, tables, strict=True)):
        assert found is not None
        data, scale, *form = found
        native().gather(
            rows.data_ptr(), data, scale, out.data_ptr(), rows.numel(), index * part_rows, part.shape[0], columns, *form
        )
    return out
