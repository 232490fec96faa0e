"""What the levels may look at, and what explains a change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..compare import Change, PromptResult
from ..gates import Rules
from ..pack import Pack
from ..record import Answer
from ..statistics.bounds import quantile_upper
from ..suites import Item

MAX_EVENTS = 50


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the levels may look at. `items` are the suite's, by id, where it is at hand."""

    a: Pack
    b: Pack
    results: Sequence[PromptResult]
    rules: Rules
    items: Mapping[str, Item]
    oracle: Pack | None = None

    @property
    def seed(self) -> int:
        """The seed of all resampling, fixed in A's plan."""
        return self.a.plan.seed

    @property
    def noise_band(self) -> float:
        """The margin up to which A's own noise explains a change: twice the 99.9 % quantile, from A alone."""
        noise = np.concatenate([np.zeros(1), *(result.noise for result in self.results)])
        bound = quantile_upper(noise, 0.999, 0.95)
        quantile = bound if np.isfinite(bound) else float(noise.max())
        return max(2 * quantile, self.rules.band("float32"))

    @property
    def precision_band(self) -> float:
        """The margin up to which the coarser of the two number formats explains a change."""
        return max(self.rules.band(self.a.identity.dtype), self.rules.band(self.b.identity.dtype))

    @property
    def both_float32(self) -> bool:
        """Whether both sides say that they compute in float32."""
        return self.a.identity.dtype == self.b.identity.dtype == "float32"


def excuse(evidence: Evidence, change: Change) -> str | None:
    """What explains a change: `noise`, `precision` or nothing."""
    if change.margin is None:
        return None
    if change.margin <= evidence.noise_band:
        return "noise"
    return "precision" if change.margin <= evidence.precision_band else None


def explain(evidence: Evidence, changes: Sequence[Change]) -> tuple[tuple[str, ...], int, int]:
    """Unexplained changes as lines, and how many are near-ties and how many the precision excuses."""
    excuses = [excuse(evidence, change) for change in changes]
    lines = [_line(change) for change, excuse in zip(changes, excuses, strict=True) if excuse is None]
    more = [f"and {len(lines) - MAX_EVENTS} more"] if len(lines) > MAX_EVENTS else []
    return tuple(lines[:MAX_EVENTS] + more), excuses.count("noise"), excuses.count("precision")


def _line(change: Change) -> str:
    margin = "of unknown margin" if change.margin is None else f"margin {change.margin:.3g} nats"
    where = f"{change.prompt}, {change.path} position {change.position}"
    return f"{where}: token {change.token_a} became {change.token_b}, {margin}"


def both_answers(result: PromptResult) -> tuple[Answer, Answer]:
    one, two = result.answers
    assert one is not None
    assert two is not None
    return one, two
