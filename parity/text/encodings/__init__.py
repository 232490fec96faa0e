"""Prompt formats of models that ship no Jinja template, written from the vendors' documented formats."""

from __future__ import annotations

from collections.abc import Mapping

from ..template import Template
from .deepseek_v4 import DeepSeekV4Encoding, DeepSeekV41Encoding
from .deepseek_v32 import DeepSeekV32Encoding
from .kimi_k3 import KimiK3Encoding

ENCODINGS: Mapping[str, Template] = {
    "deepseek_v32": DeepSeekV32Encoding(),
    "deepseek_v4": DeepSeekV4Encoding(),
    "deepseek_v41": DeepSeekV41Encoding(),
    "kimi_k3": KimiK3Encoding(),
}


def encoding_for(model_type: str | None) -> Template | None:
    """The encoding of an architecture, if it is one of those."""
    return ENCODINGS.get(model_type or "")
