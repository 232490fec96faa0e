"""Hugging Face's own cache on this machine (HF_HOME, HF_HUB_CACHE): what other programs have downloaded; no network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..catalogue import File, Wanted
from ..file_names import INDEX
from .base import Count, Source, SourceFailed


class CacheSource(Source):
    """Files are linked where the disk allows, so that nothing is there twice."""

    network = False

    def files(self, wanted: Wanted) -> Sequence[File]:
        snapshot = _snapshot(wanted)
        present = {path.name: path.stat().st_size for path in sorted(snapshot.iterdir()) if path.is_file()}
        if INDEX in present:
            try:
                shards = set(json.loads((snapshot / INDEX).read_bytes())["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError):
                raise SourceFailed(f"{snapshot / INDEX} is no index") from None
            if not shards <= present.keys():
                raise SourceFailed(f"{snapshot} is not complete")
        return [File(name, size) for name, size in present.items()]

    def fetch(self, wanted: Wanted, file: File, part: Path, count: Count) -> None:
        path = _snapshot(wanted) / file.name
        if not path.is_file():
            raise SourceFailed(f"{path} is not there")
        part.unlink(missing_ok=True)
        try:
            os.link(path.resolve(), part)
        except OSError:
            shutil.copyfile(path, part)
        count(part.stat().st_size)


def _snapshot(wanted: Wanted) -> Path:
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{wanted.repo.replace('/', '--')}"
    reference = repository / "refs" / wanted.revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else wanted.revision
    snapshot = repository / "snapshots" / commit
    if not snapshot.is_dir():
        raise SourceFailed(f"{wanted.repo} at {wanted.revision} is not in {constants.HF_HUB_CACHE}")
    return snapshot
