"""A model's steps alone, without scheduler and sampler: prompts and decode steps as a stack computes them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence

import torch

from ..core.batch import Batch
from ..core.state import State
from ..engine.memory import StateMemory, choose_page_size
from ..models.decoder import Decoder
from ..stacks.base import Device, Stack

PROMPT_TOKENS = 512
"""Of each stream in one step before decoding."""


class Steps:
    """Times steps of a model.

    Args:
        model: with its weights.
        stack: where it runs.
        dtype: of the state.
    """

    def __init__(self, model: Decoder, stack: Stack, dtype: torch.dtype) -> None:
        self.model, self.device, self._dtype = model, stack.device, dtype
        self._page_size = choose_page_size(model.state, stack.page_size)

    @torch.inference_mode()
    def prefill(self, rng: random.Random, num_tokens: int) -> float:
        """Seconds to read a prompt and have its last row's logits."""
        state = self._state(1, num_tokens)
        batch = self._batch([(0, num_tokens)], self.tokens(rng, num_tokens), num_tokens)
        start = self._now()
        self.model.head(self.model.hidden(batch, state)[-1:])
        return self._now() - start

    @torch.inference_mode()
    def decode(self, rng: random.Random, streams: int, context: int, num_steps: int) -> float:
        """Seconds of the median step in which each of `streams` sequences decodes one token; recorded where that can be."""
        length = context + num_steps + 1
        state = self._state(streams, length)
        for done in range(0, context, PROMPT_TOKENS):
            count = min(PROMPT_TOKENS, context - done)
            self.model.hidden(self._batch([(done, count)] * streams, self.tokens(rng, count * streams), length), state)
        batch = self._batch([(context, 1)] * streams, self.tokens(rng, streams), length)
        recordable = self.model.recordable_on(self.device.torch_device)
        graph, _ = self.device.capture(lambda: self.model(batch, state)) if recordable else (None, None)
        times = []
        for position in range(context + 1, context + 1 + num_steps):
            step = self._batch([(position, 1)] * streams, self.tokens(rng, streams), length)
            batch.tokens.copy_(step.tokens)
            batch.positions.copy_(step.positions)
            batch.lengths.copy_(step.lengths)
            start = self._now()
            if graph is not None:
                graph.replay()
            else:
                self.model(step, state)
            times.append(self._now() - start)
        return statistics.median(times)

    def tokens(self, rng: random.Random, count: int) -> list[int]:
        """Random ids from the middle of the vocabulary."""
        size = self.model.vocab_size
        return [rng.randrange(min(1000, size // 2), min(100_000, size)) for _ in range(count)]

    def _now(self) -> float:
        self.device.synchronize()
        return time.perf_counter()

    def _pages(self, length: int) -> int:
        return -(-length // self._page_size)

    def _state(self, streams: int, length: int) -> State:
        memory = StateMemory(
            self.model.state,
            num_pages=streams * self._pages(length),
            page_size=self._page_size,
            num_slots=streams,
            num_snapshots=0,
            dtype=self._dtype,
            device=self.device,
        )
        return memory.state

    def _batch(self, chunks: Sequence[tuple[int, int]], tokens: Sequence[int], length: int) -> Batch:
        """Sequences given as (tokens that exist, tokens computed), each with pages of its own for `length` tokens."""
        starts = [0]
        for _, count in chunks:
            starts.append(starts[-1] + count)
        lengths = [start + count for start, count in chunks]
        each = self._pages(length)
        pages = torch.arange(len(chunks) * each, dtype=torch.int32).view(len(chunks), each)
        positions = [position for start, count in chunks for position in range(start, start + count)]

        def numbers(values: Sequence[int]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int32).to(self.device.torch_device)

        return Batch(
            numbers(tokens),
            numbers(positions),
            numbers(starts),
            numbers(lengths),
            pages.to(self.device.torch_device),
            numbers(range(len(chunks))),
            self._page_size,
            host_starts=tuple(starts),
            host_lengths=tuple(lengths),
        )


def memory_rates(device: Device, num_bytes: int = 512 << 20, count: int = 3) -> list[float]:
    """Bytes a second at which the device reads its memory, a few times."""
    data = torch.ones(num_bytes // 4, device=device.torch_device)
    rates = []
    for _ in range(count):
        device.synchronize()
        start = time.perf_counter()
        device.read(data)
        device.synchronize()
        rates.append(data.nbytes / (time.perf_counter() - start))
    return rates
