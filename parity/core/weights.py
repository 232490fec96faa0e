"""What a weight can be: a plain tensor, a packed matrix, or rows of several.

A packed matrix keeps the released format's arrays as they are on disk. `hub` produces them, a stack that lists the format
in `Stack.formats` computes on them (after `Stack.prepare`), and any other stack has them expanded at load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight in a packed format, logically `shape` = [..., out, in].

    Args:
        format: the format's name, such as `q4_k` (GGUF types in lower case), `fp8_block`, `mxfp4`, `int4_group`.
        shape: the logical shape; the last dimension is the one summed over.
        arrays: the format's arrays by role (`data`, `scale`, ...), as stored.
        meta: the format's numbers, such as `group_size` or `block_rows`.
        row_arrays: how many rows an entry of each array covers, where a stack has put other arrays in place of the format's.
    """

    format: str
    shape: tuple[int, ...]
    arrays: Mapping[str, torch.Tensor]
    meta: Mapping[str, int] = field(default_factory=dict)
    row_arrays: Mapping[str, int] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held, over all arrays."""
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True, eq=False)
class Rows:
    """Matrices of one width laid one below the other, each in its own format: a fused projection as it was released."""

    parts: tuple[torch.Tensor | Packed, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape [sum of the parts' rows, in]."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes held, over all parts."""
        return sum(part.nbytes for part in self.parts)

    def each(self, change: Callable[[torch.Tensor | Packed], Weight]) -> Rows:
        """The same rows with every part changed, into a part again."""
        parts = []
        for part in self.parts:
            changed = change(part)
            assert not isinstance(changed, Rows), "a part of rows is no rows"
            parts.append(changed)
        return Rows(tuple(parts))


Weight: TypeAlias = "torch.Tensor | Packed | Rows"


@dataclass(frozen=True, slots=True)
class Rename:
    """A checkpoint's name to ours by regular expression, and back: `pattern` and `replacement` use the same groups in order.

    Where not `back`, it is another spelling, which is read and never written.
    """

    pattern: str
    replacement: str
    back: bool = True


@dataclass(frozen=True, slots=True)
class Ignore:
    """Checkpoint tensors that are deliberately not loaded, and why.

    Args:
        repeats: the parameter whose numbers they repeat, or they cannot be left out.
    """

    pattern: str
    why: str
    repeats: str | None = None


Rule: TypeAlias = "Rename | Ignore"
