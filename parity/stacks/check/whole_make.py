"""What builds the tensors of cases of whole numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from .case import Make

_F32 = torch.float32


class Whole(Make):
    """Builds tensors of small multiples of 1/8 where `Make` takes random ones."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(_F32, seed=seed)

    def normal(self, *shape: int, dtype: torch.dtype | None = None, std: float = 1.0) -> Tensor:
        """Multiples of 1/8 up to 2."""
        return self.grid(*shape, dtype=dtype)

    def uniform(self, *shape: int) -> Tensor:
        """Multiples of 1/8 in [0, 1)."""
        return self.integers(0, 8, *shape).float() / 8

    def one_of(self, values: tuple[float, ...], *shape: int) -> Tensor:
        """Each number one of these."""
        return torch.tensor(values)[torch.randint(len(values), shape, generator=self.generator)]

    def even(self, *shape: int) -> Tensor:
        """Rows [..., D] of one size each, a power of two, with random signs."""
        return self.one_of((-1.0, 1.0), *shape) * self.one_of((0.25, 1.0, 2.0, 16.0), *shape[:-1], 1)

    def one_hot(self, size: float, *shape: int) -> Tensor:
        """Rows [..., D] of zeros but for one number."""
        return torch.zeros(shape).scatter_(-1, torch.randint(shape[-1], (*shape[:-1], 1), generator=self.generator), size)


HUGE = 2.0**20
"""The 1e-6 that is added to a square of it is lost."""
GATES = (0.0, 128.0, 256.0, -256.0, -1024.0)
"""Where sigmoid is a half, 1 or 0, and silu 0 or the identity."""


def quarters(make: Whole, t: int, width: int) -> Tensor:
    return make.grid(t, 2, width // 2, step=0.25, top=1.0)
