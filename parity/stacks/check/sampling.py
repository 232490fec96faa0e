"""Cases of the choice of a token. The numbers are such that no rounding decides: ties are exact, the rest is well apart."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .case import Case, Make

_ROWS = ("logits", "temperature", "top_k", "top_p", "min_p", "uniform")


def arguments(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
) -> dict[str, object]:
    def column(value: float | Tensor, dtype: torch.dtype) -> Tensor:
        return value if isinstance(value, Tensor) else torch.full((len(logits),), value, dtype=dtype)

    return {
        "logits": logits,
        "temperature": column(temperature, torch.float32),
        "top_k": column(top_k, torch.int32),
        "top_p": column(top_p, torch.float32),
        "min_p": column(min_p, torch.float32),
        "uniform": uniform,
    }


def sample(make: Make) -> Iterator[Case]:
    for rows, size in ((1, 7), (5, 50), (6, 1031), (2, 20_000)):
        logits = make.normal(rows, size, dtype=torch.float32, std=2.0)
        uniform = (make.integers(0, 8, rows).float() + 0.5) / 8
        tops = torch.tensor([1, 2, 5, 20, size + 9, 0], dtype=torch.int32)[:rows]
        for label, options in {
            "greedy": {"temperature": 0.0},
            "all": {},
            "hot": {"temperature": 2.5},
            "top-k": {"top_k": tops},
            "top-p": {"top_p": 0.7},
            "min-p": {"min_p": 0.13},
            "all three": {"top_k": 20, "top_p": 0.85, "min_p": 0.07, "temperature": 0.8},
            "mixed rows": {"temperature": torch.tensor([0.0, 1.0, 0.5, 0.0, 1.3, 2.0])[:rows], "top_k": tops},
        }.items():
            args = arguments(logits, uniform, **options)  # type: ignore[arg-type]  # a float or a tensor each
            yield Case(f"{label}, {rows} x {size}", args, rows=_ROWS)
        masked = logits.masked_fill(make.uniform(rows, size) < 0.6, -torch.inf)
        masked[:, -1] = 1.0
        yield Case(f"masked, {rows} x {size}", arguments(masked, uniform, top_p=0.9), rows=_ROWS)
        only = torch.full_like(logits, -torch.inf)
        only[:, size // 2] = -30.0
        yield Case(f"only one allowed, {rows} x {size}", arguments(only, uniform, top_k=3, top_p=0.5), rows=_ROWS)
    yield from _ties(make)


def _ties(make: Make) -> Iterator[Case]:
    four = make.integers(0, 4, 3, 40).float()
    uniform = torch.tensor([0.1, 0.55, 0.97])
    yield Case("ties, greedy", arguments(four, uniform, temperature=0.0), rows=_ROWS)
    yield Case("ties at the last of top-k", arguments(four, uniform, top_k=torch.tensor([3, 7, 17]).int()), rows=_ROWS)
    yield Case("ties at the last of top-p", arguments(four, uniform, top_p=torch.tensor([0.11, 0.52, 0.93])), rows=_ROWS)
    equal = torch.zeros(2, 33)
    yield Case("all equal, greedy", arguments(equal, uniform[:2], temperature=0.0), rows=_ROWS)
    yield Case("all equal, top-k", arguments(equal, uniform[:2], top_k=10), rows=_ROWS)
    signed = equal.clone()
    signed[:, ::2] = -0.0
    yield Case("zeros of both signs, greedy", arguments(signed, uniform[:2], temperature=0.0), rows=_ROWS)
    yield Case("zeros of both signs, top-k", arguments(signed, uniform[:2], top_k=10), rows=_ROWS)
    poisoned = make.normal(3, 40, dtype=torch.float32)
    poisoned[1] = torch.nan
    yield Case("a row of NaN", arguments(poisoned, uniform))
    poisoned[1] = -torch.inf
    yield Case("a row with nothing allowed", arguments(poisoned, uniform))
    for label, bad in (("a NaN", torch.nan), ("an infinity", torch.inf)):
        for at in (0, 17, 39):
            poisoned = make.normal(3, 40, dtype=torch.float32)
            poisoned[1, at] = bad
            yield Case(f"{label} at {at}", arguments(poisoned, uniform))
            yield Case(f"{label} at {at}, greedy", arguments(poisoned, uniform, temperature=0.0))
    edges = torch.tensor([0.0, 0.999, 0.5])
    yield Case("the ends of the range", arguments(make.normal(3, 40, dtype=torch.float32), edges), rows=_ROWS)
