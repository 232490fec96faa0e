"""The package's files and what each imports, read from the syntax trees: nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "parity"
FILES = sorted(PACKAGE.rglob("*.py"))


@dataclass(frozen=True)
class Imported:
    """One import: the absolute module, whether it is for types only, and whether it stands at the top of the file."""

    module: str
    typing_only: bool
    at_top: bool


@cache
def syntax(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(module: str, *prefixes: str) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def imports(file: Path) -> Iterator[Imported]:
    tree = syntax(file)
    for_types = {id(node) for branch in ast.walk(tree) if _typing_branch(branch) for node in ast.walk(branch)}
    for node in ast.walk(tree):
        for module in _targets(node, file):
            yield Imported(module, id(node) in for_types, node in tree.body)


def _typing_branch(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _targets(node: ast.AST, file: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = file.relative_to(ROOT).parent.parts
        base = ".".join((*package[: len(package) - node.level + 1], *base.split("."))).rstrip(".")
    # `from package import module` imports the module.
    return [f"{base}.{alias.name}" if _is_ours(f"{base}.{alias.name}") else base for alias in node.names]


def _is_ours(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return inside(module, "parity") and (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file())
