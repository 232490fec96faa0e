"""Run, serve and verify DeepSeek, Qwen and Kimi models on any hardware stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers import Answer
    from .core.chat import Message, Tool, ToolCall
    from .core.errors import ParityError
    from .core.request import Output, Request, SamplingParams
    from .llm import LLM

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "Answer",
    "Message",
    "Output",
    "ParityError",
    "Request",
    "SamplingParams",
    "Tool",
    "ToolCall",
    "__version__",
]

_HOMES = {
    "LLM": "llm",
    "Answer": "answers",
    "Message": "core.chat",
    "Tool": "core.chat",
    "ToolCall": "core.chat",
    "ParityError": "core.errors",
    "Output": "core.request",
    "Request": "core.request",
    "SamplingParams": "core.request",
}


def __getattr__(name: str) -> Any:
    # Looked up when used, so that `parity --help` imports no torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
