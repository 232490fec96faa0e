"""Folders with models: those in PARITY_MODELS."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..catalogue import File, Wanted
from .base import Count, Source, SourceFailed

_CHUNK = 1 << 22


class FolderSource(Source):
    """`<folder>/<organisation>/<repository>/`, `<folder>/<repository>/`, `<folder>/<name>/`, or a file in the folder itself."""

    network = False

    def files(self, wanted: Wanted) -> Sequence[File]:
        for place in self._places(wanted):
            if place.is_dir() and place not in self.settings.folders:
                return [File(path.name, path.stat().st_size) for path in sorted(place.iterdir()) if path.is_file()]
        raise SourceFailed(self._absent(wanted.repo))

    def fetch(self, wanted: Wanted, file: File, part: Path, count: Count) -> None:
        for place in self._places(wanted):
            path = place / file.name
            if path.is_file():
                try:
                    return _copy(path, part, count)
                except OSError as error:
                    raise SourceFailed(f"{path}: {error.strerror}") from None
        raise SourceFailed(self._absent(file.name))

    def _places(self, wanted: Wanted) -> list[Path]:
        repository = wanted.repo.rpartition("/")[2]
        return [
            place
            for folder in self.settings.folders
            for place in (folder / wanted.repo, folder / repository, folder / wanted.name, folder)
        ]

    def _absent(self, what: str) -> str:
        if not self.settings.folders:
            return "not configured (PARITY_MODELS names no folder)"
        return f"{what} is in none of {', '.join(map(str, self.settings.folders))}"


def _copy(path: Path, part: Path, count: Count) -> None:
    with path.open("rb") as source, part.open("wb") as target:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
            count(target.tell())
    shutil.copystat(path, part)
    part.chmod(0o644)
