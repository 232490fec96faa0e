"""What is asked of a model in this process: a prompt to continue, or a conversation to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from ..core.chat import Message
from ..core.errors import RequestError

Prompt = str | Sequence[int]
"""A text, or token ids."""
Messages = str | Sequence[Message]
"""A conversation, or the user's only message."""


def is_prompt(value: Prompt | Messages | Sequence[Prompt]) -> TypeGuard[Prompt]:
    """Whether it is one text, or token ids only."""
    return isinstance(value, str) or all(isinstance(one, int) for one in value)


def is_conversation(value: Prompt | Messages) -> TypeGuard[Messages]:
    """Whether it is one text, or messages only."""
    return isinstance(value, str) or all(isinstance(one, Message) for one in value)


def listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many as a list.

    Raises:
        RequestError: token ids stand beside prompts.
    """
    if isinstance(prompts, str) or (len(prompts) and is_prompt(prompts)):
        return [prompts]
    found: list[Prompt] = []
    for prompt in prompts:
        if isinstance(prompt, int):
            raise RequestError("prompts must be texts or lists of token ids; a token id stands among them", field="prompts")
        found.append(prompt)
    return found
