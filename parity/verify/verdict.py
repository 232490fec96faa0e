"""One word for all findings, and the exit code that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .gates import Finding

Word = Literal["IDENTICAL", "EQUIVALENT", "WITHIN PRECISION", "DIFFERENT", "INCONCLUSIVE"]
EXIT_CODES: dict[Word, int] = {"IDENTICAL": 0, "EQUIVALENT": 0, "WITHIN PRECISION": 0, "DIFFERENT": 1, "INCONCLUSIVE": 3}
_OF_B_ALONE = frozenset({"float32_paths", "paths"})
_MANY = 1000
"""More prompts than this are no advice."""

_MEANING: dict[Word, str] = {
    "IDENTICAL": "The same model: every compared bit is equal.",
    "EQUIVALENT": "The same model: every gate that was reached passed; what differs is within the sides' own noise.",
    "WITHIN PRECISION": "The same model in another precision: the sides differ as their number formats do, and in no other way "
    "that was found.",
    "DIFFERENT": "Not the same model, or not the same computation: at least one gate failed.",
    "INCONCLUSIVE": "Nothing failed, and there is not enough evidence to say more.",
}
_CAUTION = (
    "It speaks of these prompts, these paths and this software; it does not say that either side is right, "
    "nor anything about what was not covered."
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer. `cause` names what decided it; `needs` what would decide it; `caution` what it does not mean."""

    word: Word
    meaning: str
    cause: str
    needs: str
    caution: str = _CAUTION

    @property
    def exit_code(self) -> int:
        """0 the same, 1 different, 3 undecided."""
        return EXIT_CODES[self.word]


def judge(findings: Sequence[Finding]) -> Verdict:
    """The verdict over all findings."""
    covered = [finding for finding in findings if finding.outcome != "uncovered"]
    failed = [finding for finding in covered if finding.outcome == "fail"]
    if failed:
        return Verdict("DIFFERENT", _MEANING["DIFFERENT"], _cause(failed, findings), "")
    open_ones = [finding for finding in covered if finding.outcome == "inconclusive"]
    if open_ones:
        return Verdict("INCONCLUSIVE", _MEANING["INCONCLUSIVE"], _say(open_ones[0]), _needs(open_ones))
    if not any(finding.level in (2, 3, 4, 5) for finding in covered):
        return Verdict("INCONCLUSIVE", _MEANING["INCONCLUSIVE"], "no output of the model was compared", "run levels 2 to 5")
    if not any(finding.level in (3, 4) for finding in covered):
        needs = "log-probabilities from both sides"
        return Verdict("INCONCLUSIVE", _MEANING["INCONCLUSIVE"], "distributions could not be compared, only texts", needs)
    between = [f for f in covered if f.level in (2, 3, 4, 5) and f.gate not in _OF_B_ALONE]
    if any(finding.outcome == "precision" for finding in covered):
        word: Word = "WITHIN PRECISION"
    elif all(finding.outcome == "identical" for finding in between):
        word = "IDENTICAL"
    else:
        word = "EQUIVALENT"
    return Verdict(word, _MEANING[word], "", "")


def _say(finding: Finding) -> str:
    first = f": {finding.events[0]}" if finding.events else ""
    numbers = ""
    if finding.threshold is not None and finding.estimate is not None and not finding.events:
        numbers = f" ({finding.estimate:.3g}, and {finding.threshold:.3g} is the limit)"
    return f"level {finding.level}, {finding.says}{numbers}{first}"


def _cause(failed: Sequence[Finding], findings: Sequence[Finding]) -> str:
    place = next((f.events[0] for f in findings if f.gate == "layers" and f.events), None)
    first = min(failed, key=lambda finding: finding.level)
    return _say(first) + (f"; first operation out of its band: {place}" if place and first.gate != "layers" else "")


def _needs(open_ones: Sequence[Finding]) -> str:
    wanted = [finding.needed for finding in open_ones if finding.needed]
    if not wanted:
        return "more prompts, or a side that shows more"
    if max(wanted) <= _MANY:
        return f"about {max(wanted)} prompts"
    return (
        f"about {max(wanted):,} prompts, since what was found lies at its limit; sooner by comparing both sides in one "
        "precision, or by a pack of the other side in place of its endpoint"
    )
