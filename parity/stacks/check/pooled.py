"""Cases of the ops over pooled entries, one for each group of tokens, and over selections of groups."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...core.batch import Batch
from .case import DECODES, MIXED, PROMPT, Args, Case, Chunks, Make, longest
from .tolerance import Tolerance

_F32 = torch.float32
_BATCHES: tuple[tuple[str, Chunks], ...] = (("mixed", MIXED), ("decodes", DECODES), ("a prompt", PROMPT))
_PAGE = 16


def _kept(make: Make, batch: Batch, *shape: int, every: int = 1, written: bool = True) -> Tensor:
    values = make.normal(longest(batch), batch.num_sequences, *shape)
    return make.pages(batch, values, written=written, every=every)


def select_blocks(make: Make) -> Iterator[Case]:
    for label, chunks in _BATCHES:
        for every, block, top_k in ((1, 4, 3), (2, 2, 5), (4, 2, 64)):
            batch = make.batch(chunks, _PAGE)
            keys = make.grid(longest(batch), batch.num_sequences, 16, step=0.5, top=0.5)
            args = {"q": make.grid(batch.num_tokens, 2, 16), "weights": make.grid(batch.num_tokens, 2, dtype=_F32)}
            args_ = args | {"k_pages": make.pages(batch, keys, every=every), "batch": batch}
            args_ |= {"top_k": top_k, "every": every, "block": block}
            yield Case(f"{label}, best {top_k} of blocks of {block} x {every}", args_, rows=("q", "weights"))


def groups(make: Make, batch: Batch, count: int, every: int, early: bool = False) -> Tensor:
    """For each row up to `count` of the groups that end at or before it, the newest among them, -1 here and there.

    With `early` the first of the places left names the group that is still open, if the row has one.
    """
    rows = []
    for position in batch.positions.tolist():
        complete = (position + 1) // every
        row = torch.full((count,), -1)
        if complete:
            others = torch.randperm(complete - 1, generator=make.generator)[: count - 2]
            seen = torch.cat([others, others.new_tensor([complete - 1])])
            row[torch.randperm(count, generator=make.generator)[: len(seen)]] = seen
        if early and (position + 1) % every:
            row[(row < 0).nonzero()[0]] = complete
        rows.append(row)
    return torch.stack(rows).int()


def attend_selected(make: Make) -> Iterator[Case]:
    for label, chunks in _BATCHES:
        for every, h, k, d, e in ((4, 4, 2, 32, 32), (2, 3, 1, 24, 40), (8, 8, 1, 64, 64)):
            batch = make.batch(chunks, _PAGE)
            args: Args = {"q": make.normal(batch.num_tokens, h, d), "k_pages": _kept(make, batch, k, d)}
            args |= {"v_pages": _kept(make, batch, k, e), "batch": batch, "scale": d**-0.5}
            args |= {"selected": groups(make, batch, 5, every), "every": every}
            rule = Tolerance(d + longest(batch), 3)
            yield Case(f"{label}, {h}/{k} heads of {d}, groups of {every}", args, tolerance=rule, rows=("q", "selected"))


def pool(make: Make) -> Iterator[Case]:
    for label, chunks in _BATCHES:
        for every, channels in ((4, 16), (2, 33), (8, 8)):
            for kind in ("mean", "gates", "gates and bias", "overlapping"):
                overlap = kind == "overlapping"
                wide = 2 * channels if overlap else channels
                batch = make.batch(chunks, _PAGE)
                gates = None if kind == "mean" else make.normal(batch.num_tokens, wide)
                bias = make.normal(every, wide, dtype=_F32) if kind in ("gates and bias", "overlapping") else None
                kept = wide if gates is None else 2 * wide
                tail = make.slots(batch, every * (2 if overlap else 1), kept)
                args: Args = {"values": make.normal(batch.num_tokens, wide), "gates": gates, "bias": bias, "tail": tail}
                args |= {"batch": batch, "every": every}
                judged = tuple(row for row, p in enumerate(batch.positions.tolist()) if (p + 1) % every == 0)
                options = {"overlap": True} if overlap else {}
                name = f"{label}, {channels} channels by {every}, {kind}"
                yield Case(name, args, options, Tolerance(2 * every, 1), state=("tail",), judged=judged)


def write_pooled(make: Make) -> Iterator[Case]:
    for label, chunks in _BATCHES:
        for every in (1, 2, 4, 16):
            for shape in ((2, 16), (33,)):
                batch = make.batch(chunks, _PAGE)
                args: Args = {"pages": _kept(make, batch, *shape, every=every, written=False)}
                args |= {"values": make.normal(batch.num_tokens, *shape), "batch": batch, "every": every}
                yield Case(f"{label}, {shape} every {every}", args, equal=True, state=("pages",))


def attend_pooled(make: Make) -> Iterator[Case]:
    for label, chunks in _BATCHES:
        for every, window, h, d in ((4, 8, 4, 32), (2, 1, 3, 24), (8, 128, 2, 64)):
            batch = make.batch(chunks, _PAGE)
            args: Args = {"q": make.normal(batch.num_tokens, h, d), "pages": _kept(make, batch, d)}
            args |= {"pooled": _kept(make, batch, d, every=every), "batch": batch, "scale": d**-0.5}
            args |= {"window": window, "every": every}
            rule, name = Tolerance(d + longest(batch), 3), f"{label}, {h} heads of {d}, window {window}, every {every}"
            yield Case(name, args, tolerance=rule, rows=("q",))
            sinks = {"sinks": make.normal(h, dtype=_F32, std=2.0)}
            yield Case(f"{name}, sinks", args, sinks, rule, rows=("q",))
            options = sinks | {"selected": groups(make, batch, 5, every)}
            yield Case(f"{name}, selected, sinks", args, options, rule)
            options = {"selected": groups(make, batch, 5, every, early=True)}
            yield Case(f"{name}, selected, the open group among them", args, options, rule)
            yield Case(f"{name}, the window alone", args | {"pooled": None}, tolerance=rule, rows=("q",))
