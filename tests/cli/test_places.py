"""`stacks`, `doctor`, `models` and `pull`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.stacks.ops import Ops

from .conftest import Run


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PARITY_MODELS", raising=False)


def test_stacks_prints_the_origin_of_every_op(run: Run) -> None:
    code, out, _ = run("stacks", "--json")
    assert code == 0
    found = {stack["name"]: stack for stack in json.loads(out)}
    assert {"cpu", "null"} <= set(found)
    assert found["cpu"]["works"]
    assert set(found["cpu"]["ops"]) == set(Ops.names())
    assert all(op["origin"].startswith("parity.stacks.") for op in found["cpu"]["ops"].values())
    assert found["null"]["ops"]["linear"]["origin"] == "parity.stacks.null"
    for stack in found.values():
        assert stack["works"] or stack["why"]


def test_one_stack(run: Run) -> None:
    code, out, _ = run("stacks", "cpu:reference")
    assert code == 0
    assert out.startswith("cpu:reference: ")
    assert f"2 of {len(Ops.names())} ops are its own" in out
    rows = [line.split(maxsplit=2) for line in out.splitlines()]
    assert ["linear", "cpu.products"] in rows
    assert ["embed", "reference", "the reference table was asked for"] in rows


def test_check_holds_a_stack_to_the_contract(run: Run) -> None:
    code, out, _ = run("stacks", "--check", "cpu:reference:float32", "--ops", "rms_norm", "rope")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["ok", "rms_norm"], ["ok", "rope"]]
    assert "keeps its contract" in out
    code, out, _ = run("stacks", "--check", "null:float32", "--ops", "linear")
    assert code == 1
    assert "FAIL" in out
    code, _, err = run("stacks", "--check", "cpu", "--ops", "no_such_op")
    assert code == 2
    assert "'no_such_op'" in err
    assert run("stacks", "--ops", "rope")[0] == 2


def test_doctor_says_how_to_mend(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(out)}
    assert code == 0
    assert findings["stack cpu"]["state"] == "ok"
    assert findings["model"]["fix"] == "parity pull qwen2.5-coder-0.5b"
    monkeypatch.setenv("CXX", "no/such/c++ -O2")
    assert "CXX names no/such/c++, which is not there" in run("doctor")[1]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PARITY_OFFLINE", "1")
    code, out, _ = run("doctor")
    assert code == 0
    assert "no C++ compiler" in out
    assert "apt install g++" in out
    assert "offline mode" in out


def test_doctor_looks_for_all_that_the_package_asks_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["torch<2.14,>=2.10", "no-such.package>=2", 'extra-package>=1; extra == "test"']
    monkeypatch.setattr("parity.cli.doctor.metadata.requires", lambda _: asked)
    code, out, _ = run("doctor", "--json")
    (wrong, found) = (finding for finding in json.loads(out) if finding["what"] == "packages")
    assert (code, wrong["fix"]) == (1, "pip install no-such.package")
    assert "torch" in found["found"]


def test_doctor_fails_where_nothing_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from parity.stacks import registry

    monkeypatch.setattr(registry, "names", dict)
    code, out, _ = run("doctor")
    assert code == 1
    assert "pip install ." in out


def test_models_are_listed_and_shown(run: Run) -> None:
    code, out, _ = run("models", "list", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["qwen2.5-coder-0.5b"]["size"] == 491400064
    assert rows["qwen2.5-coder-0.5b"]["path"] is None
    code, listed, _ = run("models")
    assert code == 0
    assert all(name in listed for name in rows)
    code, out, _ = run("models", "show", "qwen2.5-coder-0.5b")
    assert code == 0
    assert "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32" in out
    assert "parity pull qwen2.5-coder-0.5b" in out


def test_show_names_a_model_by_what_it_is(run: Run, default_model: Path) -> None:
    code, out, _ = run("models", "show", str(default_model), "--json")
    found = json.loads(out)
    assert code == 0
    assert found["architecture"] == "qwen2"
    assert found["context"] == 32768
    assert len(found["content_root"]) == 64


def test_architectures(run: Run) -> None:
    code, out, _ = run("models", "--architectures")
    assert code == 0
    for name in ("qwen2", "qwen3", "llama"):
        assert any(line.startswith(name) for line in out.splitlines())


def test_pulled_from_a_shelf_and_removed(
    run: Run, default_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf" / "Qwen2.5-Coder-0.5B-Instruct-GGUF"
    shelf.mkdir(parents=True)
    (shelf / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf").symlink_to(default_model)
    monkeypatch.setenv("PARITY_MODELS", str(shelf.parent))
    monkeypatch.setenv("PARITY_SOURCES", "folder")
    code, out, _ = run("pull")
    assert code == 0
    path = Path(out.strip())
    assert path.stat().st_size == 491400064
    assert run("pull", "qwen2.5-coder-0.5b")[:2] == (0, out)
    code, out, err = run("models", "rm", "qwen2.5-coder-0.5b")
    assert code == 2
    assert "--yes" in err
    code, out, _ = run("models", "rm", "qwen2.5-coder-0.5b", "-y")
    assert code == 0
    assert "468.6 MiB freed" in out
    assert not path.exists()
