"""Answered responses, kept for `previous_response_id`: the newest ones, within bounds of number and size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.chat import Message
from .responses_types import Item, ResponseOut

MAX_CHARACTERS = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Stored:
    """A response, what its request gave, and the turns that led to it and ended in it. Its owner alone may go on from it."""

    owner: str
    response: ResponseOut
    given: str | Sequence[Item]
    turns: tuple[Message, ...]

    @property
    def num_characters(self) -> int:
        """Roughly what it takes."""
        return sum(_size(turn) for turn in self.turns)


class Store:
    """Stored responses by id; the oldest are dropped."""

    def __init__(self, max_responses: int, max_characters: int = MAX_CHARACTERS) -> None:
        self._max_responses = max_responses
        self._max_characters = max_characters
        self._num_characters = 0
        self._stored: OrderedDict[str, Stored] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stored)

    def put(self, stored: Stored) -> None:
        """Keeps a response."""
        self._stored[stored.response.id] = stored
        self._num_characters += stored.num_characters
        while self._stored and (len(self._stored) > self._max_responses or self._num_characters > self._max_characters):
            _, oldest = self._stored.popitem(last=False)
            self._num_characters -= oldest.num_characters

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
        self._num_characters -= stored.num_characters
        return True


def _size(turn: Message) -> int:
    calls = sum(len(call.arguments) + len(call.name) for call in turn.tool_calls)
    return len(turn.content) + len(turn.reasoning or "") + calls + 256
