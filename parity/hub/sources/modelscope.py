"""ModelScope, by its public file addresses."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..catalogue import File, Wanted
from . import http
from .base import Count, Source, SourceFailed


class ModelScopeSource(Source):
    """The hub at MODELSCOPE_DOMAIN (www.modelscope.cn). Its revisions are its own: pinned content is sought on `master`."""

    def files(self, wanted: Wanted) -> Sequence[File]:
        url = f"{_base()}/api/v1/models/{wanted.repo}/repo/files?Revision={_revision(wanted)}"
        raw = http.get(url)
        try:
            listed = json.loads(raw or b"")["Data"]["Files"]
            return [File(one["Path"], one.get("Size"), one.get("Sha256") or None) for one in listed if one["Type"] == "blob"]
        except (ValueError, KeyError, TypeError):
            raise SourceFailed(f"{url}: no list of files") from None

    def fetch(self, wanted: Wanted, file: File, part: Path, count: Count) -> None:
        http.download(f"{_base()}/models/{wanted.repo}/resolve/{_revision(wanted)}/{file.name}", file, part, count)


def _base() -> str:
    return f"https://{os.environ.get('MODELSCOPE_DOMAIN', 'www.modelscope.cn')}"


def _revision(wanted: Wanted) -> str:
    return "master" if wanted.pinned or wanted.revision == "main" else wanted.revision
