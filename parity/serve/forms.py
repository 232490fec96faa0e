"""The grammar of an answer: its form, or calls to tools, after whatever the model thinks first.

Grammars are written in llguidance's Lark; a part that is a language of its own, such as a JSON schema, is a grammar beside
the main one, named there as `@name`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine.grammar import json_schema_grammar, lark_grammar, regex_grammar
from .asks import Form, JsonForm, RegexForm

SPACE = "SPACE: /[ \\n]{1,4}/"


def form_grammar(form: Form) -> str:
    """The grammar of a form."""
    if isinstance(form, JsonForm):
        return json_schema_grammar(form.schema)
    if isinstance(form, RegexForm):
        return regex_grammar(form.pattern)
    return lark_grammar(form.text)


@dataclass
class Grammar:
    """A grammar that is being put together.

    Args:
        tokens: the ids of control tokens by their text: where one is meant, its text must not be spelled instead.
        marks: texts that free text must not contain, since they are structure to whoever reads the answer.
    """

    tokens: Mapping[str, int]
    marks: Sequence[str] = ()
    rules: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def literal(self, text: str) -> str:
        """A text, in which control tokens stand for themselves."""
        return " ".join(self._pieces(text)) or '""'

    def starts_with_token(self, text: str) -> bool:
        """Whether a text begins with a control token."""
        return any(text.startswith(name) for name in self.tokens if name)

    def until(self, name: str, mark: str) -> str:
        """A rule for any text up to and with a mark."""
        pieces = self._pieces(mark)
        if self.starts_with_token(mark):
            self.rules[name] = " ".join(["TEXT", *pieces])
            return name
        self.rules[f"{name}_text[lazy]"] = f"TEXT {pieces[0]}"
        self.rules[name] = " ".join([f"{name}_text", *pieces[1:]])
        return name

    def schema(self, name: str, schema: Mapping[str, Any]) -> str:
        """A part that is JSON, valid against a schema."""
        return self.part(name, json_schema_grammar(schema))

    def part(self, name: str, grammar: str) -> str:
        """A part with a grammar of its own; gives what the main one calls it."""
        (only,) = json.loads(grammar)["grammars"] if grammar.startswith("{") else [{"lark_grammar": grammar}]
        self.parts[name] = {**only, "name": name}
        return f"@{name}"

    def text(self) -> str:
        """The whole, as llguidance reads it."""
        lines = ["%llguidance {}", *(f"{name}: {body}" for name, body in self.rules.items()), self._free_text(), SPACE]
        main = {"name": "main", "lark_grammar": "\n".join(lines)}
        return json.dumps({"grammars": [main, *self.parts.values()]})

    def _free_text(self) -> str:
        marks = "|".join(sorted(re.escape(mark).replace("/", "\\/") for mark in self.marks if mark.strip()))
        return "TEXT: /(.|\\n)*/" + (f" & ~/(.|\\n)*({marks})(.|\\n)*/" if marks else "")

    def _pieces(self, text: str) -> list[str]:
        """A text cut at control tokens."""
        names = sorted((name for name in self.tokens if name and name in text), key=len, reverse=True)
        if not names:
            return [_quoted(text)] if text else []
        parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
        return [f"<[{self.tokens[part]}]>" if part in self.tokens else _quoted(part) for part in parts if part]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
