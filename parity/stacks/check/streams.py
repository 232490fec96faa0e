"""Cases of the ops over several residual streams, and of the windows of tokens that hashed memories look at."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...core.weights import Packed
from .case import DECODES, MIXED, PROMPT, Args, Case, Make
from .tolerance import Tolerance
from .weights import by_rows, one, weights

_F32 = torch.float32
_SHAPES = ((1, 4, 32), (7, 4, 65), (3, 2, 16))


def spread(make: Make) -> Iterator[Case]:
    for t, n, d in (*_SHAPES, (0, 2, 8)):
        args = {"x": make.normal(t, d), "count": n}
        yield Case(f"{t} x {n} x {d}", args, equal=True, rows=("x",))
        weighted = args | {"weights": make.uniform(t, n)}
        yield Case(f"{t} x {n} x {d}, weighted", weighted, rows=("x", "weights"))
    yield Case("strided", {"x": make.strided(make.normal(3, 4, 16))[:, 1], "count": 2}, equal=True)


def hyper_weights(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        streams = make.normal(t, n, d)
        for rows, parts in ((n * (2 + n), 3), (n, 1)):
            args: Args = {"streams": streams, "fn": make.normal(rows, n * d, dtype=_F32, std=(n * d) ** -0.5)}
            args_ = args | {"base": make.normal(rows, dtype=_F32), "scale": make.uniform(parts) + 0.5}
            args_ |= {"norm_eps": 1e-6, "eps": 1e-6, "iterations": 20}
            yield Case(f"{t} x {n} x {d}, {rows} rows", args_, tolerance=Tolerance(n * d, 1), rows=("streams",), result=_F32)
    once = args_ | {"iterations": 1}
    yield Case("one iteration", once, tolerance=Tolerance(64, 1), rows=("streams",), result=_F32)


def hyper_read(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        args = {"streams": make.normal(t, n, d), "pre": make.uniform(t, n)}
        yield Case(f"{t} x {n} x {d}", args, tolerance=Tolerance(n, 1), rows=("streams", "pre"))


def hyper_write(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        args = {"streams": make.normal(t, n, d), "y": make.normal(t, d), "post": make.uniform(t, n) * 2}
        rows, rule = ("streams", "y", "post", "comb"), Tolerance(n + 1, 1)
        yield Case(f"{t} x {n} x {d}", args | {"comb": make.uniform(t, n, n)}, tolerance=rule, rows=rows)
        yield Case(f"{t} x {n} x {d}, not mixed", args | {"comb": None}, tolerance=rule, rows=rows[:3])


def stream_norm(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        args = {"streams": make.normal(t, n, d), "weight": make.normal(n, d, dtype=_F32), "eps": 1e-6}
        yield Case(f"{t} x {n} x {d}", args, tolerance=Tolerance(d, 2), rows=("streams",))
        options = {"zero_centred": True}
        yield Case(f"{t} x {n} x {d}, zero-centred", args, options, Tolerance(d, 2), rows=("streams",))


def activate(make: Make) -> Iterator[Case]:
    for kind in ("silu", "sigmoid"):
        for shape in ((1, 1), (5, 96), (3, 2, 33)):
            args = {"x": make.normal(*shape, std=4.0), "kind": kind}
            yield Case(f"{kind}, {shape}", args, tolerance=Tolerance(16, 1), rows=("x",))
            yield Case(f"{kind}, {shape}, scaled", args, {"scale": 0.25}, Tolerance(16, 1), rows=("x",))
            yield Case(f"{kind}, {shape}, doubled", args, {"scale": 0.25, "factor": 2.0}, Tolerance(16, 1), rows=("x",))
        extreme = torch.tensor([[-300.0, -60.0, 0.0, 60.0, 300.0]]).to(make.dtype)
        yield Case(f"{kind}, extremes", {"x": extreme, "kind": kind}, tolerance=Tolerance(16, 1))


def gated_mean(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        args = {"streams": make.normal(t, n, d), "gates": make.normal(t, n, d, std=3.0)}
        yield Case(f"{t} x {n} x {d}", args, tolerance=Tolerance(16 * n, 1), rows=("streams", "gates"))


def stream_gate(make: Make) -> Iterator[Case]:
    for t, n, d in _SHAPES:
        # The root steepens an error near zero: grid values sum exactly.
        args = {"queries": make.grid(t, n, d), "keys": make.grid(t, n, d)}
        yield Case(f"{t} x {n} x {d}", args, tolerance=Tolerance(d, 1), rows=("queries", "keys"), result=_F32)
    zeros = args | {"keys": torch.zeros_like(args["keys"])}
    yield Case("zeros", zeros, tolerance=Tolerance(16, 1), result=_F32)


def mix(make: Make) -> Iterator[Case]:
    for t, n, d in (*_SHAPES, (2, 1, 8), (5, 9, 64)):
        args: Args = {"values": tuple(make.normal(t, d) for _ in range(n)), "norm": make.normal(d, dtype=_F32)}
        args |= {"proj": make.normal(1, d, dtype=_F32, std=d**-0.5), "eps": 1e-6}
        # A score's error moves all weights, and so the sum by as much.
        yield Case(f"{n} of {t} x {d}", args, tolerance=Tolerance(64 * d, 2), rows=("values",))


def token_windows(make: Make) -> Iterator[Case]:
    for label, chunks in (("mixed", MIXED), ("decodes", DECODES), ("a prompt", PROMPT)):
        for width in (2, 4):
            batch = make.batch(chunks, 16)
            history = make.integers(1, 50, batch.num_sequences + 3, width - 1)
            history[batch.slots.long()[batch.lengths == batch.starts.diff()]] = 0
            args = {"tokens": batch.tokens, "history": history, "batch": batch}
            yield Case(f"{label}, {width} tokens", args, equal=True, rows=("tokens",), state=("history",))
            ids = {"ids": make.integers(0, 40, 50)}
            yield Case(f"{label}, {width} tokens by class", args, ids, equal=True, rows=("tokens",), state=("history",))


def hash_windows(make: Make) -> Iterator[Case]:
    for t, width, heads in ((1, 2, 1), (9, 4, 2), (5, 3, 8)):
        windows = make.integers(-1, 50, t, width, dtype=torch.int64)
        constants = {
            "multipliers": make.integers(0, 1 << 40, width, dtype=torch.int64) * 2 + 1,
            "primes": make.integers(50, 90, width - 1, heads, dtype=torch.int64),
            "offsets": make.integers(0, 1000, width - 1, heads, dtype=torch.int64),
        }
        for stop in (None, 7):
            windows[-1, 1:] = 7
            windows[0, 0] = 7  # a token does not hide itself
            args: Args = {"windows": windows.clone(), **constants, "fill": 3}
            options: Args = {} if stop is None else {"stop": stop}
            yield Case(f"{t} x {width}, {heads} heads, stop {stop}", args, options, equal=True, rows=("windows",))


def gather(make: Make) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for num_rows, part_rows, d in ((20, 20, 16), (37, 10, 33)):
            yield _gathered(make, make.normal(num_rows, d, dtype=dtype).split(part_rows), part_rows, str(dtype))
    for label, weight in weights(make, 21, 256):
        if by_rows(label.split()[0]):
            yield _gathered(make, (weight,), 21, label)
    # As FP8 tables are released: a power of two for 32 columns, or one number for all parts.
    if "fp8_block" in make.formats:
        powers = one(make, "fp8_block", 21, 96, {"block_rows": 1, "block_columns": 32, "e8m0": 1})
        yield _gathered(make, (powers,), 21, "FP8 with powers of two")
        for d, dtype in ((160, torch.bfloat16), (256, torch.float32)):
            whole = one(make, "fp8_block", 24, d, {"block_rows": 24, "block_columns": d})
            assert isinstance(whole, Packed)
            parts = tuple(_part(whole, start, start + 9, dtype) for start in range(0, 24, 9))
            yield _gathered(make, parts, 9, f"FP8 with one scale, {dtype}")


def _part(table: Packed, start: int, stop: int, scale: torch.dtype) -> Packed:
    """Rows of an FP8 table with one scale, of another dtype."""
    data = table.arrays["data"].view(torch.uint8)[start:stop].view(torch.float8_e4m3fn)
    meta = {"block_rows": len(data), "block_columns": data.shape[1]}
    return Packed("fp8_block", tuple(data.shape), {"data": data, "scale": table.arrays["scale"].to(scale)}, meta)


def _gathered(make: Make, parts: tuple[Tensor | Packed, ...], part_rows: int, kind: str) -> Case:
    num_rows = sum(part.shape[0] for part in parts)
    args: Args = {"rows": make.integers(0, num_rows, 7, 3, dtype=torch.int64), "parts": parts}
    args |= {"part_rows": part_rows, "dtype": make.dtype}
    return Case(f"{num_rows} rows of {parts[0].shape[1]} by {part_rows}, {kind}", args, rows=("rows",), as_read=("parts",))
