"""The prompts, as data: each suite is a JSONL file whose first line says its name, version and licence.

{"suite": "mine", "version": 1, "licence": "CC0-1.0", "source": "where from", "includes": ["quick"]}
{"id": "a", "kind": "text", "text": "scored token by token"}
{"id": "b", "kind": "chat", "messages": [{"role": "user", "content": "hello"}], "answer_tokens": 32}
"""

from .load import Check, Item, Suite, load, names

__all__ = ["Check", "Item", "Suite", "load", "names"]
