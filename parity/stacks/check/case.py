"""One call of an op, and what builds such calls: seeded numbers, ragged batches, pages with canaries around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...core.batch import Batch
from .tolerance import ONE_ROUNDING, Tolerance

Args = dict[str, Any]
"""Arguments by name, being put together."""

Chunks = Sequence[tuple[int, int]]
"""(tokens whose state exists, tokens computed) of each sequence."""

MIXED: Chunks = ((0, 5), (11, 1), (3, 6), (15, 1), (16, 1), (0, 1), (30, 9), (8, 8))
"""Prompt chunks and decodes together, some ending or starting at the bounds of pages of 8 and 16."""
DECODES: Chunks = ((0, 1), (7, 1), (8, 1), (37, 1), (15, 1))
PROMPT: Chunks = ((0, 35),)


@dataclass(frozen=True)
class Case:
    """One call of an op.

    Args:
        name: says what is special about it.
        args: the arguments by their name in the contract, passed by position, in order.
        options: those passed by name.
        tolerance: of the floating results and of the state written.
        equal: the results are copies, so they must be equal.
        rows: arguments whose first dimension is the batch's rows: cut when a row is computed alone.
        state: arguments that the op may change, at the batch's places.
        as_read: arguments that stay on the host, and weights among them as files have them.
        judged: the rows of the result that are compared, or all.
        result: the dtype of floating results, where it is not the compute dtype.
    """

    name: str
    args: Mapping[str, object]
    options: Mapping[str, object] = field(default_factory=dict)
    tolerance: Tolerance = ONE_ROUNDING
    equal: bool = False
    rows: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    as_read: tuple[str, ...] = ()
    judged: tuple[int, ...] | None = None
    result: torch.dtype | None = None


class Make:
    """Builds the tensors of cases on the host; the same seed gives the same numbers on every stack.

    Args:
        dtype: the compute dtype.
        formats: packed formats to make weights in.
        int8_pages: whether to make pages of int8 too.
        seed: of the numbers.
    """

    def __init__(
        self, dtype: torch.dtype, formats: frozenset[str] = frozenset(), seed: int = 0, *, int8_pages: bool = False
    ) -> None:
        self.dtype, self.formats, self.int8_pages = dtype, formats, int8_pages
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype | None = None, std: float = 1.0) -> Tensor:
        """Normal numbers, in the compute dtype unless said."""
        return (torch.randn(*shape, generator=self.generator) * std).to(dtype or self.dtype)

    def grid(self, *shape: int, step: float = 0.125, top: float = 2.0, dtype: torch.dtype | None = None) -> Tensor:
        """Multiples of `step` up to `top`: sums of their products are exact in float32, so that ties are ties."""
        steps = int(top / step)
        numbers = torch.randint(-steps, steps + 1, shape, generator=self.generator) * step
        return numbers.to(dtype or self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        """float32 in [0, 1)."""
        return torch.rand(*shape, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """Integers low .. high - 1."""
        return torch.randint(low, high, shape, generator=self.generator).to(dtype)

    def strided(self, x: Tensor) -> Tensor:
        """The same numbers as a slice of a wider tensor, as models cut q, k and v out of one product."""
        wide = x.new_full((*x.shape[:-2], x.shape[-2] + 2, x.shape[-1]), torch.nan)
        view = wide[..., 1:-1, :]
        view.copy_(x)
        return view

    def batch(self, chunks: Chunks, page_size: int, spare_slots: int = 3) -> Batch:
        """A batch whose pages lie in no order, with one page and some slots that belong to nobody."""
        counts, lengths = [count for _, count in chunks], [start + count for start, count in chunks]
        starts = [sum(counts[:s]) for s in range(len(counts) + 1)]
        positions = [start + i for start, count in chunks for i in range(count)]
        needed = [-(-length // page_size) for length in lengths]
        order = torch.randperm(sum(needed), generator=self.generator).int() + 1
        # Entries past a sequence's pages are unspecified: here, the page that belongs to nobody.
        pages = torch.zeros(len(chunks), max(needed, default=0) + 2, dtype=torch.int32)
        for s, count in enumerate(needed):
            first = sum(needed[:s])
            pages[s, :count] = order[first : first + count]
        slots = torch.randperm(len(chunks) + spare_slots, generator=self.generator)[: len(chunks)].int()
        return Batch(
            tokens=self.integers(0, 50, starts[-1]),
            positions=torch.tensor(positions, dtype=torch.int32),
            starts=torch.tensor(starts, dtype=torch.int32),
            lengths=torch.tensor(lengths, dtype=torch.int32),
            pages=pages,
            slots=slots,
            page_size=page_size,
            host_starts=tuple(starts),
            host_lengths=tuple(lengths),
        )

    def pages(self, batch: Batch, values: Tensor, *, written: bool = True, every: int = 1) -> Tensor:
        """Pages [N, P / every, ...] of a batch; whatever belongs to nobody is NaN.

        Args:
            values: a tensor [longest length, sequences, ...] that entries are taken from.
            written: whether the entries of the batch's own rows are there already.
            every: tokens of an entry.
        """
        size = batch.page_size // every
        number = int(batch.pages.max()) + 1 if batch.pages.numel() else 1
        pages = values.new_full((number, size, *values.shape[2:]), torch.nan)
        for s, length in enumerate(batch.host_lengths):
            count = batch.host_starts[s + 1] - batch.host_starts[s]
            entries = torch.arange((length if written else length - count) // every)
            pages[batch.pages[s].long()[entries // size], entries % size] = values[entries, s]
        return pages

    def slots(self, batch: Batch, *shape: int, dtype: torch.dtype | None = None, spare_slots: int = 3) -> Tensor:
        """State [slots, ...] of a batch; slots that belong to nobody are NaN, those of new sequences zero."""
        state = self.normal(batch.num_sequences + spare_slots, *shape, dtype=dtype, std=0.5)
        owned = torch.zeros(len(state), dtype=torch.bool)
        owned[batch.slots.long()] = True
        state[~owned] = torch.nan
        counts = batch.starts.diff()
        state[batch.slots.long()[batch.lengths == counts]] = 0.0
        return state


def longest(batch: Batch) -> int:
    """Entries of the longest sequence."""
    return max(batch.host_lengths, default=0)


def alone(batch: Batch, s: int) -> Batch:
    """The batch with one of its sequences only."""
    rows = slice(batch.host_starts[s], batch.host_starts[s + 1])
    count = rows.stop - rows.start
    return Batch(
        tokens=batch.tokens[rows],
        positions=batch.positions[rows],
        starts=batch.starts.new_tensor([0, count]),
        lengths=batch.lengths[s : s + 1],
        pages=batch.pages[s : s + 1],
        slots=batch.slots[s : s + 1],
        page_size=batch.page_size,
        host_starts=(0, count),
        host_lengths=(batch.host_lengths[s],),
    )
