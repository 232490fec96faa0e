"""What a packed format is: how it becomes numbers, how its rows are cut, and (for some) how numbers become it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from parity.core.weights import Packed

Expander = Callable[[Mapping[str, torch.Tensor], tuple[int, int], Mapping[str, int]], torch.Tensor]
"""(arrays of one matrix, its shape (out, in), meta) -> float32 [out, in], by the format's exact definition."""

Packer = Callable[[torch.Tensor, Mapping[str, int]], Packed]
"""(float32 [..., out, in], meta) -> the nearest matrix in the format."""


@dataclass(frozen=True)
class Format:
    """A packed number format.

    Args:
        name: as in `Packed.format`.
        bits: bits for one weight, everything counted, at the usual group size: for logs.
        multiple: `in` is a multiple of this.
        expand_matrix: the definition, for one matrix.
        row_arrays: the arrays with an entry for each row, and how many logical rows one entry covers: 1, or the name of
            the meta number that says so. Empty where rows cannot be cut without unpacking.
        pack: makes the format from float32, or None.
    """

    name: str
    bits: float
    multiple: int
    expand_matrix: Expander
    row_arrays: Mapping[str, int | str] = field(default_factory=dict)
    pack: Packer | None = None

    def rows_per_entry(self, packed: Packed) -> dict[str, int]:
        """Logical rows covered by one entry of each array."""
        return {role: per if isinstance(per, int) else packed.meta[per] for role, per in self.row_arrays.items()}
