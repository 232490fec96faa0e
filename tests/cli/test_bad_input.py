"""Whatever the user gets wrong: exit code 2, and words that name the cause and the remedy, without a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.cli import main

from . import tiny
from .conftest import Run

CASES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "truncated tensors": (
        tiny.content("model.safetensors", lambda data: data[:-100]),
        ("model.safetensors", "truncated", "fetch it again"),
    ),
    "truncated header": (tiny.content("model.safetensors", lambda data: data[:20]), ("model.safetensors",)),
    "empty file": (tiny.content("model.safetensors", lambda data: b""), ("model.safetensors",)),
    "huge header": (tiny.content("model.safetensors", lambda data: b"\xff" * 7 + b"\x7f" + data[8:]), ("model.safetensors",)),
    "flipped header": (
        tiny.content("model.safetensors", lambda data: data[:9] + bytes([data[9] ^ 8]) + data[10:]),
        ("model.safetensors",),
    ),
    "missing tensor": (tiny.tensors(lambda found: found.pop("model.norm.weight")), ("model.norm.weight", "missing")),
    "extra tensor": (
        tiny.tensors(lambda found: found.update({"model.extra.weight": found["model.norm.weight"].clone()})),
        ("model.extra.weight", "no place"),
    ),
    "wrong shape": (
        tiny.tensors(lambda found: found.update({"model.norm.weight": found["model.norm.weight"][:-1].clone()})),
        ("model.norm.weight", "[31]", "[32]"),
    ),
    "unknown config key": (tiny.config_key("frobnicate", 7), ("frobnicate",)),
    "config value": (tiny.config_key("hidden_act", "gelu_new"), ("gelu_new",)),
    "unknown architecture": (tiny.config_key("model_type", "mamba9"), ("mamba9", "qwen2")),
    "config is no JSON": (tiny.content("config.json", lambda data: data[:30]), ("config.json",)),
    "no config": (lambda folder: (folder / "config.json").unlink(), ("config.json",)),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), ("tokenizer",)),
    "broken tokenizer": (tiny.content("tokenizer.json", lambda data: data[:200]), ("tokenizer.json",)),
    "pickled weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        ("safetensors",),
    ),
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PARITY_SOURCES", "folder")
    for name in ("PARITY_MODELS", "PARITY_MIRROR", "PARITY_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def refused(run: Run, *words: str, told: tuple[str, ...] = ()) -> str:
    """Runs it and checks that it ends as a mistake of the user's should."""
    code, out, err = run(*words)
    assert code == 2, err
    assert out == ""
    assert err.splitlines()[-1].startswith("parity: error: ") or "\nparity: error: " in f"\n{err}"
    assert "Traceback" not in err
    for part in told:
        assert part in err
    return err


def test_the_model_as_it_is_answers(run: Run, model: Path) -> None:
    code, out, err = run("chat", str(model), "-p", "hello", "--max-tokens", "4", "--temp", "0", "--log-level", "error")
    assert (code, err) == (0, "")
    assert out.endswith("\n")


@pytest.mark.parametrize("case", CASES)
def test_damaged_models(run: Run, model: Path, tmp_path: Path, case: str) -> None:
    damage, told = CASES[case]
    broken = tiny.damaged(model, tmp_path / "broken", damage)
    refused(run, "chat", str(broken), "-p", "hello", told=told)


@pytest.mark.parametrize("size", [0, 3, 4, 20, 100_000])
def test_truncated_gguf(run: Run, default_model: Path, tmp_path: Path, size: int) -> None:
    broken = tmp_path / "cut.gguf"
    with default_model.open("rb") as file:
        broken.write_bytes(file.read(size))
    refused(run, "chat", str(broken), "-p", "hello", told=("cut.gguf",))


@pytest.mark.parametrize("at", [0, 4, 8, 12, 16, 23, 24, 31])
def test_gguf_with_a_flipped_bit_in_its_header(run: Run, default_model: Path, tmp_path: Path, at: int) -> None:
    broken = tmp_path / "flipped.gguf"
    with default_model.open("rb") as file:
        data = bytearray(file.read(6 << 20))
    data[at] ^= 0x40
    broken.write_bytes(data)
    refused(run, "chat", str(broken), "-p", "hello", told=("flipped.gguf",))


def test_unknown_models(run: Run, tmp_path: Path) -> None:
    refused(run, "chat", "no-such-model", "-p", "x", told=("'no-such-model'", "`parity models` lists it"))
    refused(run, "chat", "./no/such/folder", "-p", "x", told=("./no/such/folder does not exist",))
    refused(run, "chat", str(tmp_path / "gone.gguf"), "-p", "x", told=("gone.gguf does not exist",))
    refused(run, "chat", str(tmp_path), "-p", "x", told=("no config.json and no .gguf",))
    refused(run, "models", "rm", "qwen3-8b", "--yes", told=("qwen3-8b is not in",))
    refused(run, "chat", "a", "--model", "b", "-p", "x", told=("two models",))


