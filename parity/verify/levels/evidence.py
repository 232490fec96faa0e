"""What the levels may look at, and what explains a change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ..comparison import Change, PromptResult
from ..gates import Rules
from ..packs import Pack
from ..record import Answer
from ..statistics.bounds import bootstrap_mean, quantile_upper
from ..suites import Item

MAX_EVENTS = 50


@dataclass(frozen=True)
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

    @cached_property
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

    @cached_property
    def rounding_band(self) -> float:
        """The margin up to which A's own rounding explains a change: twice the 99.9 % quantile of what it does to A's
        log-probabilities, from A alone. It counts only once both sides were shown to compute the same in float32; else a
        wrong computation could pass for a coarse one."""
        rounding = np.concatenate([np.zeros(0), *(result.rounding for result in self.results)])
        bound = quantile_upper(rounding, 0.999, 0.95) if len(rounding) and self._same_in_float32 else 0.0
        return 2 * (bound if np.isfinite(bound) else float(rounding.max()))

    @property
    def _same_in_float32(self) -> bool:
        """Whether level 3 holds, at an error that is its share of the report's even if all gates are decided together."""
        kl = {gate.name: gate.pass_ for gate in self.rules.gates}
        seen = [result.float32 for result in self.results if result.float32 is not None]
        means = [mean for forced in seen if (mean := forced.worst_path_kl) is not None]
        worst = max((float(v.max()) for forced in seen for v in forced.kl.values() if len(v)), default=np.inf)
        if len(means) < 2 or not worst <= kl["float32_worst"]:
            return False
        p = bootstrap_mean(np.array(means), seed=self.seed).p_not_below(kl["float32_kl"])
        return p <= self.rules.family_error / len(self.rules.gates)


Excuse = Literal["noise", "rounding", "precision"]


def excuse(evidence: Evidence, change: Change) -> Excuse | None:
    """What explains a change: what A's noise or A's rounding was seen to do, or what its precision may do, or nothing."""
    if change.margin is None:
        return None
    if change.margin <= evidence.noise_band:
        return "noise"
    if change.margin <= evidence.rounding_band:
        return "rounding"
    return "precision" if change.margin <= evidence.precision_band else None


@dataclass(frozen=True, slots=True)
class Explained:
    """Changes, sorted: those unexplained as lines, and how many each excuse covers."""

    events: tuple[str, ...]
    near_ties: int
    rounded: int
    excused: int


def explain(evidence: Evidence, changes: Sequence[Change]) -> Explained:
    """Sorts changes by what explains them."""
    excuses = [excuse(evidence, change) for change in changes]
    lines = [_line(change) for change, excuse in zip(changes, excuses, strict=True) if excuse is None]
    more = [f"and {len(lines) - MAX_EVENTS} more"] if len(lines) > MAX_EVENTS else []
    counts = (excuses.count("noise"), excuses.count("rounding"), excuses.count("precision"))
    return Explained(tuple(lines[:MAX_EVENTS] + more), *counts)


def _line(change: Change) -> str:
    margin = "of unknown margin" if change.margin is None else f"margin {change.margin:.3g} nats"
    where = f"{change.prompt}, {change.path} position {change.position}"
    return f"{where}: token {change.token_a} became {change.token_b}, {margin}"


def both_answers(result: PromptResult) -> tuple[Answer, Answer]:
    one, two = result.answers
    assert one is not None
    assert two is not None
    return one, two
