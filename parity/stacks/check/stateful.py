"""Cases of the ops that read or leave state: pages, slots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ...core.batch import Batch
from ..paged import stored
from .case import DECODES, MIXED, PROMPT, Args, Case, Chunks, Make, longest
from .dense import angles
from .tolerance import Tolerance

_F32 = torch.float32
_BATCHES: tuple[tuple[str, Chunks, int], ...] = (
    ("mixed, pages of 8", MIXED, 8),
    ("mixed, pages of 16", MIXED, 16),
    ("decodes, pages of 16", DECODES, 16),
    ("a prompt, pages of 64", PROMPT, 64),
    ("one token, pages of 1", ((0, 1),), 1),
)
_LONG: Chunks = ((700, 1), (129, 3), (0, 2))


def _other(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else torch.bfloat16


def _kept(make: Make, batch: Batch, *shape: int, dtype: torch.dtype | None = None, written: bool = True) -> Tensor:
    values = make.normal(longest(batch), batch.num_sequences, *shape, dtype=dtype)
    return make.pages(batch, values, written=written)


def write(make: Make) -> Iterator[Case]:
    for label, chunks, size in _BATCHES:
        for shape in ((2, 16), (33,), (1, 1)):
            batch = make.batch(chunks, size)
            args = {"pages": _kept(make, batch, *shape, written=False), "values": make.normal(batch.num_tokens, *shape)}
            args_ = args | {"batch": batch}
            yield Case(f"{label}, {shape}", args_, equal=True, rows=("values",), state=("pages",))
    batch = make.batch(MIXED, 16)
    pages = _kept(make, batch, 2, 16, written=False)
    strided = {"pages": pages, "values": make.strided(make.normal(batch.num_tokens, 2, 16)), "batch": batch}
    yield Case("strided", strided, equal=True, state=("pages",))
    pages = _kept(make, batch, 2, 16, dtype=_other(make.dtype), written=False)
    converted = {"pages": pages, "values": make.normal(batch.num_tokens, 2, 16), "batch": batch}
    yield Case("pages of another dtype", converted, state=("pages",))
    for shape in ((2, 16), (33,)) if make.int8_pages else ():
        pages, values = stored(_kept(make, batch, *shape, written=False), torch.int8), make.normal(batch.num_tokens, *shape)
        values[3] = 0.0
        yield Case(f"pages of int8, {shape}", {"pages": pages, "values": values, "batch": batch}, equal=True, state=("pages",))


def rope_write(make: Make) -> Iterator[Case]:
    shapes = ((2, 2, 16, 16, 16, 0), (4, 1, 64, 64, 64, 0), (7, 1, 32, 24, 16, 0), (2, 2, 24, 24, 16, 8))
    for label, chunks, size in _BATCHES:
        for h, k, d, e, width, offset in shapes:
            for interleaved in (False, True):
                batch = make.batch(chunks, size)
                args = _rotated(make, batch, h, k, d, e, width)
                options = {"interleaved": interleaved, "offset": offset}
                rows, state = ("q", "k", "v", "angles"), ("k_pages", "v_pages")
                name = f"{label}, {h}/{k} heads of {d}, {width} from {offset}{', interleaved' * interleaved}"
                yield Case(name, args, options, Tolerance(2, 1), rows=rows, state=state)
    batch = make.batch(MIXED, 16)
    args = _rotated(make, batch, 4, 2, 32, 32, 32)
    joined = torch.cat([args[name] for name in ("q", "k", "v")], dim=1)
    args |= dict(zip(("q", "k", "v"), torch.split(joined, [4, 2, 2], dim=1), strict=True))
    yield Case("cut out of one product", args, tolerance=Tolerance(2, 1), state=("k_pages", "v_pages"))
    gated = make.normal(batch.num_tokens, 4, 2, 32)
    yield Case("beside a gate", args | {"q": gated[:, :, 0]}, tolerance=Tolerance(2, 1), state=("k_pages", "v_pages"))
    pages = {name: _kept(make, batch, 2, 32, dtype=_other(make.dtype), written=False) for name in ("k_pages", "v_pages")}
    # The rotated key is rounded to the compute dtype and then to the pages' own.
    args = {name: value for name, value in args.items() if name != "batch"} | pages | {"batch": batch}
    yield Case("pages of another dtype", args, tolerance=Tolerance(2, 2), state=("k_pages", "v_pages"))
    if make.int8_pages:
        pages = {name: stored(_kept(make, batch, 2, 32, written=False), torch.int8) for name in ("k_pages", "v_pages")}
        yield Case("pages of int8", args | pages, tolerance=Tolerance(2, 2), state=("k_pages", "v_pages"))


def norm_rope_write(make: Make) -> Iterator[Case]:
    state = ("k_pages", "v_pages")
    for label, chunks, size in _BATCHES:
        for h, k, d, e, width, zero_centred in ((4, 2, 64, 64, 64, False), (7, 1, 24, 32, 16, True)):
            batch = make.batch(chunks, size)
            args = _normed(make, _rotated(make, batch, h, k, d, e, width), zero_centred=zero_centred)
            name = f"{label}, {h}/{k} heads of {d}, {width} turned{', zero-centred' * zero_centred}"
            yield Case(name, args, tolerance=Tolerance(d, 3), rows=("q", "k", "v", "angles"), state=state)
    batch = make.batch(MIXED, 16)
    args = _rotated(make, batch, 4, 2, 32, 32, 32)
    gated = make.normal(batch.num_tokens, 4, 2, 32)
    yield Case("beside a gate", _normed(make, args | {"q": gated[:, :, 0]}), tolerance=Tolerance(32, 3), state=state)
    pages = {name: _kept(make, batch, 2, 32, dtype=_other(make.dtype), written=False) for name in state}
    yield Case("pages of another dtype", _normed(make, args | pages), tolerance=Tolerance(32, 4), state=state)
    if make.int8_pages:
        pages = {name: stored(_kept(make, batch, 2, 32, written=False), torch.int8) for name in state}
        yield Case("pages of int8", _normed(make, args | pages), tolerance=Tolerance(32, 4), state=state)


def _normed(make: Make, args: Args, *, zero_centred: bool = False) -> Args:
    weights = {f"{name}_weight": make.normal(args["q"].shape[-1], dtype=_F32) for name in ("q", "k")}
    norm = weights | {"eps": 1e-6, "zero_centred": zero_centred}
    return {name: args[name] for name in ("q", "k", "v")} | norm | {name: args[name] for name in list(args)[3:]}


def _rotated(make: Make, batch: Batch, h: int, k: int, d: int, e: int, width: int) -> Args:
    t = batch.num_tokens
    return {
        "q": make.normal(t, h, d),
        "k": make.normal(t, k, d),
        "v": make.normal(t, k, e),
        "angles": angles(make, batch.positions, width),
        "k_pages": _kept(make, batch, k, d, written=False),
        "v_pages": _kept(make, batch, k, e, written=False),
        "batch": batch,
    }


def _attended(make: Make, batch: Batch, h: int, k: int, d: int, e: int, pages: torch.dtype | None = None) -> Args:
    return {
        "q": make.normal(batch.num_tokens, h, d),
        "k_pages": _kept(make, batch, k, d, dtype=pages),
        "v_pages": _kept(make, batch, k, e, dtype=pages),
        "batch": batch,
        "scale": d**-0.5,
    }


def attend(make: Make) -> Iterator[Case]:
    shapes = ((2, 2, 16, 16), (14, 2, 64, 64), (8, 1, 128, 128), (3, 1, 24, 40), (6, 2, 80, 80))
    for label, chunks, size in (*_BATCHES, ("long, pages of 16", _LONG, 16)):
        for h, k, d, e in shapes[: 2 if "long" in label else None]:
            batch = make.batch(chunks, size)
            rule = Tolerance(d + longest(batch), 3)
            name = f"{label}, {h}/{k} heads of {d}"
            yield Case(name, _attended(make, batch, h, k, d, e), tolerance=rule, rows=("q",))
        for window in (1, 4, 8, 1000):
            options: Args = {"window": window}
            yield Case(f"{label}, window {window}", _attended(make, batch, 4, 2, 32, 32), options, rule, rows=("q",))
        options = {"window": 5, "sinks": make.normal(4, dtype=_F32, std=2.0)}
        yield Case(f"{label}, window and sinks", _attended(make, batch, 4, 2, 32, 32), options, rule, rows=("q",))
        options = {"sinks": make.normal(4, dtype=_F32, std=2.0)}
        yield Case(f"{label}, sinks", _attended(make, batch, 4, 2, 32, 32), options, rule, rows=("q",))
    batch = make.batch(MIXED, 16)
    rule = Tolerance(32 + longest(batch), 3)
    args = _attended(make, batch, 4, 2, 32, 32)
    yield Case("strided", args | {"q": make.normal(batch.num_tokens, 4, 2, 32)[:, :, 1]}, tolerance=rule)
    yield Case("pages of another dtype", _attended(make, batch, 4, 2, 32, 32, _other(make.dtype)), tolerance=rule)
    for h, k, d, e in ((4, 2, 32, 32), (3, 1, 24, 40)) if make.int8_pages else ():
        kept = _attended(make, batch, h, k, d, e)
        kept |= {name: stored(kept[name], torch.int8) for name in ("k_pages", "v_pages")}
        yield Case(f"pages of int8, {h}/{k} heads of {d}", kept, tolerance=Tolerance(d + longest(batch), 3), rows=("q",))
    yield Case("large heads", _attended(make, make.batch(DECODES, 16), 2, 1, 256, 256), tolerance=Tolerance(300, 3))
    # Scores in the hundreds: one entry takes all, and exp overflows unless the largest is taken off.
    q = make.grid(batch.num_tokens, 4, 32, step=2.0, top=16.0)
    yield Case("large scores", args | {"q": q, "scale": 1.0}, tolerance=Tolerance(4096, 3))


def attend_latent(make: Make) -> Iterator[Case]:
    for label, chunks, size in (*_BATCHES, ("long, pages of 16", _LONG, 16)):
        for h, wide, r in ((2, 32, 8), (5, 64, 16), (16, 512, 64))[: 2 if "long" in label else None]:
            batch = make.batch(chunks, size)
            rule = Tolerance(wide + r + longest(batch), 3)
            name = f"{label}, {h} heads, {wide} + {r}"
            args = _latent(make, batch, h, wide, r)
            yield Case(name, args, tolerance=rule, rows=("q", "q_rope"))
            if wide < 512:
                selected = _selection(make, batch, 9)
                cut = args | {"selected": selected}
                yield Case(f"{name}, selected", cut, tolerance=rule, rows=("q", "q_rope", "selected"))
    batch = make.batch(MIXED, 16)
    args = _latent(make, batch, 3, 32, 16)
    both = make.normal(batch.num_tokens, 3, 48)
    rule = Tolerance(48 + longest(batch), 3)
    yield Case("strided", args | {"q": both[..., :32], "q_rope": both[..., 32:]}, tolerance=rule)
    every = torch.arange(64, dtype=torch.int32).repeat(batch.num_tokens, 1)
    yield Case("all selected, unseen ones too", args | {"selected": every}, tolerance=rule)
    for dtype in (_other(make.dtype), *((torch.int8,) if make.int8_pages else ())):
        kept = {name: stored(args[name], dtype) for name in ("latent_pages", "rope_pages")}
        for label, options in (("", {}), (", selected", {"selected": _selection(make, batch, 9)})):
            yield Case(f"pages of {dtype}{label}", args | kept | options, tolerance=rule, rows=("q", "q_rope", *options))


def _latent(make: Make, batch: Batch, h: int, wide: int, r: int) -> Args:
    return {
        "q": make.normal(batch.num_tokens, h, wide),
        "q_rope": make.normal(batch.num_tokens, h, r),
        "latent_pages": _kept(make, batch, wide),
        "rope_pages": _kept(make, batch, r),
        "batch": batch,
        "scale": (wide + r) ** -0.5,
    }


def _selection(make: Make, batch: Batch, count: int) -> Tensor:
    """For each row up to `count` entries that it may see, its own among them, with -1 here and there."""
    rows = []
    for position in batch.positions.tolist():
        seen = torch.randperm(position + 1, generator=make.generator)[:count]
        seen[0] = position
        row = torch.full((count,), -1)
        row[torch.randperm(count, generator=make.generator)[: len(seen)]] = seen
        rows.append(row)
    return torch.stack(rows).int() if rows else torch.zeros(0, count, dtype=torch.int32)


def select(make: Make) -> Iterator[Case]:
    args_: Args
    for label, chunks, size in (*_BATCHES, ("long, pages of 16", _LONG, 16)):
        for h, d in ((1, 16), (4, 64)):
            for top_k in (1, 8, 64):
                batch = make.batch(chunks, size)
                # Few values, so that there are ties at the last place.
                keys = make.grid(longest(batch), batch.num_sequences, d, step=0.5, top=0.5)
                args = {"q": make.grid(batch.num_tokens, h, d), "weights": make.grid(batch.num_tokens, h, dtype=_F32)}
                args_ = {**args, "k_pages": make.pages(batch, keys), "batch": batch, "top_k": top_k}
                yield Case(f"{label}, {h} heads of {d}, best {top_k}", args_, rows=("q", "weights"))
    for every in (2, 4):
        batch = make.batch(_LONG, 16)
        keys = make.grid(longest(batch), batch.num_sequences, 16, step=0.5, top=0.5)
        args_ = {"q": make.grid(batch.num_tokens, 2, 16), "weights": make.grid(batch.num_tokens, 2, dtype=_F32)}
        args_ |= {"k_pages": make.pages(batch, keys, every=every), "batch": batch, "top_k": 12}
        yield Case(f"an entry every {every} tokens", args_, {"every": every}, rows=("q", "weights"))
        within = torch.stack([torch.randperm(40, generator=make.generator)[:5] for _ in range(batch.num_tokens)]).int()
        within[:, 2] = -1
        options = {"every": every, "within": within, "block": 4}
        yield Case(f"an entry every {every} tokens, within blocks", args_, options)
    batch, top_k = make.batch(MIXED, 16), 5
    args = {"q": make.grid(batch.num_tokens, h, d), "weights": make.grid(batch.num_tokens, h, dtype=_F32)}
    keys = make.grid(longest(batch), batch.num_sequences, d, step=0.5, top=0.5)
    args_ = {**args, "k_pages": make.pages(batch, keys), "batch": batch, "top_k": top_k}
    zeros = args_ | {"weights": torch.zeros_like(args["weights"])}
    yield Case("all equal", zeros, rows=("q", "weights"))
    yield Case("no weights", args_ | {"weights": None}, rows=("q",))
    zeros["weights"] = -make.grid(batch.num_tokens, h, dtype=_F32).abs()
    yield Case("zeros of both signs", zeros, rows=("q", "weights"))


def causal_conv(make: Make) -> Iterator[Case]:
    for label, chunks, size in _BATCHES:
        for c, width in ((8, 4), (33, 4), (16, 2), (5, 3)):
            batch = make.batch(chunks, size)
            args = {"x": make.normal(batch.num_tokens, c), "weight": make.normal(c, width)}
            args_ = args | {"state": make.slots(batch, c, width - 1), "batch": batch}
            rule = Tolerance(16 * width, 1)
            yield Case(f"{label}, {c} x {width}", args_, tolerance=rule, rows=("x",), state=("state",))
            options = {"bias": make.normal(c), "activation": None}
            yield Case(f"{label}, {c} x {width}, bias only", args_, options, rule, rows=("x",), state=("state",))
    batch = make.batch(MIXED, 16)
    args = {"x": make.normal(batch.num_tokens, 48)[:, 8:40], "weight": make.normal(32, 4, dtype=_F32)}
    # The state holds earlier inputs, so its numbers are of their dtype.
    args_ = args | {"state": make.slots(batch, 32, 3).float(), "batch": batch}
    yield Case("strided, float32 state and weight", args_, tolerance=Tolerance(64, 1), state=("state",))


def gated_delta(make: Make) -> Iterator[Case]:
    shapes = ((2, 4, 16, 16), (1, 1, 32, 16), (1, 2, 24, 40))
    long: Chunks = ((0, 150), (70, 65), (64, 1), (5, 64))
    for label, chunks, size in (*_BATCHES, ("long chunks", long, 16)):
        for by_channel in (False, True):
            for hk, hv, d, e in shapes[: 1 if "long" in label else None]:
                args = _recurrent(make, make.batch(chunks, size), hk, hv, d, e, by_channel)
                name = f"{label}, {hk}/{hv} heads {d} x {e}{', decay by channel' * by_channel}"
                yield _delta_case(name, args)
    batch = make.batch(((0, 20), (9, 1)), 16)
    yield _delta_case("heads of 128", _recurrent(make, batch, 1, 1, 128, 128, False))
    batch = make.batch(MIXED, 16)
    args = _recurrent(make, batch, 2, 4, 16, 16, True)
    strong = args["decay"] * 40
    # What is left is k . q times v, and k . q cancels: the error is larger against the result's own size.
    forgotten = Tolerance(1 << 16, 4)
    yield replace(_delta_case("all but forgotten", args | {"decay": strong}), tolerance=forgotten)
    joined = make.normal(batch.num_tokens, 8, 16)
    q, k, v = torch.split(joined, [2, 2, 4], dim=1)
    yield _delta_case("cut out of one product", args | {"q": q, "k": k, "v": v})


def _delta_case(name: str, args: Args) -> Case:
    # Kernels may compute a chunk as products of matrices in the compute dtype.
    rows = ("q", "k", "v", "decay", "beta")
    return Case(name, args, tolerance=Tolerance(1024, 4), rows=rows, state=("state",))


def _recurrent(make: Make, batch: Batch, hk: int, hv: int, d: int, e: int, by_channel: bool) -> Args:
    t = batch.num_tokens
    return {
        "q": make.normal(t, hk, d),
        "k": make.normal(t, hk, d),
        "v": make.normal(t, hv, e),
        "decay": -make.uniform(*((t, hv, d) if by_channel else (t, hv))) * 1.5,
        "beta": make.uniform(t, hv),
        "state": make.slots(batch, hv, d, e, dtype=_F32),
        "batch": batch,
        "scale": d**-0.5,
    }
