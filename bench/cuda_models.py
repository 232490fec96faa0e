"""Models of released shapes with random weights made on the device, and what a step of them has to read and multiply."""

from __future__ import annotations

import gc
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from cuda_rows import Rates, Row
from shapes import SHAPES, tiny
from torch import Tensor

from parity.core.batch import Batch
from parity.core.state import PerToken
from parity.core.weights import Packed, Weight
from parity.engine.memory import StateMemory
from parity.formats import pack
from parity.models import registry
from parity.models.decoder import Decoder
from parity.stacks.base import Stack


class Models:
    """Builds one model at a time on a stack.

    Args:
        small: tiny models and counts: to test the benchmark, not to measure.
    """

    def __init__(self, stack: Stack, *, small: bool = False) -> None:
        self.stack, self.small = stack, small
        self.device = stack.device.torch_device
        self.dtype = stack.dtypes[0]
        self._built: tuple[tuple[str, str | None], Decoder, int, int] | None = None

    def forget(self) -> None:
        """Gives the memory of the model built last back."""
        self._built = None
        self.release()

    def config(self, model: str) -> Mapping[str, Any]:
        return tiny(SHAPES[model]) if self.small else SHAPES[model]

    def build(self, model: str, format: str | None) -> tuple[Decoder, int, int]:
        """(the model with random weights, bytes read for every token, bytes of the routed experts)."""
        key = (model, format)
        if self._built is None or self._built[0] != key:
            self._built = None
            self.release()
            decoder, _ = registry.build(self.config(model), self.stack.ops, self.dtype)
            common, routed = self.fill(decoder, format)
            self._built = (key, decoder.to(self.device).eval(), common, routed)
        return self._built[1:]

    def release(self) -> None:
        """Gives the memory of what is no longer used back."""
        gc.collect()
        if self.device.type != "cpu":
            torch.get_device_module(self.device).empty_cache()

    def fill(self, decoder: Decoder, format: str | None) -> tuple[int, int]:
        """Random weights; (bytes read for every token, bytes of the routed experts)."""
        common = routed = 0
        torch.manual_seed(0)
        for name, slot in decoder.all_slots().items():
            numbers = self.numbers(slot.shape, torch.float32 if slot.exact else self.dtype)
            packs = (
                format is not None and not slot.exact and len(slot.shape) == 2 and "embed" not in name and "lm_head" not in name
            )
            weight: Weight = self.pack(numbers, format) if packs and format is not None else numbers
            slot.put(weight, self.stack.prepare if isinstance(weight, Packed) else lambda given: given)
            if ".experts." in name:
                routed += weight.nbytes
            elif "embed_tokens" not in name or decoder.tied:
                common += weight.nbytes
        return common, routed

    def numbers(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Random weights: a matrix's small, a vector's about 1."""
        drawn = torch.randn(shape, device=self.device, dtype=dtype)
        return drawn.mul_(0.02) if len(shape) > 1 else drawn.mul_(0.1).add_(1)

    def pack(self, numbers: Tensor, format: str) -> Packed:
        """A matrix in a packed format."""
        return pack(numbers, format)

    # Limits

    def touched(self, model: str, batch: int) -> float:
        """The share of the routed experts that a batch reads, if its tokens choose at random."""
        config = self.config(model)
        number = config.get("num_experts", config.get("n_routed_experts"))
        return 0.0 if number is None else 1 - (1 - config["num_experts_per_tok"] / number) ** batch

    def state_bytes(self, decoder: Decoder, context: int) -> int:
        """Read (and, per request, written) in a step for one sequence."""
        total = 0
        for layer in decoder.state:
            for spec in layer:
                size = torch.Size(spec.shape).numel() * (spec.dtype or self.dtype).itemsize
                if isinstance(spec, PerToken):
                    total += size * min(context, spec.window or context) // spec.every
                else:
                    total += 2 * size
        return total

    def step_s(
        self,
        row: Row,
        decoder: Decoder,
        common: int,
        routed: int,
        chunks: Sequence[tuple[int, int]],
        rates: Rates,
    ) -> float:
        """The shortest time of a step: its products' and its attention's, each by what it reads or by what it multiplies.

        Args:
            chunks: of each sequence, the tokens whose state exists and those computed, the last of which is sampled.
            rates: the device's.
        """
        config, rows = self.config(row.model), sum(count for _, count in chunks)
        read = common + routed * self.touched(row.model, rows)
        products = max(read / rates.bandwidth, self.product_flops(row.model, common, routed, rows, len(chunks)) / rates.matrix)
        heads = config["num_attention_heads"]
        width = config.get("head_dim") or config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
        pairs = sum(count * start + count**2 / 2 for start, count in chunks)
        state = sum(self.state_bytes(decoder, start + count) for start, count in chunks)
        return products + max(state / rates.bandwidth, 4 * heads * width * pairs * len(decoder.state) / rates.matrix)

    def product_flops(self, model: str, common: int, routed: int, rows: int, sampled: int) -> float:
        """Two for each weight and token; the head's for the sampled ones alone."""
        config = self.config(model)
        share = config["num_experts_per_tok"] / config.get("num_experts", config.get("n_routed_experts")) if routed else 0.0
        head = config["vocab_size"] * config["hidden_size"]
        return 2 * (((common + routed * share) / self.dtype.itemsize - head) * rows + head * sampled)

    # Work

    def batch(self, row: Row, count: int, decoder: Decoder) -> tuple[Batch, StateMemory]:
        """`row.batch` sequences of `row.context` tokens, the last `count` of which are computed, and their state."""
        size = self.stack.page_size
        each = -(-row.context // size)
        memory = StateMemory(
            decoder.state,
            num_pages=row.batch * each,
            page_size=size,
            num_slots=row.batch,
            num_snapshots=0,
            dtype=self.dtype,
            device=self.stack.device,
        )
        starts = torch.arange(row.batch + 1, dtype=torch.int32) * count
        positions = torch.arange(row.context - count, row.context, dtype=torch.int32).repeat(row.batch)
        lengths = torch.full((row.batch,), row.context, dtype=torch.int32)
        tokens = torch.randint(0, decoder.vocab_size, (row.batch * count,), dtype=torch.int32)
        pages = torch.arange(row.batch * each, dtype=torch.int32).view(row.batch, each)
        slots = torch.arange(row.batch, dtype=torch.int32)
        tensors = [x.to(self.device) for x in (tokens, positions, starts, lengths, pages, slots)]
        return Batch(*tensors, size, tuple(starts.tolist()), tuple(lengths.tolist())), memory

    def work(self, row: Row, seed: int = 0) -> list[tuple[list[int], int]]:
        """(prompt, tokens to make) of each request, both of 100 to 1024 tokens."""
        low, high = (4, 12) if self.small else (100, 1024)
        dice, size = random.Random(seed), int(self.config(row.model)["vocab_size"])
        return [
            ([dice.randrange(size) for _ in range(dice.randint(low, high))], dice.randint(low, high)) for _ in range(row.batch)
        ]
