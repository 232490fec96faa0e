"""The two kinds of state that a layer may declare; the engine owns both and knows no model.

`PerToken` state lives in pages that requests share freely (a page holds `page_size` consecutive tokens of every layer).
`PerRequest` state lives in a slot; it cannot be cut at an arbitrary token, so it is reused only from a saved snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, overload

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PerToken:
    """An entry of `shape` for each `every` tokens.

    Stored as [num_pages, page_size // every, *shape]; entry i of a request covers tokens [i * every, (i + 1) * every) and
    is written when the last of them is computed. `window` says that only the entries of the last `window` tokens are read.
    `dtype` None means the model's compute dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None
    every: int = 1
    window: int | None = None


@dataclass(frozen=True)
class PerRequest:
    """One array of `shape` for each running request, stored as [num_slots, *shape] and zero for a new request."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None


StateSpec: TypeAlias = PerToken | PerRequest

LayerState: TypeAlias = Mapping[str, "torch.Tensor"]
"""One layer's arrays by name: [num_pages, page_size // every, *shape] or [num_slots, *shape]."""


class State(Sequence[LayerState]):
    """The arrays of every layer, by layer index; layers write into them in place."""

    def __init__(self, layers: Sequence[LayerState]) -> None:
        self._layers = tuple(layers)

    @overload
    def __getitem__(self, index: int) -> LayerState: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerState, ...]: ...
    def __getitem__(self, index: int | slice) -> LayerState | tuple[LayerState, ...]:
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[LayerState]:
        return iter(self._layers)
