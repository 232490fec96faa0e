"""The door is open: a stack in a package of its own is found through its entry point and passes the suite."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from parity.cli.stacks import survey
from parity.core.errors import ModelNotFound, Unsupported, UsageError
from parity.stacks import registry
from parity.stacks.base import Device
from parity.stacks.check import check

PACKAGE = Path(__file__).parents[2] / "examples" / "third_party_stack"


def _has_backend() -> bool:
    try:
        return int(version("setuptools").partition(".")[0]) >= 77
    except PackageNotFoundError:
        return False


HAS_BACKEND = _has_backend()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and its metadata laid out as an installer does, from what its pyproject says."""
    target = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    for path in (PACKAGE / "halfstack").glob("*.py"):
        (target / "halfstack").mkdir(exist_ok=True)
        (target / "halfstack" / path.name).write_bytes(path.read_bytes())
    metadata = target / f"{project['name']}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["parity.stacks"]
    lines = [f"{name} = {value}" for name, value in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[parity.stacks]", *lines, ""]))
    return target


@pytest.fixture
def on_path(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(installed)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "halfstack"]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.usefixtures("on_path")
def test_it_is_listed_and_not_imported() -> None:
    assert "halfstack" in registry.names()
    assert "halfstack" not in sys.modules


@pytest.mark.usefixtures("on_path")
def test_it_passes_the_suite() -> None:
    stack, dtype = registry.open_stack("halfstack:bfloat16")
    assert dtype == torch.bfloat16
    own = [name for name in stack.ops.names() if stack.ops.origin(name).startswith("halfstack")]
    assert own == ["rms_norm", "sigmoid_gate"]
    assert set(stack.notes) == set(stack.ops.names()) - set(own)
    report = check(stack, dtypes=[torch.float32])
    assert report.ok, report.failures
    report = check(stack, ops=own, dtypes=[torch.bfloat16])
    assert report.ok, report.failures
    assert [row.origin for row in report.rows] == ["halfstack.kernels", "halfstack.kernels"]


@pytest.mark.usefixtures("on_path")
def test_its_device_has_all_that_the_engine_asks_of_one() -> None:
    device = registry.open_stack("halfstack")[0].device
    wanted = {name for name in vars(Device) if not name.startswith("_")}
    assert wanted <= set(dir(device)), wanted - set(dir(device))
    graph, result = device.capture(lambda: torch.ones(2))
    assert graph is None
    assert result.tolist() == [1, 1]
    assert device.zeros((2, 3), torch.bfloat16).shape == (2, 3)


@pytest.mark.usefixtures("on_path")
def test_its_reference_table_is_there_unasked() -> None:
    stack, _ = registry.open_stack("halfstack:reference")
    assert {stack.ops.origin(name) for name in stack.ops.names()} == {"parity.stacks.reference"}
    with pytest.raises(Unsupported, match="has no table 'fast': it has reference"):
        registry.open_stack("halfstack:fast")


@pytest.mark.skipif(not HAS_BACKEND, reason="building a package without a network needs setuptools >= 77")
def test_pip_installs_it(tmp_path: Path) -> None:
    for path in PACKAGE.rglob("*"):  # building leaves files beside the source
        if path.suffix in {".py", ".toml", ".md"}:
            copy = tmp_path / "source" / path.relative_to(PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    install += ["--no-build-isolation", "--target", str(tmp_path / "site"), str(tmp_path / "source")]
    done = subprocess.run(install, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    points = next((tmp_path / "site").glob("halfstack-*.dist-info/entry_points.txt")).read_text()
    assert "[parity.stacks]\nhalfstack = halfstack:open_stack" in points
    assert (tmp_path / "site" / "halfstack" / "kernels.py").exists()


def test_without_the_package_it_is_unknown() -> None:
    with pytest.raises(ModelNotFound, match="no stack is called 'halfstack'"):
        registry.open_stack("halfstack")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("def opened(): pass", "AttributeError: module 'crooked' has no attribute 'open_stack'"),
        ("def open_stack(): raise OSError('libcrooked.so: no such file')", "OSError: libcrooked.so: no such file"),
        ("def open_stack(): pass", "which gave NoneType and not a Stack"),
        ("from parity.stacks.null import open_stack as null\nfrom dataclasses import replace\n"
         "def open_stack(): return replace(null(), device=object())", "its device lacks torch_device, asynchronous"),
    ],
)  # fmt: skip
def test_one_that_is_broken_says_why_and_takes_no_other_with_it(
    code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crooked.py").write_text(code)
    metadata = tmp_path / "crooked-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: crooked\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[parity.stacks]\ncrooked = crooked:open_stack\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(UsageError, match=re.escape(says)):
            registry.open_stack("crooked")
        listed = {one["name"]: one for one in survey()}
    finally:
        sys.modules.pop("crooked", None)
    assert says in listed["crooked"]["why"]
    assert listed["null"]["works"]


def test_listing_stacks_imports_none_of_them() -> None:
    text = (
        "import sys; from importlib.metadata import entry_points; "
        "import parity.stacks.registry as registry; names = registry.names(); "
        "loaded = [n for n in sys.modules if n.startswith('parity.stacks.') and n.split('.')[2] in "
        "('cpu', 'cuda', 'null', 'ascend', 'reference')]; "
        "assert not loaded, loaded; print(sorted(names))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
