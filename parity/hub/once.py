"""Reading every weight of a checkpoint once, with no more of its files in memory than is still held by somebody."""

from __future__ import annotations

import weakref

import torch

from parity.core.weights import Packed

from .checkpoint import Checkpoint

_SWEPT_BYTES = 16 << 20
"""What is read before memory is given back: each time costs a call for every tensor that is no longer held."""


class ReadOnce:
    """Hands out weights, and gives back the memory of those that nobody holds any more.

    Pages of a mapped file stay in memory once they were looked at: without this, loading a model whose weights are copied, as
    stacked experts are, would hold all its files beside it. What is used where it is mapped stays; its pages are the model.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._held: list[tuple[str, weakref.ref[torch.Tensor | Packed]]] = []
        self._unswept = 0

    def read(self, name: str) -> torch.Tensor | Packed:
        """A tensor, which is not asked for again."""
        if self._unswept > _SWEPT_BYTES:
            self.sweep()
        weight = self._checkpoint.read(name)
        self._held.append((name, weakref.ref(weight)))
        self._unswept += weight.nbytes
        return weight

    def sweep(self) -> None:
        """Gives back what nobody holds."""
        self._unswept = 0
        still = []
        for name, weight in self._held:
            if weight() is None:
                self._checkpoint.release(name)
            else:
                still.append((name, weight))
        self._held = still
