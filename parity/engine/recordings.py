"""Decode steps recorded on the device, by their number of rows, and replayed over a batch that stays where it is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, Plan
from ..models.decoder import Decoder
from ..stacks.base import Device, Graph
from .memory import StateMemory

_MOST_BYTES = 512 << 20
_MOST_SHARE = 1 / 32
"""Of what recordings hold on to each for itself, their logits where the device cannot share those: so many bytes, or so much
of the device's memory where that is more. All sizes up to 256 rows of 152k logits take 1.4 GB."""


class Recordings:
    """The decode steps of one model. What was used last is kept longest.

    Args:
        device: records, and says for how many rows.
        model: with its weights.
        memory: the state; its spare page and slot belong to the rows that fill a step up.
        page_size: tokens in a page.
        max_pages: most pages of one sequence.
    """

    def __init__(self, device: Device, model: Decoder, memory: StateMemory, *, page_size: int, max_pages: int) -> None:
        self._device, self._model, self._memory = device, model, memory
        self._page_size, self._max_pages = page_size, max_pages
        self._sizes = tuple(device.recorded_rows)
        self._kept: dict[int, Recorded] = {}
        self._most_bytes = max(_MOST_BYTES, int(device.memory().total * _MOST_SHARE))

    @property
    def kept(self) -> Mapping[int, Recorded]:
        """By number of rows, the last one used last."""
        return MappingProxyType(self._kept)

    def takes(self, plan: Plan) -> bool:
        """Whether a step is of the kind that is recorded: each of not too many sequences decodes one token."""
        return bool(self._sizes) and len(plan.chunks) <= self._sizes[-1] and _decodes(plan)

    def logits(self, plan: Plan, known: Tensor | None = None) -> Tensor:
        """Computes a step that `takes` took: float32 [sequences, vocabulary], overwritten by the next, of whatever size.

        Args:
            plan: the step.
            known: the tokens of the step that it follows, on the device, where it follows one.
        """
        num_rows = len(plan.chunks)
        size = self._sizes[bisect_left(self._sizes, num_rows)]
        recorded = self._kept.pop(size, None)
        if recorded is not None:
            self._kept[size] = recorded
            recorded.inputs.fill(plan, known)
            recorded.graph.replay()
            return recorded.logits[:num_rows]
        inputs = Inputs(size, self._max_pages, self._page_size, self._memory, self._device)
        inputs.fill(plan, known)
        beside = next((other.graph for other in self._kept.values()), None)
        graph, logits = self._device.capture(lambda: self._model(inputs.batch, self._memory.state), beside)
        if graph is None:
            self._sizes = ()
        else:
            self._kept[size] = Recorded(inputs, graph, logits)
            while len(self._kept) > 1 and sum(kept.graph.num_bytes for kept in self._kept.values()) > self._most_bytes:
                del self._kept[next(iter(self._kept))]
        return logits[:num_rows]


class Inputs:
    """The batch of a decode step, in tensors that stay where they are: one packed array, copied to the device in one piece.

    Where the device runs on by itself, two arrays of the host are filled in turn: when one is filled again, the step before
    the last, which read it, has ended.

    Args:
        num_rows: of the step. Those that a plan does not need decode a token of nobody's, in the spare page and slot.
        max_pages: most pages of one sequence.
        page_size: tokens in a page.
        memory: has the spare page and slot.
        device: where the batch is read.
    """

    def __init__(self, num_rows: int, max_pages: int, page_size: int, memory: StateMemory, device: Device) -> None:
        count = 2 if device.asynchronous else 1
        self._staged = [Staged(num_rows, max_pages, memory, device) for _ in range(count)]
        # The same memory where the device is the host and does nothing by itself.
        self._packed = self._staged[0].array.to(device.torch_device, copy=device.asynchronous)
        tokens, positions, lengths, slots, self._follows = self._packed[: 5 * num_rows].view(5, num_rows)
        ones = range(num_rows + 1)
        self.batch = Batch(
            tokens,
            positions,
            torch.tensor(ones, dtype=torch.int32, device=device.torch_device),
            lengths,
            self._packed[5 * num_rows :].view(num_rows, max_pages),
            slots,
            page_size,
            host_starts=tuple(ones),
            host_lengths=(1,) * num_rows,
        )

    def fill(self, plan: Plan, known: Tensor | None = None) -> None:
        """Brings a plan into the batch. Not before the step before the last has ended; without `known`, nor the last.

        Args:
            plan: a decode step.
            known: the tokens of the step that it follows, on the device.
        """
        staged = self._staged.pop(0)
        self._staged.append(staged)
        staged.fill(plan)
        if self._packed is not staged.array:
            self._packed.copy_(staged.array, non_blocking=True)
        if known is not None:
            count = len(plan.chunks)
            take(self.batch.tokens[:count], known, self._follows[:count])


class Staged:
    """A batch on the host, from which it is copied in one piece.

    Args: as of `Inputs`.
    """

    def __init__(self, num_rows: int, max_pages: int, memory: StateMemory, device: Device) -> None:
        self._spare = (memory.spare_page,)
        self._nobody = np.array([[0], [0], [1], [memory.spare_slot], [0]], np.int32)
        self.array = device.staging(((5 + max_pages) * num_rows,), torch.int32)
        host = self.array.numpy()
        self._columns = host[: 5 * num_rows].reshape(5, num_rows)
        self._pages = host[5 * num_rows :].reshape(num_rows, max_pages)
        self._written: list[tuple[int, ...]] = [()] * num_rows

    def fill(self, plan: Plan) -> None:
        """Writes a plan into the array."""
        chunks = plan.chunks
        self._columns[:, : len(chunks)] = (
            [chunk.tokens[0] for chunk in chunks],
            [chunk.start for chunk in chunks],
            [chunk.start + 1 for chunk in chunks],
            [chunk.slot for chunk in chunks],
            plan.follows or [0] * len(chunks),
        )
        self._columns[:, len(chunks) :] = self._nobody
        for row in range(len(self._written)):
            pages = chunks[row].pages if row < len(chunks) else self._spare
            if pages != self._written[row]:
                self._pages[row, : len(pages)] = self._written[row] = pages


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded decode step, what it reads its batch from, and where it leaves its logits."""

    inputs: Inputs
    graph: Graph
    logits: Tensor


def take(tokens: Tensor, known: Tensor, follows: Tensor) -> None:
    """Fills in the tokens [n] of a step that follows another, whose tokens are `known`, from the rows `follows` [n].

    A row that could choose no token has -1; its request ends, and what its next row computes is of no matter.
    """
    tokens.copy_(known[follows].clamp_(min=0))


def _decodes(plan: Plan) -> bool:
    return all(len(chunk.tokens) == 1 and chunk.sample and chunk.rows == "last" for chunk in plan.chunks)
