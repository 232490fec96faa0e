"""Turns a plan into tensors, runs the model over them, and brings back one result for each chunk."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, Chunk, Plan, Probe, Result
from ..core.request import TokenLogprobs
from ..models.decoder import Decoder
from ..stacks.base import Stack
from .memory import StateMemory
from .recordings import Recorded, Recordings, take
from .sampler import Choice, Sampler, joined, token_logprobs

log = logging.getLogger("parity")


class Runner:
    """Runs steps on one stack. Knows tensors; decides nothing.

    Args:
        stack: where to run.
        model: with its weights.
        memory: the state.
        sampler: chooses tokens.
        page_size: tokens in a page.
        max_pages: most pages of one sequence.
        graphs: whether decode steps are recorded and replayed where the device can.
    """

    def __init__(
        self,
        stack: Stack,
        model: Decoder,
        memory: StateMemory,
        sampler: Sampler,
        *,
        page_size: int,
        max_pages: int,
        graphs: bool = True,
    ) -> None:
        self._stack, self.model, self.memory, self._sampler = stack, model, memory, sampler
        self._page_size = page_size
        self._recordings: Recordings | None = None
        if graphs:
            self._recordings = Recordings(stack.device, model, memory, page_size=page_size, max_pages=max_pages)
        self.probe: Probe | None = None
        """Sees values inside the model, in steps computed without a graph."""

    @property
    def device(self) -> Mapping[str, str]:
        """What of the device changes numbers or speed."""
        return self._stack.device.describe()

    @property
    def recorded(self) -> Mapping[int, Recorded]:
        """The recorded decode steps by their numbers of rows."""
        return {} if self._recordings is None else self._recordings.kept

    @property
    def runs_ahead(self) -> bool:
        """Whether a step may be started before the tokens of the one before have come."""
        return self._stack.device.asynchronous and self.probe is None

    def run(self, plan: Plan) -> list[Result]:
        """One result for each chunk, in order."""
        return self.finish(self.start(plan))

    @torch.inference_mode()
    def start(self, plan: Plan, before: Started | None = None) -> Started:
        """Gives a step to the device.

        Args:
            plan: what to compute.
            before: the step that it follows, if it follows one.
        """
        self._bring_state(plan)
        known = None if before is None or not plan.follows else before.tokens
        if self._recordings is not None and self.probe is None and self._recordings.takes(plan):
            choice = self._sampler.choose(self._recordings.logits(plan, known), plan.chunks)
            started = Started(plan, choice.tokens, self._stack.device.fetch(choice.tokens), choice.results)
        else:
            started = self._started(plan, self.model.hidden(self.prepare(plan, known), self.memory.state))
        for chunk in plan.chunks:
            if chunk.save is not None:
                self.memory.save(chunk.slot, chunk.save)
        return started

    @torch.inference_mode()
    def finish(self, started: Started) -> list[Result]:
        """Waits for a step: one result for each chunk, in order."""
        return started.results(started.fetched().tolist())

    def _bring_state(self, plan: Plan) -> None:
        for chunk in plan.chunks:
            if chunk.restore is not None:
                self.memory.restore(chunk.restore, chunk.slot)
            elif chunk.start == 0:
                self.memory.clear(chunk.slot)

    # The batch

    def prepare(self, plan: Plan, known: Tensor | None = None) -> Batch:
        """The tensors of a step that is not recorded.

        Args:
            plan: the step.
            known: the tokens of the step that it follows, where it follows one.
        """
        arrays = _arrays(plan, max(len(chunk.pages) for chunk in plan.chunks))
        # One copy to the device for all seven.
        packed = self._stack.device.send(torch.from_numpy(np.concatenate([array.ravel() for array in arrays])))
        parts = packed.split([array.size for array in arrays])
        tokens, positions, starts, lengths, pages, slots, follows = (
            part.view(array.shape) for part, array in zip(parts, arrays, strict=True)
        )
        if known is not None:
            take(tokens, known, follows)
        return Batch(
            tokens,
            positions,
            starts,
            lengths,
            pages,
            slots,
            self._page_size,
            host_starts=tuple(arrays[2].tolist()),
            host_lengths=tuple(arrays[3].tolist()),
            probe=self.probe,
        )

    # The results

    def _started(self, plan: Plan, hidden: Tensor) -> Started:
        ends = list(itertools.accumulate(len(chunk.tokens) for chunk in plan.chunks))
        sampled = [index for index, chunk in enumerate(plan.chunks) if chunk.sample]
        choice = Choice(torch.zeros(0, dtype=torch.int64), {}, {})
        if sampled:
            rows = [ends[index] - 1 for index in sampled]
            last = hidden if len(rows) == hidden.shape[0] else hidden[self._stack.device.send(torch.tensor(rows))]
            choice = self._chosen(last, [plan.chunks[index] for index in sampled])

        def results(tokens: list[int]) -> list[Result]:
            chosen = iter(choice.results(tokens))
            return [
                self._with_rows(next(chosen) if chunk.sample else Result(), chunk, hidden[end - len(chunk.tokens) : end])
                for end, chunk in zip(ends, plan.chunks, strict=True)
            ]

        return Started(plan, choice.tokens, self._stack.device.fetch(choice.tokens), results)

    def _chosen(self, hidden: Tensor, chunks: list[Chunk]) -> Choice:
        """The choice of each chunk's token, given its row: some rows' logits are gone before the next are computed."""
        parts, first = [], 0
        for rows in hidden.split(self._stack.head_rows):
            parts.append(self._sampler.choose(self.model.head(rows), chunks[first : first + len(rows)]))
            first += len(rows)
        return joined(parts)

    def _with_rows(self, result: Result, chunk: Chunk, hidden: Tensor) -> Result:
        """Adds what a request wants of all rows of its chunk."""
        request = chunk.request
        if request.want == "embedding" and chunk.rows == "last":
            return Result(array=hidden[-1].float().cpu().numpy())
        if chunk.rows != "all":
            return result
        count = request.params.prompt_logprobs
        following = () if count is None else request.tokens[chunk.start + 1 : chunk.length + 1]
        array = np.empty((len(hidden), self.model.vocab_size), np.float32) if request.want == "logits" else None
        logprobs: list[TokenLogprobs] = []
        start = 0
        for part in self._head(hidden[: len(following)] if array is None else hidden):
            if array is not None:
                array[start : start + len(part)] = part.cpu().numpy()
            if tokens := following[start : start + len(part)]:
                logprobs += token_logprobs(part[: len(tokens)], tokens, count or 0)
            start += len(part)
        return Result(result.token, result.logprob, tuple(logprobs), array, result.error)

    def _head(self, hidden: Tensor) -> Iterator[Tensor]:
        for part in hidden.split(self._stack.head_rows):
            if len(part):
                yield self.model.head(part)


@dataclass(frozen=True, slots=True)
class Started:
    """A step that was given to the device.

    Args:
        plan: what is computed.
        tokens: int64, on the device: one for each chunk that samples.
        fetched: waits for the tokens, on the host.
        results: makes one result of each chunk, given the tokens.
    """

    plan: Plan
    tokens: Tensor
    fetched: Callable[[], Tensor]
    results: Callable[[list[int]], list[Result]]


def _arrays(plan: Plan, max_pages: int) -> Sequence[np.ndarray]:
    """tokens, positions, starts, lengths, pages, slots and rows of the step before of a plan, all int32."""
    chunks = plan.chunks
    counts = [len(chunk.tokens) for chunk in chunks]
    tokens = np.fromiter(itertools.chain.from_iterable(chunk.tokens for chunk in chunks), np.int32, sum(counts))
    starts = np.zeros(len(chunks) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    first = np.array([chunk.start for chunk in chunks], np.int32)
    positions = np.arange(starts[-1], dtype=np.int32) + np.repeat(first - starts[:-1], counts)
    lengths = first + np.array(counts, np.int32)
    pages = np.zeros((len(chunks), max_pages), np.int32)
    for row, chunk in enumerate(chunks):
        pages[row, : len(chunk.pages)] = chunk.pages
    slots = np.array([chunk.slot for chunk in chunks], np.int32)
    return tokens, positions, starts, lengths, pages, slots, np.array(plan.follows, np.int32)
