"""Ragged batches over scattered pages."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from parity.core.batch import Batch


def ragged(chunks: Sequence[tuple[int, int]], *, page_size: int = 8, seed: int = 0) -> tuple[Batch, int]:
    """(batch, pages needed) of sequences given as (tokens that exist already, tokens computed)."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [start + count for start, count in chunks]
    starts = [0]
    for _, count in chunks:
        starts.append(starts[-1] + count)
    max_pages = max(-(-length // page_size) for length in lengths)
    num_pages = max_pages * len(chunks) + 1
    pages = torch.randperm(num_pages, generator=generator)[: max_pages * len(chunks)].view(len(chunks), max_pages).int()
    positions = [position for start, count in chunks for position in range(start, start + count)]

    def int32(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    batch = Batch(
        tokens=int32([0] * starts[-1]),
        positions=int32(positions),
        starts=int32(starts),
        lengths=int32(lengths),
        pages=pages,
        slots=int32(range(len(chunks))),
        page_size=page_size,
        host_starts=tuple(starts),
        host_lengths=tuple(lengths),
    )
    return batch, num_pages
