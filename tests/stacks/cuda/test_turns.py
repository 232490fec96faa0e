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


def called(statement: ast.stmt) -> str:
    """The name of the function that a statement only calls, or nothing."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    return call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""


CASES = [(path, node) for path in FILES for node in kernels(path)]


@pytest.mark.parametrize("node", [node for _, node in CASES], ids=[f"{path.stem}.{node.name}" for path, node in CASES])
def test_a_kernel_first_waits(node: ast.FunctionDef) -> None:
    first = node.body[1:] if ast.get_docstring(node) else node.body
    assert called(first[0]) == "take_turn"
    assert not any(isinstance(part, ast.Return) and part.value for part in ast.walk(node)), "it is no kernel"


def test_there_are_kernels() -> None:
    assert len(CASES) > 40
    assert not [path for path in FILES if "@triton.jit(" in path.read_text()], "kernels are made by `kernel`"
