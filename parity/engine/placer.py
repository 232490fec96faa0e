"""Where a weight that was read comes to lie, and in which form."""

from __future__ import annotations

import logging
from bisect import bisect_right
from itertools import accumulate

import torch
from torch import Tensor

from ..core.weights import Packed, Rows, Weight
from ..formats import expand
from ..stacks.base import Stack
from .upload import Upload

log = logging.getLogger("parity")


class Placer:
    """Brings weights to a stack: onto its device, expanded if it does not compute on their format, in its kernels' order."""

    def __init__(self, stack: Stack, dtype: torch.dtype) -> None:
        self._stack, self._dtype = stack, dtype
        self._upload = Upload(stack.device)
        self._expanded: dict[tuple[str, torch.dtype], tuple[int, int]] = {}

    def exact(self, weight: Weight, *, plain: bool = True) -> Tensor:
        """A small weight that is kept in float32."""
        return self._upload.tensor(expand(weight, torch.float32))

    def place(self, weight: Weight, *, plain: bool = False) -> Weight:
        """A matrix; where `plain`, as plain numbers."""
        if not plain and all(_format(part) in self._stack.formats for part in _parts(weight)):
            placed = self._stack.prepare(self._upload.weight(weight))
        else:
            placed = expand(self._upload.weight(weight), self._dtype)
        self._count(weight, placed)
        return placed

    def _count(self, weight: Weight, placed: Weight) -> None:
        """Notes what was packed and no longer is; of `Rows`, several parts may have become one."""
        after, start = _parts(placed), 0
        ends = list(accumulate(part.shape[0] for part in after))
        for part in _parts(weight):
            holder = after[bisect_right(ends, start)]
            start += part.shape[0]
            if isinstance(part, Packed) and isinstance(holder, Tensor):
                key = part.format, holder.dtype
                before, size = self._expanded.get(key, (0, 0))
                numbers = torch.Size(part.shape).numel() * holder.dtype.itemsize
                self._expanded[key] = before + part.nbytes, size + numbers

    def report(self) -> None:
        """Says which formats were expanded, and what that costs."""
        for (name, dtype), (before, after) in self._expanded.items():
            log.info(
                "%s weights are expanded to %s on %s, whose kernels do not compute on them: %.0f MiB become %.0f MiB",
                name,
                dtype_name(dtype),
                self._stack.name,
                before / 2**20,
                after / 2**20,
            )


def _parts(weight: Weight) -> tuple[Tensor | Packed, ...]:
    return weight.parts if isinstance(weight, Rows) else (weight,)


def _format(part: Tensor | Packed) -> str:
    return part.format if isinstance(part, Packed) else dtype_name(part.dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """A torch dtype as it is named, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")
