"""Tools in namespaces, such as those of a client's MCP servers: to a model each is a function whose name holds both names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...core.chat import Tool
from .responses_types import FunctionTool, NamespaceTool


def joined(namespace: str | None, name: str) -> str:
    """The name by which a model knows a tool of a namespace, or of none."""
    return name if namespace is None else f"{namespace}__{name}"


def functions(tools: Iterable[FunctionTool | NamespaceTool]) -> Iterator[Tool]:
    """The tools as a model sees them; what a namespace says of itself stands with its first tool."""
    for tool in tools:
        if isinstance(tool, FunctionTool):
            yield _function(tool, tool.name, "")
            continue
        about = f"Of all tools {joined(tool.name, '...')}: {tool.description}\n\n" if tool.description else ""
        for index, function in enumerate(tool.tools):
            yield _function(function, joined(tool.name, function.name), "" if index else about)


def parts(tools: Iterable[FunctionTool | NamespaceTool]) -> dict[str, tuple[str, str]]:
    """The namespace and the name of each joined name: a name alone does not say where it was joined."""
    spaces = [tool for tool in tools if isinstance(tool, NamespaceTool)]
    return {joined(space.name, tool.name): (space.name, tool.name) for space in spaces for tool in space.tools}


def _function(tool: FunctionTool, name: str, about: str) -> Tool:
    return Tool(name, about + (tool.description or ""), tool.parameters or {}, bool(tool.strict))
