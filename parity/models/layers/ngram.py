"""Memory of n-grams: rows of a huge table, found by hashing a token with those before it, written into the residual streams.

Engram (DeepSeek-V4.1) and per-layer embeddings (Qwen3.8-Flash-Next) share everything but their constants and a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...core.errors import WeightError
from ...core.state import LayerState, PerRequest, StateSpec
from ...core.weights import Packed, Weight
from ...stacks.ops import Ops
from ..step import Step
from .weight import Place, Put, Slot


def primes_after(start: int, count: int) -> list[int]:
    """The first `count` primes above `start`."""
    found: list[int] = []
    candidate = start
    while len(found) < count:
        candidate += 1
        if candidate > 1 and all(candidate % divisor for divisor in range(2, math.isqrt(candidate) + 1)):
            found.append(candidate)
    return found


class NgramHash(nn.Module):
    """From the latest W tokens of a row to its rows in the table: `heads` for each of the 2-grams to W-grams.

    The hash of an n-gram is the exclusive or of its tokens times odd multipliers, modulo a prime of each head; each head's
    rows stand after those of the heads before it.

    Args:
        multipliers: one for each place, the latest token's first.
        primes: rows of each head, in order.
        fill: stands for tokens that are not there.
        stop: a token that hides itself and all before it, for every later token; or None.
        names: of these constants in the checkpoint, where it has them: multipliers, primes and offsets.
    """

    multipliers: Tensor
    primes: Tensor
    offsets: Tensor

    def __init__(
        self,
        multipliers: Sequence[int],
        primes: Sequence[int],
        fill: int,
        stop: int | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.width, self.fill, self.stop = len(multipliers), fill, stop
        self.num_rows = sum(primes)
        offsets = [sum(primes[:head]) for head in range(len(primes))]
        for name, values in (("multipliers", multipliers), ("primes", primes), ("offsets", offsets)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)
        self._names, self._present = names, set[str]()

    def choose_form(self, path: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        parent = path.rpartition(".")[0]
        self._present = {name for name in self._names if f"{parent}.{name}" in shapes}

    def slots(self) -> Iterator[Slot]:
        for name, values in zip(self._names, (self.multipliers, self.primes, self.offsets), strict=False):
            if name in self._present:
                yield Slot(f".{name}", tuple(values.shape), _Same(name, values))

    def forward(self, ops: Ops, windows: Tensor) -> Tensor:
        """windows int64 [T, W], the latest token first and -1 for none -> rows int64 [T, (W - 1) heads]."""
        primes, offsets = (constant.view(self.width - 1, -1) for constant in (self.primes, self.offsets))
        return ops.hash_windows(windows, self.multipliers, primes, offsets, self.fill, self.stop)


class _Same:
    """A constant of the checkpoint, which must be the one that was computed."""

    def __init__(self, name: str, expected: Tensor) -> None:
        self._name, self._expected = name, expected

    def __call__(self, weight: Weight, place: Place) -> None:
        if not isinstance(weight, Tensor) or not torch.equal(weight.cpu(), self._expected.cpu()):
            raise WeightError(
                f"{self._name} in the checkpoint is not what the config gives: the n-gram tables would be misread"
            )


class HostTable(nn.Module):
    """A table too big to move: it stays where the checkpoint was mapped, and only the rows asked for are read and copied.

    Args:
        num_parts: it may be released in so many parts, `shard_0.weight` and on, instead of whole.
    """

    def __init__(self, num_rows: int, dim: int, dtype: torch.dtype, *, num_parts: int = 1) -> None:
        super().__init__()
        self.num_rows, self.dim, self.dtype = num_rows, dim, dtype
        self._part_rows = -(-num_rows // num_parts)
        self._in_parts = False
        self.parts: dict[int, Tensor | Packed] = {}
        """The table as it is read, by part."""

    def choose_form(self, path: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._in_parts = f"{path}.shard_0.weight" in shapes

    def slots(self) -> Iterator[Slot]:
        if not self._in_parts:
            self._part_rows = self.num_rows
            yield Slot("weight", (self.num_rows, self.dim), self._keep(0))
            return
        for index, first in enumerate(range(0, self.num_rows, self._part_rows)):
            count = min(self._part_rows, self.num_rows - first)
            yield Slot(f"shard_{index}.weight", (count, self.dim), self._keep(index))

    def _keep(self, index: int) -> Put:
        def put(weight: Weight, place: Place) -> None:
            # Not placed: it is read through the map, row by row.
            assert isinstance(weight, (Tensor, Packed))
            self.parts[index] = weight

        return put

    def forward(self, ops: Ops, indices: Tensor) -> Tensor:
        """indices int64 [T, n], on any device -> [T, n dim] on the same."""
        in_order = tuple(self.parts[index] for index in range(len(self.parts)))
        return ops.gather(indices, in_order, self._part_rows, self.dtype)


class NgramMemory(nn.Module):
    """The embeddings of a row's n-grams, side by side."""

    token_ids: Tensor | None

    def __init__(self, ops: Ops, hashing: NgramHash, table: HostTable, table_name: str) -> None:
        super().__init__()
        self.ops, self.hashing = ops, hashing
        self.add_module(table_name, table)
        self._table = (table,)
        self.register_buffer("token_ids", None, persistent=False)
        self.state: tuple[StateSpec, ...] = (PerRequest("ngram", (hashing.width - 1,), torch.int32),)

    def map_tokens(self, token_ids: Tensor) -> None:
        """The ids that are hashed in place of tokens: int [vocabulary]."""
        self.token_ids = token_ids.int()

    def forward(self, step: Step, state: LayerState) -> Tensor:
        """[T, heads dim]; moves the requests' latest tokens on."""
        windows = self.ops.token_windows(step.batch.tokens, state["ngram"], step.batch, self.token_ids)
        result: Tensor = self._table[0](self.ops, self.hashing(self.ops, windows))
        return result
