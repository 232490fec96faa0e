"""What each folder may import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .tree import FILES, Imported, imports, inside, module_of, syntax

CORE = ("parity.core",)
ANYTHING = ("parity",)
# The longest name that fits a module decides; each may also import from itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "parity.core": (),
    "parity.formats": CORE,
    "parity.stacks": (*CORE, "parity.formats"),
    "parity.models": (*CORE, "parity.formats", "parity.stacks.ops", "parity.stacks.base"),
    "parity.hub": (*CORE, "parity.formats"),
    "parity.engine": (*CORE, "parity.formats", "parity.models", "parity.stacks"),
    "parity.engine.load": (*CORE, "parity.formats", "parity.models", "parity.stacks", "parity.engine", "parity.hub"),
    "parity.text": CORE,
    "parity.serve": (*CORE, "parity.text", "parity.engine.grammar"),  # grammars hold no tensor
    "parity.serve.command": ANYTHING,
    "parity.verify": (*CORE, "parity.text"),
    "parity.verify.command": ANYTHING,
    "parity.verify.sides.local": ANYTHING,
    "parity.verify.sides.engine": ANYTHING,
    "parity.bench": ANYTHING,
    "parity.convert": ANYTHING,
    "parity.answers": (*CORE, "parity.text"),
    "parity.llm": (*CORE, "parity.answers", "parity.text", "parity.engine", "parity.hub"),
    "parity.cli": ANYTHING,
    "parity.__main__": ("parity.cli",),
    "parity": (*CORE, "parity.answers", "parity.llm"),
}
WITHOUT_TORCH = (
    "parity.engine.limits",
    "parity.engine.scheduler",
    "parity.engine.pages",
    "parity.engine.prefix",
    "parity.engine.sequence",
    "parity.engine.grammar",
    "parity.text",
    "parity.serve",
)
VENDORS = ("cpu", "cuda", "ascend", "null")
OURS_HEAVY = ("llm", "engine", "hub", "text", "stacks", "models", "serve", "verify")
HEAVY = ("torch", "numpy", "rich", *(f"parity.{name}" for name in OURS_HEAVY))


def rule_of(module: str) -> str:
    return max((name for name in MAY_IMPORT if inside(module, name)), key=len)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_only_what_its_folder_may(file: Path) -> None:
    rule = rule_of(module_of(file))
    may = MAY_IMPORT[rule] if rule == "parity" else (*MAY_IMPORT[rule], rule)
    wrong = [found.module for found in imports(file) if inside(found.module, "parity") and not _may(found, may)]
    assert not wrong, f"{module_of(file)} ({rule}) imports {wrong}"


def _may(found: Imported, may: tuple[str, ...]) -> bool:
    # Everyone may read the version.
    return inside(found.module, *may) or found.module == "parity"


@pytest.mark.parametrize("file", [file for file in FILES if inside(module_of(file), *WITHOUT_TORCH)], ids=module_of)
def test_no_torch_where_no_tensor_belongs(file: Path) -> None:
    assert not [found for found in imports(file) if inside(found.module, "torch") and not found.typing_only]


@pytest.mark.parametrize("file", [file for file in FILES if inside(module_of(file), "parity.stacks")], ids=module_of)
def test_a_stack_imports_no_other_stack(file: Path) -> None:
    others = [f"parity.stacks.{vendor}" for vendor in VENDORS if not inside(module_of(file), f"parity.stacks.{vendor}")]
    assert not [found for found in imports(file) if inside(found.module, *others)]


@pytest.mark.parametrize("file", [file for file in FILES if not inside(module_of(file), "parity.cli")], ids=module_of)
def test_nothing_imports_the_command_line(file: Path) -> None:
    if module_of(file) != "parity.__main__":
        assert not [found for found in imports(file) if inside(found.module, "parity.cli")]


@pytest.mark.parametrize("file", [file for file in FILES if inside(module_of(file), "parity.cli")], ids=module_of)
def test_a_verb_imports_what_is_heavy_only_when_it_runs(file: Path) -> None:
    top = [found.module for found in imports(file) if found.at_top and not found.typing_only]
    assert not [module for module in top if inside(module, *HEAVY)]


def test_an_architecture_imports_no_other() -> None:
    defining = {module_of(file): file for file in FILES if file.parent.name == "models" and _defines(file, "ARCHITECTURE")}
    assert len(defining) > 10
    for module, file in defining.items():
        assert not [found.module for found in imports(file) if found.module in defining], module


def _defines(file: Path, name: str) -> bool:
    assigned = (target for node in syntax(file).body if isinstance(node, ast.Assign) for target in node.targets)
    return any(isinstance(target, ast.Name) and target.id == name for target in assigned)
