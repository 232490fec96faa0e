"""Bringing weights from the file to a device at the speed of the slower of the two."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.weights import Packed, Weight
from ..stacks.base import Device

_PIECE_BYTES = 64 << 20
_SMALL_BYTES = 64 << 10
"""Up to here a tensor is copied rather than used where its file is mapped: the system may map 2 MiB of a file to read a byte
of it, and where the matrices around it were packed, these would be there twice."""


class Upload:
    """Copies weights to a device through two pieces of staging memory in turn: one is read into while the other is copied.

    A file's tensors are views of the file: reading into a piece is what reads it. A device that does not run on by itself
    is given the tensors as they are, but small ones as copies.

    Args:
        device: where they go.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._pieces: list[Tensor] = []

    def weight(self, weight: Weight) -> Weight:
        """A weight whose arrays are all on the device."""
        if isinstance(weight, Tensor):
            return self.tensor(weight)
        if isinstance(weight, Packed):
            arrays = {role: self.tensor(array) for role, array in weight.arrays.items()}
            return Packed(weight.format, weight.shape, arrays, weight.meta)
        return weight.each(self.weight)

    def tensor(self, tensor: Tensor) -> Tensor:
        """The same numbers on the device, complete for whatever is given to it from now on."""
        target = self._device.torch_device
        if not self._device.asynchronous or not tensor.numel():
            moved = tensor.to(target)
            return moved.clone() if moved is tensor and tensor.nbytes <= _SMALL_BYTES else moved
        out = torch.empty(tensor.shape, dtype=tensor.dtype, device=target)
        source, sink = (x.contiguous().view(-1).view(torch.uint8) for x in (tensor, out))
        for start in range(0, len(source), _PIECE_BYTES):
            part = source[start : start + _PIECE_BYTES]
            piece = self._next()[: len(part)]
            piece.copy_(part)
            # Only the other piece can still be under way; after this it may be read into.
            self._device.synchronize()
            self._send(piece, sink[start : start + len(part)])
        return out

    def _next(self) -> Tensor:
        if not self._pieces:
            self._pieces = [self._device.staging((_PIECE_BYTES,), torch.uint8) for _ in range(2)]
        self._pieces.reverse()
        return self._pieces[0]

    def _send(self, piece: Tensor, sink: Tensor) -> None:
        sink.copy_(piece, non_blocking=True)
