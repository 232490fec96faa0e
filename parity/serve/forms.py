"""The grammar of an answer's form."""

from __future__ import annotations

from ..engine.grammar import json_schema_grammar, lark_grammar, regex_grammar
from .asks import Form, JsonForm, RegexForm


def form_grammar(form: Form) -> str:
    """The grammar of a form."""
    if isinstance(form, JsonForm):
        return json_schema_grammar(form.schema)
    if isinstance(form, RegexForm):
        return regex_grammar(form.pattern)
    return lark_grammar(form.text)