def test_wrong_hash(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shelf" / "Qwen2.5-Coder-0.5B-Instruct-GGUF"
    folder.mkdir(parents=True)
    (folder / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf").write_bytes(b"GGUF" + bytes(1000))
    monkeypatch.setenv("PARITY_MODELS", str(folder.parent))
    refused(run, "pull", "qwen2.5-coder-0.5b", told=("not the pinned file", "SHA-256"))
    assert not list((tmp_path / "home").rglob("*.gguf"))


def test_no_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_SOURCES", "mirror")
    monkeypatch.setenv("PARITY_MIRROR", "http://127.0.0.1:9/")
    refused(run, "pull", "qwen3-8b", told=("could not be fetched", "mirror"))
    monkeypatch.setenv("PARITY_OFFLINE", "1")
    refused(run, "pull", "qwen3-8b", told=("offline",))


def test_no_disk_space(run: Run, default_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf" / "Qwen2.5-Coder-0.5B-Instruct-GGUF"
    shelf.mkdir(parents=True)
    (shelf / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf").symlink_to(default_model)
    monkeypatch.setenv("PARITY_MODELS", str(shelf.parent))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(run, "pull", told=("GB free", "PARITY_HOME"))


def test_full_disk_while_writing(run: Run, model: Path, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    prompts = tmp_path / "in.jsonl"
    prompts.write_text('"hello"\n', "utf-8")
    words = ("generate", str(model), "-i", str(prompts), "-o", "/dev/full", "--overwrite", "--max-tokens", "2")
    refused(run, *words, told=("/dev/full: No space left", "make room"))


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("serve", "--help"), ()])
@pytest.mark.parametrize("buffered", [True, False])
def test_help_that_cannot_be_written(words: tuple[str, ...], buffered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb", buffering=0) as raw:
        out = io.TextIOWrapper(io.BufferedWriter(raw) if buffered else raw, "utf-8", write_through=not buffered)
        monkeypatch.setattr(sys, "stdout", out)
        assert main(words) == 2
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            out.close()


def test_memory_that_runs_out(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("parity.cli.options.open_model", empty)
    refused(run, "chat", str(model), "-p", "x", told=("memory ran out", "smaller model"))
    told = "of 64 threads of the cpu stack only 3 could be started: give it fewer"
    monkeypatch.setattr("parity.cli.options.open_model", lambda *_: exec(f"raise RuntimeError({told!r})"))
    refused(run, "chat", str(model), "-p", "x", told=(told,))
    monkeypatch.setattr("parity.cli.options.open_model", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):  # what only a programmer can read is not made to look like it
        run("chat", str(model), "-p", "x")


def test_a_name_that_is_near_a_model_of_the_catalogue(run: Run) -> None:
    refused(run, "pull", "qwen3-0.6", told=("no model 'qwen3-0.6'", "did you mean qwen3-0.6b"))
    refused(run, "pull", "abacus", told=("no model 'abacus'", "`parity models` lists it"))
    refused(run, "pull", "", told=("no model ''",))
    refused(run, "chat", "", "-p", "x", told=("no model ''",))
    refused(run, "models", "rm", "qwen3-0.6", told=("did you mean qwen3-0.6b",))
    refused(run, "models", "rm", "qwen3-8b", told=("qwen3-8b is not in",))


def test_a_result_that_could_not_be_written(run: Run, model: Path, tmp_path: Path) -> None:
    refused(run, "bench", str(model), "--json", str(tmp_path / "none" / "x.json"), told=("none is no folder",))


def test_no_read_permission(run: Run, model: Path, tmp_path: Path) -> None:
    locked = tiny.damaged(model, tmp_path / "locked", lambda folder: (folder / "model.safetensors").chmod(0))
    run("chat", str(model), "-p", "x", "--max-tokens", "1")  # what is imported then need not be read later
    root = os.geteuid() == 0
    if root:
        tmp_path.chmod(0o755)
        os.seteuid(65534)
    try:
        refused(run, "chat", str(locked), "-p", "x", told=("ermission",))
    finally:
        if root:
            os.seteuid(0)


def test_prompt_longer_than_the_context(run: Run, model: Path) -> None:
    told = ("the maximum context length is 16", "--max-model-len")
    refused(run, "chat", str(model), "-p", "hello " * 50, "--max-model-len", "16", told=told)
    refused(run, "generate", str(model), "-p", "hello " * 50, "--max-model-len", "16", "--json", told=told)
    refused(run, "chat", str(model), "-p", "x", "--max-model-len", "9999", told=("256", "lower it"))


def test_no_memory_for_pages(run: Run, model: Path) -> None:
    refused(run, "chat", str(model), "-p", "x", "--memory-fraction", "0.0000001", told=("memory",))


def test_wrong_places_to_run(run: Run, model: Path) -> None:
    refused(run, "chat", str(model), "-p", "x", "--stack", "abacus", told=("'abacus'", "cpu"))
    refused(run, "chat", str(model), "-p", "x", "--stack", "cpu:abacus", told=("'abacus'", "reference"))
    refused(run, "stacks", "abacus", told=("'abacus'",))


def test_wrong_tokens(run: Run, model: Path, tmp_path: Path) -> None:
    prompts, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"tokens": [99999]}\n{"tokens": []}\n', "utf-8")
    code, _, err = run("generate", str(model), "-i", str(prompts), "-o", str(out))
    assert code == 2
    assert "2 of 2 prompts have no answer" in err
    assert "99999" in out.read_text("utf-8")
