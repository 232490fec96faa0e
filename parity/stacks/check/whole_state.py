"""Cases of whole numbers for the ops that read or leave state."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...core.batch import Batch
from . import pooled
from .case import DECODES, MIXED, Args, Case, Chunks, longest
from .whole_make import GATES, HUGE, Whole, quarters

_BITS, _AHEAD = 6, 64.0
_BALANCED: Chunks = ((0, 1), (1, 1), (3, 1), (7, 1), (15, 1), (0, 2))
"""Sequences whose rows attend to a power of two of entries."""


def rope_write(make: Whole) -> Iterator[Case]:
    for h, k, d, width, offset in ((4, 2, 32, 32, 0), (2, 2, 24, 16, 8)):
        for interleaved in (False, True):
            batch = make.batch(MIXED, 16)
            args: Args = {"q": make.grid(batch.num_tokens, h, d), "k": make.grid(batch.num_tokens, k, d)}
            args |= {"v": make.grid(batch.num_tokens, k, d), "angles": quarters(make, batch.num_tokens, width)}
            args |= {name: _kept(make, batch, k, d, written=False) for name in ("k_pages", "v_pages")} | {"batch": batch}
            options = {"interleaved": interleaved, "offset": offset}
            yield Case(f"{width} of {d}, {options}", args, options, state=("k_pages", "v_pages"))


def norm_rope_write(make: Whole) -> Iterator[Case]:
    for h, k, d in ((4, 2, 64), (2, 1, 8)):
        for zero_centred in (False, True):
            batch = make.batch(MIXED, 16)
            args: Args = {"q": make.even(batch.num_tokens, h, d), "k": make.even(batch.num_tokens, k, d)}
            args |= {"v": make.grid(batch.num_tokens, k, d), "q_weight": make.grid(d), "k_weight": make.grid(d)}
            args |= {"eps": 1e-30, "zero_centred": zero_centred, "angles": quarters(make, batch.num_tokens, d)}
            args |= {name: _kept(make, batch, k, d, written=False) for name in ("k_pages", "v_pages")} | {"batch": batch}
            yield Case(f"{h}/{k} heads of {d}{', zero-centred' * zero_centred}", args, state=("k_pages", "v_pages"))


# Attention: keys are the bits of their entry's number, and queries those of the entry that they look for


def _kept(make: Whole, batch: Batch, *shape: int, every: int = 1, written: bool = True) -> Tensor:
    return make.pages(batch, make.grid(longest(batch), batch.num_sequences, *shape), written=written, every=every)


def _signed_bits(numbers: Tensor) -> Tensor:
    return (numbers[..., None] >> torch.arange(_BITS) & 1).float() * 2 - 1


def _keys(make: Whole, batch: Batch, *shape: int, every: int = 1, flag: float = 1.0) -> Tensor:
    """Pages of keys [..., D]: six bits, a flag, and numbers that no query looks at."""
    values = make.grid(longest(batch), batch.num_sequences, *shape)
    bits = _signed_bits(torch.arange(longest(batch)))
    values[..., :_BITS] = bits.reshape(-1, 1, *[1] * (len(shape) - 1), _BITS)
    values[..., _BITS] = flag
    return make.pages(batch, values, every=every)


def _queries(targets: Tensor, heads: int, size: int, flag: float = 1.0) -> Tensor:
    """[T, heads, size]: far ahead at the entry looked for."""
    q = torch.zeros(len(targets), heads, size)
    q[..., :_BITS] = _signed_bits(targets.long())[:, None] * _AHEAD
    q[..., _BITS] = flag * 4 * _AHEAD
    return q


def attend(make: Whole) -> Iterator[Case]:
    for h, k, d, e in ((4, 2, 32, 32), (3, 1, 24, 40)):
        batch = make.batch(_BALANCED, 16)
        args: Args = {"q": torch.zeros(batch.num_tokens, h, d), "k_pages": _kept(make, batch, k, d)}
        args |= {"v_pages": _kept(make, batch, k, e), "batch": batch, "scale": 0.125}
        yield Case(f"{h}/{k} heads of {d}, equal scores", args)
        for label, chunks in (("mixed", MIXED), ("decodes", DECODES)):
            batch = make.batch(chunks, 8)
            args = {"q": _queries(batch.positions // 2, h, d), "k_pages": _keys(make, batch, k, d)}
            args |= {"v_pages": _kept(make, batch, k, e), "batch": batch, "scale": 1.0}
            yield Case(f"{label}, {h}/{k} heads of {d}, one ahead", args)
            yield Case(f"{label}, {h}/{k} heads of {d}, sinks behind", args, {"sinks": torch.full((h,), -1e4)})
            yield Case(f"{label}, {h}/{k} heads of {d}, sinks ahead", args, {"sinks": torch.full((h,), 1e4)})
            own = args | {"q": _queries(batch.positions, h, d)}
            yield Case(f"{label}, {h}/{k} heads of {d}, window", own, {"window": 4})


def attend_latent(make: Whole) -> Iterator[Case]:
    for h, wide, r in ((2, 32, 8), (5, 64, 16)):
        batch = make.batch(MIXED, 16)
        args: Args = {"q": _queries(batch.positions // 2, h, wide), "q_rope": _queries(batch.positions // 2, h, r)}
        args |= {"latent_pages": _keys(make, batch, wide), "rope_pages": _keys(make, batch, r), "batch": batch, "scale": 0.5}
        yield Case(f"{h} heads, {wide} + {r}", args)
        seen = torch.stack([batch.positions // 2, batch.positions, torch.full_like(batch.positions, -1)], dim=1).int()
        seen[:, 1][seen[:, 0] == seen[:, 1]] = -1
        yield Case(f"{h} heads, {wide} + {r}, selected", args | {"selected": seen})


def attend_selected(make: Whole) -> Iterator[Case]:
    for every, h, k, d in ((4, 4, 2, 32), (2, 3, 1, 24)):
        batch = make.batch(MIXED, 16)
        args: Args = {"q": _queries(batch.positions, h, d), "k_pages": _keys(make, batch, k, d)}
        args |= {"v_pages": _kept(make, batch, k, d), "batch": batch, "scale": 1.0}
        yield Case(
            f"{h}/{k} heads, groups of {every}", args | {"selected": pooled.groups(make, batch, 5, every), "every": every}
        )


def attend_pooled(make: Whole) -> Iterator[Case]:
    for every, window, h, d in ((4, 8, 4, 32), (2, 1, 3, 24)):
        batch = make.batch(MIXED, 16)
        args: Args = {"q": _queries(batch.positions, h, d), "pages": _keys(make, batch, d)}
        args |= {"pooled": _keys(make, batch, d, every=every, flag=-1.0), "batch": batch}
        args |= {"scale": 1.0, "window": window, "every": every}
        yield Case(f"{h} heads, the window ahead", args, {"sinks": torch.full((h,), -1e4)})
        newest = (batch.positions + 1) // every - 1
        rows = tuple(int(row) for row in torch.nonzero(newest >= 0)[:, 0])
        group = args | {"q": _queries(newest.clamp(min=0), h, d, flag=-1.0)}
        yield Case(f"{h} heads, a group ahead", group, judged=rows)
        yield Case(f"{h} heads, selected", group, {"selected": pooled.groups(make, batch, 5, every)}, judged=rows)


def pool(make: Whole) -> Iterator[Case]:
    for every, channels in ((4, 16), (8, 8)):
        for kind in ("mean", "gates", "overlapping"):
            overlap = kind == "overlapping"
            wide = 2 * channels if overlap else channels
            batch = make.batch(MIXED, 16)
            gates = None if kind == "mean" else torch.zeros(batch.num_tokens, wide)
            tail = make.slots(batch, every * (2 if overlap else 1), wide if gates is None else 2 * wide)
            bias = None if kind == "mean" else make.one_hot(512.0, wide, every).T.contiguous()
            if gates is not None:
                tail[..., wide:] *= 0  # what belongs to nobody stays NaN
            args: Args = {"values": make.grid(batch.num_tokens, wide), "gates": gates, "bias": bias, "tail": tail}
            judged = tuple(row for row, p in enumerate(batch.positions.tolist()) if (p + 1) % every == 0)
            if overlap and bias is not None:  # one ahead in each half would tie with the other's
                args["bias"] = bias[:, :channels].repeat(1, 2) + torch.arange(2).repeat_interleave(channels) * 256.0
            options = {"overlap": True} if overlap else {}
            yield Case(
                f"{channels} by {every}, {kind}",
                args | {"batch": batch, "every": every},
                options,
                state=("tail",),
                judged=judged,
            )


def causal_conv(make: Whole) -> Iterator[Case]:
    for label, chunks in (("mixed", MIXED), ("decodes", DECODES)):
        batch = make.batch(chunks, 16)
        args: Args = {"x": make.grid(batch.num_tokens, 24), "weight": make.grid(24, 4), "state": make.slots(batch, 24, 3)}
        yield Case(label, args | {"batch": batch}, {"bias": make.grid(24), "activation": None}, state=("state",))
        far: Args = {"x": make.one_of(GATES, batch.num_tokens, 24), "weight": make.one_hot(1.0, 24, 4)}
        far |= {"state": make.slots(batch, 24, 3) * 1024, "batch": batch}
        yield Case(f"{label}, silu", far, {"activation": "silu"}, state=("state",))


def gated_delta(make: Whole) -> Iterator[Case]:
    for hk, hv, d, e, per_channel in ((2, 2, 16, 8, False), (1, 4, 16, 24, True)):
        batch = make.batch(MIXED, 16)
        t = batch.num_tokens
        args: Args = {"q": make.one_of((-HUGE, HUGE), t, hk, d), "k": make.one_hot(HUGE, t, hk, d), "v": make.grid(t, hv, e)}
        args |= {
            "decay": make.one_of((0.0, -4096.0), t, hv, *((d,) if per_channel else ())),
            "beta": make.one_of((1.0, 0.5), t, hv),
        }
        args |= {"state": make.slots(batch, hv, d, e, dtype=torch.float32), "batch": batch, "scale": 0.5}
        yield Case(f"{hv} heads, {'channels' * per_channel}", args, state=("state",))
