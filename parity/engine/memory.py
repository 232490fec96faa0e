"""The arrays behind the two kinds of state, and how many pages fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import CapacityError
from ..core.state import PerRequest, PerToken, State, StateSpec
from ..stacks.base import Device
from ..stacks.paged import stored_shape

Specs = Sequence[tuple[StateSpec, ...]]


def page_bytes(specs: Specs, page_size: int, dtype: torch.dtype) -> int:
    """Bytes of one page over all layers; `dtype` of the specs that name none."""
    total = 0
    for spec in (spec for layer in specs for spec in layer if isinstance(spec, PerToken)):
        kind = spec.dtype or dtype
        total += page_size // spec.every * math.prod(stored_shape(spec.shape, kind)) * kind.itemsize
    return total


def slot_bytes(specs: Specs, dtype: torch.dtype) -> int:
    """Bytes of one request's own state over all layers; 0 if the model keeps none."""
    return sum(
        math.prod(spec.shape) * (spec.dtype or dtype).itemsize
        for layer in specs
        for spec in layer
        if isinstance(spec, PerRequest)
    )


def choose_page_size(specs: Specs, preferred: int) -> int:
    """The stack's page size, raised to what entries for several tokens need."""
    every = math.lcm(*(spec.every for layer in specs for spec in layer if isinstance(spec, PerToken)), 1)
    return math.lcm(preferred, every)


def choose_num_pages(free_bytes: int, bytes_per_page: int, page_size: int, max_model_len: int, max_num_seqs: int) -> int:
    """As many pages as all requests at full length could use, or as fit.

    Raises:
        CapacityError: not even one page fits.
    """
    wanted = -(-max_model_len // page_size) * max_num_seqs
    fitting = wanted if bytes_per_page == 0 else free_bytes // bytes_per_page
    if fitting < 1:
        raise CapacityError(
            f"no memory for state: one page of {page_size} tokens takes {bytes_per_page / 2**20:.1f} MiB and "
            f"{max(free_bytes, 0) / 2**20:.1f} MiB are free; free some memory or choose a smaller model"
        )
    return min(wanted, fitting)


class StateMemory:
    """The state of every layer, and the snapshots of per-request state.

    Args:
        specs: what each layer keeps.
        num_pages, num_slots: for requests; there is one more of each.
        dtype: for specs of per-request state that name none.
        page_dtype: for specs of pages that name none; `dtype` if not given.
        device: gives the memory.
    """

    def __init__(
        self,
        specs: Specs,
        *,
        num_pages: int,
        page_size: int,
        num_slots: int,
        num_snapshots: int,
        dtype: torch.dtype,
        page_dtype: torch.dtype | None = None,
        device: Device,
    ) -> None:
        self.spare_page, self.spare_slot = num_pages, num_slots
        """Of no request: for the rows that fill a recorded step up. Never touched where steps are recorded for any number."""
        self._slots: list[Tensor] = []
        self._saved: list[Tensor] = []
        layers = []
        for layer in specs:
            arrays = {}
            for spec in layer:
                if isinstance(spec, PerToken):
                    kind = spec.dtype or page_dtype or dtype
                    shape = (num_pages + 1, page_size // spec.every, *stored_shape(spec.shape, kind))
                    arrays[spec.name] = device.zeros(shape, kind)
                else:
                    kind = spec.dtype or dtype
                    arrays[spec.name] = device.zeros((num_slots + 1, *spec.shape), kind)
                    self._slots.append(arrays[spec.name])
                    self._saved.append(device.zeros((num_snapshots, *spec.shape), kind))
            layers.append(arrays)
        self.state = State(layers)

    def clear(self, slot: int) -> None:
        """Zeroes a slot for a new request."""
        for array in self._slots:
            array[slot].zero_()

    def restore(self, snapshot: int, slot: int) -> None:
        """Copies a snapshot into a slot."""
        for array, saved in zip(self._slots, self._saved, strict=True):
            array[slot].copy_(saved[snapshot])

    def save(self, slot: int, snapshot: int) -> None:
        """Copies a slot into a snapshot."""
        for array, saved in zip(self._slots, self._saved, strict=True):
            saved[snapshot].copy_(array[slot])
