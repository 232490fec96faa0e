"""What a stored response was asked, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import to_builtins

from ..refusals import Refusal
from .responses_types import Item, MessageItem

_DEFAULT_LIMIT, _MAX_LIMIT = 20, 100


class ItemPage(msgspec.Struct):
    """Items that were given; `last_id` is what the next page comes `after`."""

    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


def item_page(given: str | Sequence[Item], response_id: str, query: Mapping[str, str]) -> ItemPage:
    """A page of items.

    Args:
        given: the `input` of a request, without what came before it by `previous_response_id`.
        response_id: of its response; items that came without an id are named after it.
        query: `order` (`desc`, the newest first, or `asc`), `limit` (1 to 100) and `after`, an item's id.

    Raises:
        Refusal: 400, a value of the query makes no sense.
    """
    items = [MessageItem(role="user", content=given)] if isinstance(given, str) else given
    listed = [_shown(item, f"item_{index}_{response_id}") for index, item in enumerate(items)]
    order, limit, after = query.get("order", "desc"), query.get("limit", str(_DEFAULT_LIMIT)), query.get("after")
    if order not in ("asc", "desc"):
        raise Refusal(400, f"order: {order!r} is not one of asc, desc", "order")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= _MAX_LIMIT):
        raise Refusal(400, f"limit must be a number from 1 to {_MAX_LIMIT}, not {limit!r}", "limit")
    if order == "desc":
        listed.reverse()
    if after:
        at = next((index for index, item in enumerate(listed) if item["id"] == after), None)
        if at is None:
            raise Refusal(400, f"after: the response has no item {after!r}", "after")
        listed = listed[at + 1 :]
    page = listed[: int(limit)]
    ends = [item["id"] for item in (page[:1] + page[-1:])] or [None]
    return ItemPage(page, ends[0], ends[-1], len(listed) > len(page))


def _shown(item: Item, own_id: str) -> dict[str, Any]:
    """An item as it is given back: with an id, and the text of a message in parts."""
    plain = {key: value for key, value in to_builtins(item).items() if value is not None}
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        said = {"type": "output_text", "annotations": []} if item.role == "assistant" else {"type": "input_text"}
        plain["content"] = [{**said, "text": item.content}]
    return {"id": own_id, "status": "completed", **plain}
