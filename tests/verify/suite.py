"""A suite small enough for tiny models: ten prompts, three of them on every path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ADD = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}
LINES: list[dict[str, Any]] = [
    {"id": "prose", "text": "The harbour was quiet before the ferries came.", "paths": True},
    {"id": "code", "text": "def f(x):\n    return x * (x + 1) // 2\n", "paths": True},
    {"id": "chinese", "text": "清晨的市场里，卖豆腐的老人。", "paths": True},
    {"id": "numbers", "text": "7 + 5 = 12\n12 * 3 = 36\n36 - 17 = 19\n"},
    {"id": "json", "text": '{"order": 10482, "paid": true}'},
    {"id": "hello", "messages": [{"role": "user", "content": "Say hello."}], "answer_tokens": 12},
    {"id": "colour", "messages": [{"role": "user", "content": "What colour is a lemon?"}], "answer_tokens": 12},
    {"id": "count", "messages": [{"role": "user", "content": "Count to three."}], "answer_tokens": 12, "tools": [ADD]},
    {"id": "name", "messages": [{"role": "user", "content": "Name a river."}], "answer_tokens": 12},
    {"id": "off", "messages": [{"role": "user", "content": "Think."}], "answer_tokens": 12, "thinking": False},
]


def write_suite(path: Path) -> Path:
    """The suite as a file."""
    path.write_text("\n".join(json.dumps(line) for line in LINES))
    return path
