"""From measurements to findings. Thresholds are data (`gates.json`), fixed before B is seen.

Passing needs evidence: a gate passes when the hypothesis that it should not is rejected, fails when the opposite one is,
and is otherwise inconclusive. Both families of hypotheses are held at `family_error` over the whole report (Holm).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..core.errors import FormatError
from .packs.container import canonical_json
from .statistics.bounds import Resampled, prompts_needed, rate_upper
from .statistics.decisions import holm

Outcome = Literal["identical", "pass", "precision", "inconclusive", "fail", "uncovered"]
GateKind = Literal["equal", "upper", "band", "most", "none", "explained", "uniform"]


class Gate(msgspec.Struct, frozen=True):
    """One question of one level.

    Kinds: `equal` no difference; `none` no event; `explained` no event but those with a stated excuse; `most` the largest
    value is below `pass`; `upper` the statistic is below `pass`; `band` it is between `low` and `pass`; `uniform` a test
    of equal distributions is not rejected.
    """

    name: str
    level: int
    kind: GateKind
    says: str
    min_prompts: int = 1
    pass_: float = msgspec.field(name="pass", default=0.0)
    tight: float | None = None
    low: float | None = None


class Rules(msgspec.Struct, frozen=True):
    """All thresholds. `bands` are near-tie margins in nats by dtype, `layer_bands` relative errors of one operation."""

    family_error: float
    bands: dict[str, float]
    layer_bands: dict[str, float]
    gates: tuple[Gate, ...]

    @property
    def hash(self) -> str:
        """SHA-256 of the contents."""
        return hashlib.sha256(canonical_json(msgspec.to_builtins(self))).hexdigest()

    def band(self, dtype: str | None) -> float:
        """The near-tie margin that this precision excuses."""
        return self.bands.get(dtype or "unknown", self.bands["unknown"])

    def layer_band(self, dtype: str | None) -> float:
        """The relative error of one operation that this precision excuses."""
        return self.layer_bands.get(dtype or "unknown", self.layer_bands["unknown"])


_OURS = Path(__file__).with_name("gates.json")


def load_rules(path: Path = _OURS) -> Rules:
    """The thresholds from a file.

    Raises:
        FormatError: it cannot be read, or is not one.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Rules)
    except (OSError, msgspec.DecodeError) as error:
        raise FormatError(f"cannot read the gates in {path}: {error}") from None


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """What was seen for one gate.

    Args:
        gate: its name.
        num_prompts: prompts that it rests on; 0 when not covered, and `why` says why.
        statistic: a resampled statistic (`upper`, `band`).
        value: the largest value (`most`) or the p-value (`uniform`).
        events: what happened, a line each (`equal`, `none`, `explained`): those without an excuse.
        excused: how many events the precision of the sides excuses.
        near_ties: how many events A's own noise excuses.
        rounded: how many events A's own rounding excuses, as measured on A alone.
        identical: whether the two sides' bits are equal in all that the gate looks at.
        text: what else a reader should know.
    """

    gate: str
    num_prompts: int = 0
    why: str = ""
    statistic: Resampled | None = None
    value: float | None = None
    events: tuple[str, ...] = ()
    excused: int = 0
    near_ties: int = 0
    rounded: int = 0
    identical: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A gate's outcome, ready to be reported. `bound` is one-sided at 99 %; `needed` is a number of prompts."""

    gate: str
    level: int
    says: str
    outcome: Outcome
    num_prompts: int = 0
    estimate: float | None = None
    bound: float | None = None
    threshold: float | None = None
    tight: bool = False
    text: str = ""
    events: tuple[str, ...] = ()
    needed: int | None = None
    p_values: Mapping[str, float] = field(default_factory=dict)


def decide(measurements: Sequence[Measurement], rules: Rules) -> list[Finding]:
    """The findings, in the order of the gates."""
    gates = {gate.name: gate for gate in rules.gates}
    covered = {m.gate: m for m in measurements if _why_uncovered(m, gates[m.gate]) is None}
    passing = {name: p for name, m in covered.items() if (p := _p_pass(m, gates[name])) is not None}
    failing = {name: p for name, m in covered.items() if (p := _p_fail(m, gates[name])) is not None}
    passed, failed = holm(passing, rules.family_error), holm(failing, rules.family_error)
    order = {gate.name: place for place, gate in enumerate(rules.gates)}
    return [
        _finding(m, gates[m.gate], m.gate in passed, m.gate in failed, rules)
        for m in sorted(measurements, key=lambda m: order[m.gate])
    ]


