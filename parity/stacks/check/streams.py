"""Cases of the ops on several residual streams, and of token histories."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .case import DECODES, MIXED, PROMPT, Args, Case, Make
from .dense import ROUTINGS
from .tolerance import Tolerance

_F32 = torch.float32
_SHAPES = ((1, 2, 8), (7, 4, 33), (3, 3, 128))


def hyper_weights(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        for rows, scales in ((n * (2 + n), 3), (n, 1)):
            for iterations in (1, 2, 20)[: 3 if scales == 3 else 1]:
                fn = make.normal(rows, n * d, dtype=_F32, std=(n * d) ** -0.5)
                args: Args = {"streams": make.normal(t, n, d), "fn": fn, "base": make.normal(rows, dtype=_F32)}
                args |= {"scale": make.normal(scales, dtype=_F32), "norm_eps": 1e-6, "eps": 1e-3, "iterations": iterations}
                rule = Tolerance(16 * n * d * (1 + iterations), 1)
                yield Case(f"{t} x {n} x {d}, {rows} rows, {iterations}", args, tolerance=rule, rows=("streams",), result=_F32)


def hyper_read(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        args = {"streams": make.normal(t, n, d), "pre": make.uniform(t, n)}
        yield Case(f"{t} x {n} x {d}", args, tolerance=Tolerance(n, 1), rows=("streams", "pre"))


def hyper_write(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        args = {"streams": make.normal(t, n, d), "y": make.normal(t, d), "post": make.uniform(t, n)}
        for label, comb in (("mixed", make.uniform(t, n, n)), ("apart", None)):
            rows = ("streams", "y", "post", "comb")[: 4 if comb is not None else 3]
            yield Case(f"{t} x {n} x {d}, {label}", args | {"comb": comb}, tolerance=Tolerance(n + 1, 1), rows=rows)


def stream_norm(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        for zero in (False, True):
            args = {"streams": make.normal(t, n, d), "weight": make.normal(n, d, dtype=_F32), "eps": 1e-6}
            label = f"{t} x {n} x {d}{', zero-centred' * zero}"
            yield Case(label, args, {"zero_centred": zero}, Tolerance(d, 2), rows=("streams",))


def activate(make: Make) -> Iterator[Case]:
    for kind in ("silu", "sigmoid"):
        for scale in (1.0, 0.25):
            args = {"x": make.normal(5, 33, std=4.0), "kind": kind}
            yield Case(f"{kind} of {scale} x", args, {"scale": scale}, Tolerance(16, 1), rows=("x",))
        extreme = torch.tensor([[-300.0, -60.0, 0.0, 60.0, 300.0]]).to(make.dtype)
        yield Case(f"{kind}, extremes", {"x": extreme, "kind": kind}, tolerance=Tolerance(16, 1))


def gated_mean(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        args = {"streams": make.normal(t, n, d), "gates": make.normal(t, n, d, std=3.0)}
        yield Case(f"{t} x {n} x {d}", args, tolerance=Tolerance(16 * n, 1), rows=("streams", "gates"))


def stream_gate(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        # Exact sums: the root is steep at nothing.
        args = {"queries": make.grid(t, n, d, step=0.5), "keys": make.grid(t, n, d, step=0.5)}
        yield Case(f"{t} x {n} x {d}", args, tolerance=Tolerance(64, 1), rows=("queries", "keys"), result=_F32)
    args = {"queries": torch.zeros(2, 3, 8, dtype=make.dtype), "keys": make.normal(2, 3, 8)}
    yield Case("nothing", args, tolerance=Tolerance(16, 1), result=_F32)


def token_windows(make: Make) -> Iterator[Case]:
    for label, chunks in (("mixed", MIXED), ("decodes", DECODES), ("a prompt", PROMPT), ("new", ((0, 1), (0, 2)))):
        for width in (2, 4):
            batch = make.batch(chunks, 16)
            history = make.integers(1, 50, len(batch.slots) + 3, width - 1)
            for s, length in enumerate(batch.host_lengths):
                before = length - (batch.host_starts[s + 1] - batch.host_starts[s])
                history[batch.slots[s].long(), before:] = 0
            args = {"tokens": batch.tokens, "history": history, "batch": batch}
            yield Case(f"{label}, {width}", args, equal=True, rows=("tokens",), state=("history",))


def route_to(make: Make) -> Iterator[Case]:
    for label, routing in ROUTINGS.items():
        for t, e in ((1, 16), (7, 24)):
            chosen = torch.rand(t, e, generator=make.generator).argsort(-1)[:, : routing.top_k].int()
            args = {"logits": make.normal(t, e, std=3.0), "experts": chosen, "routing": routing}
            yield Case(f"{label}, {t} x {e}", args, tolerance=Tolerance(e, 1), rows=("logits", "experts"), result=_F32)
