"""Cases of the ops over entries pooled from groups of tokens, and of attention to chosen ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...core.batch import Batch
from .case import DECODES, MIXED, PROMPT, Args, Case, Chunks, Make, longest
from .tolerance import Tolerance

_F32 = torch.float32
_BATCHES: tuple[tuple[str, Chunks, int], ...] = (
    ("mixed, pages of 8", MIXED, 8),
    ("decodes, pages of 16", DECODES, 16),
    ("a prompt, pages of 64", PROMPT, 64),
    ("before the first group ends", ((0, 1), (1, 2), (0, 3)), 8),
)


def entry_pages(make: Make, batch: Batch, every: int, values: Tensor, *, written: bool = True) -> Tensor:
    """Pages [N, P / every, ...] of pooled entries, from values [entries, sequences, ...]; what belongs to nobody is NaN."""
    size = batch.page_size // every
    pages = values.new_full((int(batch.pages.max()) + 1, size, *values.shape[2:]), torch.nan)
    for s, length in enumerate(batch.host_lengths):
        count = batch.host_starts[s + 1] - batch.host_starts[s]
        entries = torch.arange((length if written else length - count) // every)
        pages[batch.pages[s].long()[entries // size], entries % size] = values[entries, s]
    return pages


def _ends(batch: Batch, every: int) -> tuple[int, ...]:
    """The rows whose position ends a group."""
    return tuple(row for row, position in enumerate(batch.positions.tolist()) if (position + 1) % every == 0)


def pool(make: Make) -> Iterator[Case]:
    for label, chunks, size in _BATCHES:
        for every in (2, 4, 8):
            for overlap in (False, True):
                for gated, biased in ((True, True), (True, False), (False, False)):
                    batch, width = make.batch(chunks, size), every * (1 + overlap)
                    bias = make.normal(every, 12, dtype=_F32) if biased else None
                    args = {"values": make.normal(batch.num_tokens, 12)}
                    args["gates"] = make.normal(batch.num_tokens, 12, std=2.0) if gated else None  # type: ignore[assignment]
                    args_ = args | {"bias": bias, "tail": make.slots(batch, width, 24 if gated else 12)}
                    kind = "gates and bias" if biased else "gates" if gated else "mean"
                    yield Case(
                        f"{label}, {kind} over {every}{', overlapping' * overlap}",
                        args_ | {"batch": batch, "every": every},
                        {"overlap": overlap},
                        Tolerance(16 * width, 1),
                        rows=("values", "gates") if gated else ("values",),
                        state=("tail",),
                        judged=_ends(batch, every),
                    )


def write_pooled(make: Make) -> Iterator[Case]:
    for label, chunks, size in _BATCHES:
        for every in (1, 2, 8):
            for shape in ((16,), (2, 5)):
                batch = make.batch(chunks, size)
                kept = make.normal(longest(batch) + 1, batch.num_sequences, *shape)
                args = {"pages": entry_pages(make, batch, every, kept, written=False)}
                args |= {"values": make.normal(batch.num_tokens, *shape)}
                args_ = args | {"batch": batch, "every": every}
                yield Case(f"{label}, {shape} every {every}", args_, equal=True, state=("pages",))


def attend_pooled(make: Make) -> Iterator[Case]:
    for label, chunks, size in _BATCHES:
        for every, window in ((2, 3), (4, 6), (8, 40)):
            for h, d in ((2, 16), (5, 40)):
                batch = make.batch(chunks, size)
                args = _pooled(make, batch, every, h, d, window)
                rule = Tolerance(d + window + longest(batch), 3)
                sinks = {"sinks": make.normal(h, dtype=_F32, std=2.0)}
                name = f"{label}, {h} heads of {d}, window {window}, every {every}"
                yield Case(name, args, tolerance=rule, rows=("q",))
                yield Case(f"{name}, sinks", args, sinks, rule, rows=("q",))
                chosen = _chosen(make, batch, every, 3)
                yield Case(f"{name}, selected", args, {"selected": chosen} | sinks, rule)
                yield Case(f"{name}, window alone", args | {"pooled": None}, sinks, rule, rows=("q",))
    batch = make.batch(MIXED, 8)
    every_one = torch.arange(20, dtype=torch.int32).repeat(batch.num_tokens, 1)
    args = _pooled(make, batch, 2, 3, 16, 4)
    yield Case("all selected, unseen ones too", args, {"selected": every_one}, Tolerance(80, 3))


def _pooled(make: Make, batch: Batch, every: int, h: int, d: int, window: int) -> Args:
    entries = make.normal(longest(batch) // every + 1, batch.num_sequences, d)
    return {
        "q": make.normal(batch.num_tokens, h, d),
        "pages": make.pages(batch, make.normal(longest(batch), batch.num_sequences, d)),
        "pooled": entry_pages(make, batch, every, entries),
        "batch": batch,
        "scale": d**-0.5,
        "window": window,
        "every": every,
    }


def _chosen(make: Make, batch: Batch, every: int, count: int) -> Tensor:
    """For each row up to `count` of the groups that end at or before it, ascending, then -1."""
    rows = torch.full((batch.num_tokens, count), -1)
    for row, position in enumerate(batch.positions.tolist()):
        seen = torch.randperm((position + 1) // every, generator=make.generator)[:count].sort().values
        rows[row, : len(seen)] = seen
    return rows.int()


def attend_selected(make: Make) -> Iterator[Case]:
    for label, chunks, size in _BATCHES:
        for every, count in ((2, 3), (4, 2), (8, 1)):
            for h, k, d, e in ((2, 2, 16, 16), (6, 2, 40, 24)):
                batch = make.batch(chunks, size)
                args = {
                    "q": make.normal(batch.num_tokens, h, d),
                    "k_pages": make.pages(batch, make.normal(longest(batch), batch.num_sequences, k, d)),
                    "v_pages": make.pages(batch, make.normal(longest(batch), batch.num_sequences, k, e)),
                    "batch": batch,
                    "scale": d**-0.5,
                    "selected": _chosen(make, batch, every, count),
                    "every": every,
                }
                name = f"{label}, {h}/{k} heads of {d}, {count} groups of {every}"
                yield Case(name, args, tolerance=Tolerance(d + 32, 3), rows=("q", "selected"))


def _scored(make: Make, batch: Batch, every: int) -> Args:
    # Few values, so that there are ties at the last place.
    keys = make.grid(longest(batch) // every + 1, batch.num_sequences, 16, step=0.5, top=0.5)
    args = {"q": make.grid(batch.num_tokens, 3, 16), "weights": make.grid(batch.num_tokens, 3, dtype=_F32)}
    return args | {"k_pages": entry_pages(make, batch, every, keys), "batch": batch}


def select_entries(make: Make) -> Iterator[Case]:
    """`select` over pooled entries, and inside given blocks."""
    for label, chunks, size in _BATCHES:
        for every, top_k in ((1, 5), (2, 3), (8, 2)):
            batch = make.batch(chunks, size)
            args = _scored(make, batch, every) | {"top_k": top_k}
            name = f"{label}, best {top_k}, every {every}"
            yield Case(name, args, {"every": every}, rows=("q", "weights"))
            blocks = _chosen(make, batch, 3 * every, 2)
            yield Case(f"{name}, within blocks", args, {"every": every, "within": blocks, "block": 3})


def select_blocks(make: Make) -> Iterator[Case]:
    for label, chunks, size in _BATCHES:
        for every in (1, 2):
            for block, top_k in ((2, 3), (3, 1), (8, 9)):
                batch = make.batch(chunks, size)
                args = _scored(make, batch, every) | {"top_k": top_k, "every": every, "block": block}
                yield Case(f"{label}, best {top_k} blocks of {block}, every {every}", args, rows=("q", "weights"))
