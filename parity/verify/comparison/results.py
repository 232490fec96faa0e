"""The numbers that the levels judge: a few for each position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..record import Answer, Int32s, Path
from ..statistics.divergence import Float64s, Top

Where = Path | str
ANSWER = "answer"
"""Names the distributions along the greedy answer, up to where the answers part."""


@dataclass(frozen=True, slots=True)
class Change:
    """A position where the two sides' most likely tokens differ. `margin` is A's, in nats; None where A shows none."""

    prompt: str
    path: Where
    position: int
    token_a: int
    token_b: int
    margin: float | None


def worst_path(kl: Mapping[Where, Float64s]) -> float | None:
    """The mean KL of the path that is furthest apart."""
    return max((float(values.mean()) for values in kl.values() if len(values)), default=None)


@dataclass(frozen=True, slots=True, eq=False)
class Forced:
    """The two sides along given tokens, in one precision.

    Args:
        at, kl: by path, the positions and the coarse KL(A || B) there.
        within_b: by path, the KL of B against itself: one-shot against that path.
        distance: mean squared distance of the centred logits, from the sketches.
        identical: whether all that both sides show is bit-equal.
    """

    at: dict[Where, Int32s]
    kl: dict[Where, Float64s]
    within_b: dict[Path, Float64s]
    distance: float | None
    identical: bool

    @property
    def worst_path_kl(self) -> float | None:
        """The mean KL of the path that is furthest apart."""
        return worst_path(self.kl)


@dataclass(frozen=True, slots=True, eq=False)
class PromptResult:
    """What was seen on one prompt.

    Args:
        tokens_equal: None where a side does not show its ids.
        counts: prompt tokens counted by A and by B.
        at, kl: by path, the positions and the coarse KL(A || B) there.
        within_a, within_b: by path, the KL of a side against itself: one-shot against that path.
        distance: mean squared distance of the centred logits, from the sketches.
        noise: |change in log-probability| of A's head against itself on other paths.
        rounding: the same against itself in float32, on the same paths; empty where A serves in float32.
        float32: both sides in float32; None where one of them shows nothing in it.
        identical: whether all that both sides show is bit-equal.
        flips: the positions that changed.
        oracle: mean KL(R || A) and KL(R || B).
        answers: A's and B's.
        fork: where the greedy answers part; None if they do not, or cannot be compared.
        equal_answers: None where one of them is missing.
        samples: A's and B's; `first` is A's distribution of the first token.
    """

    id: str
    tokens_equal: bool | None
    counts: tuple[int | None, int | None]
    at: dict[Where, Int32s] = field(default_factory=dict)
    kl: dict[Where, Float64s] = field(default_factory=dict)
    within_a: dict[Path, Float64s] = field(default_factory=dict)
    within_b: dict[Path, Float64s] = field(default_factory=dict)
    distance: float | None = None
    noise: Float64s = field(default_factory=lambda: np.zeros(0))
    rounding: Float64s = field(default_factory=lambda: np.zeros(0))
    float32: Forced | None = None
    identical: bool = True
    flips: tuple[Change, ...] = ()
    oracle: tuple[float, float] | None = None
    answers: tuple[Answer | None, Answer | None] = (None, None)
    fork: Change | None = None
    equal_answers: bool | None = None
    samples: tuple[Int32s | None, Int32s | None] = (None, None)
    first: Top | None = None

    @property
    def worst_path_kl(self) -> float | None:
        """The mean KL of the path that is furthest apart."""
        return worst_path(self.kl)


def flat(results: list[PromptResult]) -> tuple[Float64s, npt.NDArray[np.int64]]:
    """All positions' KL, each position's largest over its paths, and the prompt that each belongs to."""
    values, owners = [np.zeros(0)], [np.zeros(0, np.int64)]
    for index, result in enumerate(result for result in results if result.kl):
        joined = np.concatenate(list(result.kl.values()))
        values.append(joined)
        owners.append(np.full(len(joined), index))
    return np.concatenate(values), np.concatenate(owners)
