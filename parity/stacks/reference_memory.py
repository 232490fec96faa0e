"""The plain definitions of the ops of hashed memories: windows of tokens, their rows in a table, and those rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.weights import Packed
from ..formats import expand, rows
from .paged import sequences


def token_windows(tokens: Tensor, history: Tensor, batch: Batch, ids: Tensor | None = None) -> Tensor:
    tokens = tokens if ids is None else ids[tokens.long()]
    width = history.shape[1] + 1
    out = torch.empty(len(tokens), width, dtype=torch.int64, device=tokens.device)
    for s, span, _ in sequences(batch):
        slot = int(batch.slots[s])
        known = torch.cat([history[slot].long().flip(0), tokens[span].long() + 1])
        out[span] = known.unfold(0, width, 1).flip(1) - 1
        history[slot] = known[len(known) - width + 1 :].flip(0).to(history.dtype)
    return out


def hash_windows(
    windows: Tensor, multipliers: Tensor, primes: Tensor, offsets: Tensor, fill: int, stop: int | None = None
) -> Tensor:
    missing = windows < 0
    if stop is not None:
        missing[:, 1:] |= windows[:, 1:] == stop
    products = windows.masked_fill(missing.cumsum(1) > 0, fill) * multipliers
    mixed, hashes = products[:, 0], []
    for place in range(len(primes)):
        mixed = mixed ^ products[:, place + 1]
        hashes.append(mixed[:, None] % primes[place] + offsets[place])
    return torch.cat(hashes, dim=1)


def gather(rows_of: Tensor, parts: tuple[Tensor | Packed, ...], part_rows: int, dtype: torch.dtype) -> Tensor:
    wanted = rows_of.cpu().flatten()
    out = torch.empty(len(wanted), parts[0].shape[1], dtype=dtype)
    places = wanted // part_rows
    for part in places.unique().tolist():
        chosen = places == part
        out[chosen] = expand(rows(parts[part], wanted[chosen] - part * part_rows), dtype)
    return out.view(len(rows_of), -1).to(rows_of.device)
