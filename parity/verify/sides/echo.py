"""Reads a prompt's log-probabilities that a server echoes, once it is known which of its rows belongs to which token.

The rule is that row i of the lists is what led to token i. A server may instead show what came after it, and then every number
looks like another model's. So some positions are asked for once more, as the first token generated after a shorter prompt, and
the lists are read as they agree with that, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ..record import Int32s
from .http import EndpointError
from .replies import Row, Words, field, logprob, named, ordered

Lag = Literal[0, 1]
"""By how many tokens the lists run behind the rule."""

_FITS = 0.1
"""Nats that two computations of one distribution may differ by, on average over its likely tokens."""
_NUM_PROBES = 3


def probe_places(count: int) -> list[int]:
    """Positions of a prompt of `count` tokens that have a row whatever the lag.

    Raises:
        EndpointError: the prompt is too short.
    """
    if count < 4:
        raise EndpointError("the prompt is too short to check which token an echoed row belongs to")
    return sorted({int(place) for place in np.linspace(1, count - 2, _NUM_PROBES).round()})


def find_lag(logprobs: Any, ids: Int32s, generated: Mapping[int, Row], words: Words | None) -> Lag:
    """How the lists lie over the tokens.

    Args:
        logprobs: the echo of a prompt.
        ids: the prompt.
        generated: by position, the likely tokens there, as generated after the prompt up to it.
        words: the model's vocabulary.

    Raises:
        EndpointError: the lists agree with what was generated in neither way, or in both.
    """
    gaps = [_gap(echoed(logprobs, ids, words, lag), generated) for lag in (0, 1)]
    fits = [lag for lag in (0, 1) if gaps[lag] <= _FITS]
    if len(fits) != 1:
        how = "in both readings" if fits else "in neither reading"
        raise EndpointError(
            f"the echoed log-probabilities agree {how} with those of generated tokens ({gaps[0]:.3g} nats apart as they "
            f"should stand, {gaps[1]:.3g} shifted by one token), so they are not judged"
        )
    return 1 if fits[0] else 0


def _gap(rows: tuple[Int32s, Sequence[Row]], generated: Mapping[int, Row]) -> float:
    """The mean difference over the tokens that both show; infinite where they show none in common."""
    shown = dict(zip(rows[0].tolist(), map(dict, rows[1]), strict=True))
    gaps = []
    for place, row in generated.items():
        found = [abs(value - shown[place][token]) for token, value in row if token in shown.get(place, {})]
        # One token in common may be chance: a row that shows several must share half of them.
        if len(found) < max(1, min(len(row), len(shown.get(place, {}))) // 2):
            return np.inf
        gaps += found
    return float(np.mean(gaps)) if gaps else np.inf


def echoed(logprobs: Any, ids: Int32s, words: Words | None, lag: Lag = 0) -> tuple[Int32s, list[Row]]:
    """The positions and the likely tokens there, from the `echo` spelling of completions: parallel lists over the prompt.

    Shifted lists say of each token how likely it is to come twice, which is of no use: only their likely tokens are read.
    """
    values, tops = field(logprobs, "token_logprobs"), field(logprobs, "top_logprobs")
    if not isinstance(values, list) or len(values) < len(ids):
        raise EndpointError("the endpoint did not echo the prompt's log-probabilities")
    widths = [_width(field(tops, place), values[place]) for place in range(len(ids))]
    rows = [named(field(tops, place), words, whole=widths[place] >= max(widths)) for place in range(len(ids))]
    if lag:
        at = np.arange(1, len(ids), dtype=np.int32)
        return at, [_likely(rows[place], int(ids[place])) for place in at]
    found = []
    for place in range(1, len(ids)):
        # Likely tokens that cannot be told by name leave a position unread; where none are listed the prompt's own is all.
        own = [(int(ids[place]), logprob(values[place]))] if rows[place] or not field(tops, place) else []
        found.append(ordered([*own, *rows[place]]))
    return np.arange(len(found), dtype=np.int32), found


def _width(listed: Any, own: Any) -> int:
    """How many likely tokens are listed, without the prompt's own where it stands in the list only for being that."""
    values = list(listed.values()) if isinstance(listed, dict) else []
    return len(values) - (own in values and own == min(values, key=_number))


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) else 0.0


def _likely(row: Row, token: int) -> Row:
    """A shifted row without the prompt's own token, which stands in it likely or not, unless it is among the likely ones."""
    others = [value for other, value in row if other != token]
    return ordered([(other, value) for other, value in row if other != token or (others and value >= min(others))])
