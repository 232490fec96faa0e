"""Two greedy answers: where they part, and the distributions up to there."""

from __future__ import annotations

import numpy as np

from ..record import Answer
from ..statistics.divergence import Top, margins
from .results import ANSWER, Change


def fork_of(prompt: str, a: Answer | None, b: Answer | None) -> tuple[Change | None, bool | None]:
    """Where two greedy answers part, and whether they are equal."""
    if a is None or b is None or a.error or b.error:
        return None, None
    if a.tokens is None or b.tokens is None:
        return None, a.text == b.text
    if a.tokens == b.tokens or _same_but_for_the_end(a, b):
        return None, True
    place = common_prefix(a.tokens, b.tokens)
    token_a = a.tokens[place] if place < len(a.tokens) else -1
    token_b = b.tokens[place] if place < len(b.tokens) else -1
    margin = None
    if a.top is not None and token_b >= 0 and place < len(a.top):
        margin = float(margins(a.top[place : place + 1], np.array([token_b]))[0])
    return Change(prompt, ANSWER, place, token_a, token_b, margin), False


def _same_but_for_the_end(a: Answer, b: Answer) -> bool:
    """Both ended by themselves after the same tokens, and one side does not show the token that ends an answer."""
    assert a.tokens is not None
    assert b.tokens is not None
    longer, shorter = sorted((a.tokens, b.tokens), key=len, reverse=True)
    return a.finish == b.finish == "stop" and longer[:-1] == shorter


def common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many first tokens are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def along_answers(a: Answer | None, b: Answer | None) -> tuple[Top, Top] | None:
    """The distributions along the answers while their contexts are still the same, the fork included."""
    if a is None or b is None or a.tokens is None or b.tokens is None or a.top is None or b.top is None:
        return None
    count = min(common_prefix(a.tokens, b.tokens) + 1, len(a.top), len(b.top))
    return (a.top[:count], b.top[:count]) if count else None
