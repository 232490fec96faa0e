"""Answered responses, kept for `previous_response_id`: the newest ones, within bounds of number and size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from ...core.chat import Message
from .responses_types import Item, ResponseOut

MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Stored:
    """A response, what its request gave, and the turns that led to it and ended in it. Its owner alone may go on from it."""

    owner: str
    response: ResponseOut
    given: str | Sequence[Item]
    turns: tuple[Message, ...]
    num_bytes: int = field(init=False)
    """Roughly what it takes: tools and instructions may be larger than what was said."""

    def __post_init__(self) -> None:
        whole = len(msgspec.json.encode((self.response, self.given)))
        object.__setattr__(self, "num_bytes", whole + sum(map(_size, self.turns)))


class Store:
    """Stored responses by id; the oldest are dropped."""

    def __init__(self, max_responses: int, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._stored: OrderedDict[str, Stored] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stored)

    def put(self, stored: Stored) -> None:
        """Keeps a response."""
        self._stored[stored.response.id] = stored
        self._num_bytes += stored.num_bytes
        while self._stored and (len(self._stored) > self._max_responses or self._num_bytes > self._max_bytes):
            _, oldest = self._stored.popitem(last=False)
            self._num_bytes -= oldest.num_bytes

    def get(self, response_id: str, owner: str) -> Stored | None:
        """A response, if it is there and the owner's."""
        stored = self._stored.get(response_id)
        return stored if stored is not None and stored.owner == owner else None

    def delete(self, response_id: str, owner: str) -> bool:
        """Forgets a response; whether it was there."""
        stored = self.get(response_id, owner)
        if stored is None:
            return False
        del self._stored[response_id]
        self._num_bytes -= stored.num_bytes
        return True


def _size(turn: Message) -> int:
    calls = sum(len(call.arguments) + len(call.name) for call in turn.tool_calls)
    return len(turn.content) + len(turn.reasoning or "") + calls + 256
