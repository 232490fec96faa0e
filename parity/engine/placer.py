"""Where a weight that was read comes to lie, and in which form."""

from __future__ import annotations

import logging

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
        self._expanded: dict[str, tuple[int, int]] = {}

    def exact(self, weight: Weight) -> Tensor:
        """A small weight that is kept in float32."""
        return self._upload.tensor(expand(weight, torch.float32))

    def place(self, weight: Weight) -> Weight:
        """A matrix."""
        if all(_format(part) in self._stack.formats for part in _parts(weight)):
            return self._stack.prepare(self._upload.weight(weight))
        for part in _parts(weight):
            if isinstance(part, Packed):
                before, after = self._expanded.get(part.format, (0, 0))
                size = torch.Size(part.shape).numel() * self._dtype.itemsize
                self._expanded[part.format] = (before + part.nbytes, after + size)
        return expand(self._upload.weight(weight), self._dtype)

    def report(self) -> None:
        """Says which formats were expanded, and what that costs."""
        for name, (before, after) in self._expanded.items():
            log.info(
                "%s weights are expanded to %s on %s, which does not compute on them: %.0f MiB become %.0f MiB",
                name,
                dtype_name(self._dtype),
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