def _why_uncovered(m: Measurement, gate: Gate) -> str | None:
    if m.num_prompts == 0:
        return m.why or "nothing to compare"
    if m.num_prompts < gate.min_prompts and not m.events:
        return f"needs {gate.min_prompts} prompts and the suite has {m.num_prompts} of this kind"
    return None


def _p_pass(m: Measurement, gate: Gate) -> float | None:
    if m.statistic is None:
        return None
    above = m.statistic.p_not_below(gate.pass_)
    return above if gate.low is None else max(above, m.statistic.p_not_above(gate.low))


def _p_fail(m: Measurement, gate: Gate) -> float | None:
    if gate.kind == "uniform":
        return m.value
    if m.statistic is None:
        return None
    below = m.statistic.p_not_above(gate.pass_)
    return below if gate.low is None else min(1.0, 2 * min(below, m.statistic.p_not_below(gate.low)))


def _finding(m: Measurement, gate: Gate, passed: bool, failed: bool, rules: Rules) -> Finding:
    why = _why_uncovered(m, gate)
    if why is not None:
        return Finding(gate.name, gate.level, gate.says, "uncovered", m.num_prompts, text=why)
    if m.statistic is not None:
        return _statistical(m, gate, m.statistic, passed, failed, rules)
    if gate.kind == "uniform":
        outcome: Outcome = "fail" if failed else "pass"
        text = m.text or "a test that sees gross changes only"
        return Finding(gate.name, gate.level, gate.says, outcome, m.num_prompts, m.value, text=text)
    if gate.kind == "most":
        value = math.inf if m.value is None else m.value
        outcome = "identical" if m.identical else "pass" if value <= gate.pass_ else "fail"
        tight = gate.tight is not None and value <= gate.tight
        return Finding(
            gate.name, gate.level, gate.says, outcome, m.num_prompts, value, None, gate.pass_, tight, m.text, m.events
        )
    return _counted(m, gate)


def _statistical(m: Measurement, gate: Gate, seen: Resampled, passed: bool, failed: bool, rules: Rules) -> Finding:
    outcome: Outcome = "fail" if failed else "pass" if passed else "inconclusive"
    upper, lower = seen.upper(1 - rules.family_error), seen.lower(1 - rules.family_error)
    near_low = gate.low is not None and seen.estimate - gate.low < gate.pass_ - seen.estimate
    edge, bound = (gate.low or 0.0, lower) if near_low else (gate.pass_, upper)
    gap = abs(edge - seen.estimate)
    needed = prompts_needed(abs(bound - seen.estimate), gap, m.num_prompts) if outcome == "inconclusive" else None
    p_values = {"not below": seen.p_not_below(gate.pass_), "not above": seen.p_not_above(gate.pass_)}
    return Finding(
        gate.name,
        gate.level,
        gate.says,
        "identical" if m.identical and outcome == "pass" else outcome,
        m.num_prompts,
        seen.estimate,
        bound,
        edge,
        gate.tight is not None and upper <= gate.tight,
        m.text,
        m.events,
        needed,
        p_values,
    )


def _counted(m: Measurement, gate: Gate) -> Finding:
    outcome: Outcome = "fail" if m.events else "precision" if m.excused else "identical" if m.identical else "pass"
    parts = [m.text] if m.text else []
    if m.near_ties:
        parts.append(f"{m.near_ties} explained by A's own noise")
    if m.rounded:
        parts.append(f"{m.rounded} explained by A's own rounding, measured against itself in float32")
    if m.excused:
        parts.append(f"{m.excused} explained by the precision of the sides")
    count = len(m.events)
    # Equal files, bits and operations are facts; events are a sample of what could happen.
    sampled = gate.kind == "explained"
    bound = rate_upper(min(count, m.num_prompts), m.num_prompts, 0.99) if sampled else None
    if not count and bound is not None:
        parts.append(f"with 99 % confidence fewer than {100 * bound:.3g} % of such prompts")
    text = "; ".join(parts)
    return Finding(
        gate.name, gate.level, gate.says, outcome, m.num_prompts, float(count), bound, 0.0, not count, text, m.events
    )


def as_json(rules: Rules) -> Any:
    """The thresholds as plain values, for the report."""
    return msgspec.to_builtins(rules)
