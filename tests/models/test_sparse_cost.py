"""Sparse attention really selects: what a decode step computes at 4k, 16k and 64k tokens of context."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from parity.core.batch import Batch
from parity.stacks.reference import OPS

CONTEXTS = (4096, 16384, 65536)
PAGE, HEADS, DIM, TOP_K, WINDOW = 64, 4, 32, 128, 128


def decode(length: int) -> Batch:
    """One token at the end of a context."""
    numbers = [torch.tensor(values, dtype=torch.int32) for values in ([0], [length - 1], [0, 1], [length], [0])]
    tokens, positions, starts, lengths, slots = numbers
    pages = torch.arange(length // PAGE, dtype=torch.int32)[None]
    return Batch(tokens, positions, starts, lengths, pages, slots, PAGE, (0, 1), (length,))


def paged(length: int, *shape: int, every: int = 1) -> Tensor:
    return torch.randn(length // PAGE, PAGE // every, *shape)


def chosen(length: int, every: int) -> Tensor:
    return torch.linspace(0, length // every - 1, TOP_K).int()[None]


def latent(length: int) -> Tensor:
    q = torch.randn(1, HEADS, DIM)
    pages = paged(length, DIM)
    result: Tensor = OPS.attend_latent(q, q, pages, pages, decode(length), 1.0, chosen(length, 1))
    return result


def pooled(length: int) -> Tensor:
    q, entries = torch.randn(1, HEADS, DIM), paged(length, DIM, every=4)
    batch, selected = decode(length), chosen(length, 4)
    result: Tensor = OPS.attend_pooled(q, paged(length, DIM), entries, batch, 1.0, WINDOW, 4, selected)
    return result


def groups(length: int) -> Tensor:
    q, pages = torch.randn(1, HEADS, DIM), paged(length, 2, DIM)
    result: Tensor = OPS.attend_selected(q, pages, pages, decode(length), 1.0, chosen(length, 4), 4)
    return result


def choose(length: int) -> Tensor:
    q, weights = torch.randn(1, HEADS, DIM), torch.ones(1, HEADS)
    result: Tensor = OPS.select(q, weights, paged(length, DIM, every=4), decode(length), TOP_K, every=4)
    return result


def flops(op: Callable[[int], Tensor], length: int) -> int:
    with FlopCounterMode(display=False) as counter:
        op(length)
    return counter.get_total_flops()


@pytest.mark.parametrize("op", [latent, pooled, groups])
def test_attention_to_chosen_entries_costs_the_same_at_any_length(op: Callable[[int], Tensor]) -> None:
    costs = {flops(op, length) for length in CONTEXTS}
    assert len(costs) == 1
    seen = TOP_K * (4 if op is groups else 1) + (WINDOW if op is pooled else 3 if op is groups else 0)
    products = 3 if op is latent else 2
    assert costs == {2 * products * HEADS * DIM * seen}


def test_only_the_choice_looks_at_every_entry() -> None:
    """And at one for four tokens, with the indexer's few dimensions."""
    assert [flops(choose, length) for length in CONTEXTS] == [2 * HEADS * (DIM + 1) * length // 4 for length in CONTEXTS]


@pytest.mark.parametrize("op", [latent, pooled, groups])
def test_entries_that_are_not_chosen_are_not_read(op: Callable[[int], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not numbers here: reading one would show."""
    length = CONTEXTS[0]

    def mostly_nan(length: int, *shape: int, every: int = 1) -> Tensor:
        pages = torch.full((length // PAGE * (PAGE // every), *shape), torch.nan)
        groups_of = torch.cat([chosen(length, 4 if op is not latent else 1)[0].long(), torch.tensor([length // 4 - 1])])
        if every == 4 or op is latent:
            pages[groups_of] = 1.0
        elif op is groups:
            pages[(groups_of[:, None] * 4 + torch.arange(4)).flatten()] = 1.0
        else:
            pages[-WINDOW:] = 1.0
        return pages.view(length // PAGE, PAGE // every, *shape)

    monkeypatch.setitem(op.__globals__, "paged", mostly_nan)  # type: ignore[attr-defined]
    assert op(length).isfinite().all()
