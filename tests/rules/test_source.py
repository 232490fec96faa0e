"""Small rules that keep the source as the reader expects it."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import parity

from .tree import FILES, ROOT, inside, module_of, syntax

# Lines of a file that is one idea are rarely more.
MOST_LINES = 400
# Files in which naming a device is the point: the order of preference, and a flag's help.
DEVICE_NAMES = re.compile(r"^(cuda|npu|ascend|hccl|nccl|mps)$|torch\.cuda|torch_npu|torch\.npu")
NAMES_DEVICES = {"parity.stacks.registry"}
VAGUE = re.compile(r"(^|_)(utils?|helpers?|managers?|misc)(_|$)", re.IGNORECASE)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_is_one_idea(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_names_say_something(file: Path) -> None:
    assert not [part for part in module_of(file).split(".") if VAGUE.search(part)]
    classes = [node.name for node in ast.walk(syntax(file)) if isinstance(node, ast.ClassDef)]
    assert not [name for name in classes if name.endswith(("Manager", "Helper", "Utils"))]


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_no_global_statement(file: Path) -> None:
    assert not [node.lineno for node in ast.walk(syntax(file)) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_no_device_name_outside_its_stack(file: Path) -> None:
    if inside(module_of(file), "parity.stacks.cuda", "parity.stacks.ascend") or module_of(file) in NAMES_DEVICES:
        return
    tree = syntax(file)
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    names = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)]
    assert not [text for text in (*texts, *names) if DEVICE_NAMES.search(text)]


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_public_things_are_documented(file: Path) -> None:
    tree = syntax(file)
    assert ast.get_docstring(tree) or not tree.body, f"{module_of(file)} does not say what it is for"


def test_exported_names_are_exactly_what_is_importable() -> None:
    assert len(parity.__all__) == len(set(parity.__all__))
    assert set(parity.__all__) == {*parity._HOMES, "__version__"}
    for name in parity.__all__:
        assert getattr(parity, name) is not None
    with pytest.raises(AttributeError):
        parity.nothing  # noqa: B018  # looking it up is the test


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    assert project["version"] == parity.__version__ == newest[1]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_machine_paths_and_no_big_files() -> None:
    machine = re.compile(r"(?<![\w.~/-])/(work|farm|root|home/\w+|Users/\w+)/")
    for path in tracked():
        assert path.stat().st_size < 2**21, f"{path.name} is too big for the repository"
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        found = machine.search(text)
        assert found is None, f"{path.relative_to(ROOT)}: {found[0] if found else ''}"
