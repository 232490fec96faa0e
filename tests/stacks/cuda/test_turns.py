"""Each kernel waits for the launches before it, which on NVIDIA's GPUs from Hopper on may still run when it starts."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import parity.stacks.cuda as cuda

FILES = sorted((Path(cuda.__file__).parent / "kernels").glob("*.py"))


def kernels(path: Path) -> list[ast.FunctionDef]:
    """Those that are launched."""
    found = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [node for node in found if any(isinstance(mark, ast.Name) and mark.id == "kernel" for mark in node.decorator_list)]


def calls(statements: list[ast.stmt]) -> list[str]:
    """The names of all functions called."""
    found = [part.func for statement in statements for part in ast.walk(statement) if isinstance(part, ast.Call)]
    return [name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "?") for name in found]


BEFORE = {"program_id", "arange", "minimum", "to", "ask_ahead"}
"""What a kernel may do before it waits: it reads and writes nothing, but for asking for weights."""


CASES = [(path, node) for path in FILES for node in kernels(path)]


@pytest.mark.parametrize("node", [node for _, node in CASES], ids=[f"{path.stem}.{node.name}" for path, node in CASES])
def test_a_kernel_first_waits(node: ast.FunctionDef) -> None:
    waits = [index for index, statement in enumerate(node.body) if calls([statement]) == ["take_turn"]]
    assert len(waits) == 1
    assert set(calls(node.body[: waits[0]])) <= BEFORE
    assert not any(isinstance(part, ast.Return) and part.value for part in ast.walk(node)), "it is no kernel"


def test_there_are_kernels() -> None:
    assert len(CASES) > 40
    assert not [path for path in FILES if "@triton.jit(" in path.read_text()], "kernels are made by `kernel`"
