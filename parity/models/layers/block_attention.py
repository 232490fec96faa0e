"""The attention of draft layers that guess a block of tokens at once (DSpark)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...core.batch import Batch
from ...core.state import LayerState
from ...stacks.ops import Ops
from ..step import Step
from .shared_kv import SharedAttention


class BlockAttention(SharedAttention):
    """Attention of a block of tokens to all of itself and to the `window` tokens before it, whose keys come from elsewhere.

    Args:
        block: tokens in the block.
        sizes: as `SharedAttention` has them.
    """

    def __init__(self, ops: Ops, *, block: int, window: int, **sizes: Any) -> None:
        # Seen from the block's last token, the window reaches back over the block.
        super().__init__(ops, rope="main", window=window + block, **sizes)

    def remember(self, x: Tensor, step: Step, state: LayerState) -> None:
        """Writes the keys of rows x [T, hidden] that no query is made of."""
        self._write(self.down(x).split(self.sizes, dim=-1)[1], step, state)

    def _seen(self, batch: Batch) -> Batch:
        """Each row is a sequence of its own at its block's last token: no row is before another."""
        spans = enumerate(pairwise(batch.host_starts))
        owners = [sequence for sequence, (first, end) in spans for _ in range(first, end)]
        places = torch.tensor(owners, device=batch.lengths.device)
        lengths = batch.lengths[places]
        return replace(
            batch,
            positions=lengths - 1,
            starts=torch.arange(len(owners) + 1, dtype=batch.starts.dtype, device=batch.starts.device),
            lengths=lengths,
            pages=batch.pages[places],
            slots=batch.slots[places],
            host_starts=tuple(range(len(owners) + 1)),
            host_lengths=tuple(batch.host_lengths[sequence] for sequence in owners),
        )
