"""Dialects by name, and the dialect of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from parity.core.errors import Unsupported

from .base import CallFormat, Dialect, Thinking
from .dsml import DSML_V4, DSML_V32, DSML_V41
from .hermes import HermesCalls
from .marked import DEEPSEEK_V3, DEEPSEEK_V31, KIMI_K2
from .qwen_xml import QwenXmlCalls
from .xtml import END, XtmlCalls, closing, opening

_THINK = Thinking("<think>", "</think>")
_KIMI_VL_THINK = Thinking("◁think▷", "◁/think▷")
_XTML_THINK = Thinking(opening("think"), closing("think"))
_XTML_STRUCTURE = (opening("response"), closing("response"), closing("message"), END)

PLAIN = Dialect("none")

CALLS: Mapping[str, CallFormat] = {
    "hermes": HermesCalls(),
    "qwen3_coder": QwenXmlCalls(),
    "qwen3_xml": QwenXmlCalls(),
    "deepseek_v3": DEEPSEEK_V3,
    "deepseek_v31": DEEPSEEK_V31,
    "deepseek_v32": DSML_V32,
    "deepseek_v4": DSML_V4,
    "deepseek_v41": DSML_V41,
    "kimi_k2": KIMI_K2,
    "kimi_k3": XtmlCalls(),
}
THINKING: Mapping[str, Thinking] = {
    "qwen3": _THINK,
    "deepseek_r1": _THINK,
    "deepseek_v3": _THINK,
    "deepseek_v4": _THINK,
    "kimi_k2": _THINK,
    "kimi_vl": _KIMI_VL_THINK,
    "kimi_k3": _XTML_THINK,
}

# What a template says, in order: the first text found decides.
_CALLS_BY_TEXT = (
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<｜DSML｜ calls>", "deepseek_v41"),
    ("｜DSML｜tool_calls", "deepseek_v4"),
    ("｜DSML｜", "deepseek_v32"),
    ("```json", "deepseek_v3"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v31"),
    ("<|open|>", "kimi_k3"),
)
# For models that ship no template.
_BY_MODEL_TYPE = {
    "deepseek_v32": ("deepseek_v32", "deepseek_r1"),
    "deepseek_v4": ("deepseek_v4", "deepseek_v4"),
    "deepseek_v41": ("deepseek_v41", "deepseek_v4"),
    "kimi_k3": ("kimi_k3", "kimi_k3"),
}


def dialect_by_name(tool_calls: str | None = None, reasoning: str | None = None) -> Dialect:
    """The dialect of a `--tool-call-parser` and a `--reasoning-parser`, in vLLM's names.

    Raises:
        Unsupported: a name is not one of ours.
    """
    if tool_calls is not None and tool_calls not in CALLS:
        raise Unsupported(f"--tool-call-parser {tool_calls!r} is not supported; supported are {', '.join(CALLS)}")
    if reasoning is not None and reasoning not in THINKING:
        raise Unsupported(f"--reasoning-parser {reasoning!r} is not supported; supported are {', '.join(THINKING)}")
    structure = _XTML_STRUCTURE if "kimi_k3" in (tool_calls, reasoning) else ()
    return Dialect(
        tool_calls or reasoning or PLAIN.name,
        thinking=THINKING[reasoning] if reasoning else None,
        calls=CALLS[tool_calls] if tool_calls else None,
        structure=structure,
    )


def dialect_for(model_type: str | None, template: str | None) -> Dialect:
    """The dialect of a model, by what its chat template says, or by its type where it ships none."""
    if template is None:
        names = _BY_MODEL_TYPE.get(model_type or "")
        return dialect_by_name(*names) if names else PLAIN
    calls = next((name for text, name in _CALLS_BY_TEXT if text in template), None)
    if calls == "kimi_k3":
        return dialect_by_name(calls, calls)
    if calls == "deepseek_v3" and "<｜tool▁calls▁begin｜>" not in template:
        calls = None
    dialect = dialect_by_name(calls)
    if _KIMI_VL_THINK.begin in template:
        return replace(dialect, thinking=_KIMI_VL_THINK)
    return replace(dialect, thinking=_THINK) if _THINK.end in template else dialect
