"""Where pulled models are kept: a file has its final name only when complete and verified, and one process at a time makes it.

PARITY_HOME/models/<repository>@<revision>/   the model's files, and parity.json, written last, that lists them
PARITY_HOME/locks/                            one lock for each model
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.core.errors import CapacityError, HashMismatch

from .catalogue import File, Wanted

log = logging.getLogger("parity")

MANIFEST = "parity.json"
_CHUNK = 1 << 22

Progress = Callable[[str, int, int | None], None]
"""Called as (file name, bytes so far, bytes in all if known)."""


@dataclass(frozen=True, slots=True)
class Store:
    """The models in one PARITY_HOME."""

    home: Path

    def folder(self, wanted: Wanted) -> Path:
        """Where a model's files are, or would be."""
        return self.home / "models" / wanted.folder

    def find(self, wanted: Wanted) -> Path | None:
        """A complete model: its folder, or its `.gguf` file (the first part of a split one)."""
        manifest = self.manifest(wanted)
        if manifest is None:
            return None
        folder = self.folder(wanted)
        names = sorted(file["name"] for file in manifest["files"])
        if not all((folder / name).is_file() for name in names):
            return None
        ggufs = [name for name in names if name.endswith(".gguf")]
        return folder / ggufs[0] if ggufs and "config.json" not in names else folder

    def manifest(self, wanted: Wanted) -> dict[str, Any] | None:
        """What was recorded of a complete model; None if there is nothing, or nothing that makes sense."""
        return _read_manifest(self.folder(wanted) / MANIFEST)

    def record(self, wanted: Wanted, files: Sequence[File], origin: Mapping[str, str]) -> None:
        """Marks a model as complete."""
        listed = [{"name": file.name, "size": file.size, "sha256": file.sha256, "source": origin[file.name]} for file in files]
        document = {"name": wanted.name, "repo": wanted.repo, "revision": wanted.revision, "files": listed}
        path = self.folder(wanted) / MANIFEST
        partial = path.with_name(path.name + ".part")
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)

    def clean(self, wanted: Wanted) -> None:
        """Deletes what interrupted attempts left of a model that is complete."""
        for path in self.folder(wanted).glob("*.part*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def manifests(self) -> Iterator[dict[str, Any]]:
        """What was recorded of every complete model."""
        for path in sorted((self.home / "models").glob(f"*/{MANIFEST}")):
            if (found := _read_manifest(path)) is not None:
                yield found

    def remove(self, wanted: Wanted) -> int:
        """Deletes a model, complete or not; returns the bytes freed."""
        with self.lock(wanted):
            folder = self.folder(wanted)
            (folder / MANIFEST).unlink(missing_ok=True)
            freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
            shutil.rmtree(folder, ignore_errors=True)
        return freed

    @contextmanager
    def lock(self, wanted: Wanted) -> Iterator[None]:
        """Waits until no other process works on the model. The system releases it if this process is killed."""
        locks = self.home / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{wanted.folder}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process is fetching %s; waiting for it", wanted.name)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def check_space(self, wanted: Wanted, files: Sequence[File], copies: int = 1) -> None:
        """Makes sure that what is missing fits on the disk.

        Raises:
            CapacityError: it does not.
        """
        folder = self.folder(wanted)
        needed = 0
        for file in files:
            if file.size and not (folder / file.name).is_file():
                part = part_of(folder / file.name)
                needed += copies * file.size - (part.stat().st_size if part.is_file() else 0)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise CapacityError(
                f"{wanted.name} needs {needed / 1e9:.1f} GB more and {self.home} has {free / 1e9:.1f} GB free; "
                "remove a model (parity models rm) or set PARITY_HOME to another disk"
            )


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
        files = found["files"]
        sound = files and isinstance(found["name"], str) and isinstance(found["revision"], str)
        sound = sound and all(isinstance(file["size"], int) and Path(file["name"]).name == file["name"] for file in files)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if sound else None


def part_of(path: Path) -> Path:
    """The name that a file has until it is complete."""
    return path.with_name(path.name + ".part")


def finish(part: Path, path: Path, file: File) -> File:
    """Gives a downloaded file its final name, if it is what it should be.

    Returns:
        the file with its size and hash.

    Raises:
        HashMismatch: it is not; the part is deleted.
    """
    size, digest = part.stat().st_size, sha256_of(part)
    if file.sha256 not in (None, digest) or (file.size is not None and file.size != size):
        part.unlink()
        raise HashMismatch(
            f"{path.name} is not the pinned file: {size} bytes with SHA-256 {digest}, not {file.size} with {file.sha256}"
        )
    with part.open("rb") as done:
        os.fsync(done.fileno())
    part.replace(path)
    return File(file.name, size, digest, file.index)


def sha256_of(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
