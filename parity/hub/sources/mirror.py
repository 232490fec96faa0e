"""A plain HTTP(S) mirror: files under `<base>/<organisation>/<repository>/`, or straight under the base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..catalogue import File, Wanted
from ..file_names import INDEX
from . import http
from .base import Count, Source, SourceFailed

_OPTIONAL = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "tiktoken.model", "engram_token_map.json",
    "modules.json",
)  # fmt: skip


class MirrorSource(Source):
    """The mirror that PARITY_MIRROR names."""

    def files(self, wanted: Wanted) -> Sequence[File]:
        """A plain server cannot say what it has: known names are asked for, and the shards that the index names."""
        self._base()
        if self._get(wanted, "config.json") is None:
            raise SourceFailed(f"{self._url(wanted, 'config.json')}: not there")
        index = self._get(wanted, INDEX)
        found = [File("config.json")] + [File(name) for name in _OPTIONAL if self._get(wanted, name) is not None]
        if index is None:
            return [*found, File("model.safetensors")]
        try:
            shards = sorted(set(json.loads(index)["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SourceFailed(f"{self._url(wanted, INDEX)} is no index") from None
        return [*found, File(INDEX), *(File(str(name)) for name in shards)]

    def fetch(self, wanted: Wanted, file: File, part: Path, count: Count) -> None:
        try:
            http.download(self._url(wanted, file.name), file, part, count)
        except SourceFailed as first:
            if "404" not in str(first):
                raise
            http.download(f"{self._base()}/{file.name}", file, part, count)

    def _get(self, wanted: Wanted, name: str) -> bytes | None:
        return http.get(self._url(wanted, name))

    def _url(self, wanted: Wanted, name: str) -> str:
        return f"{self._base()}/{wanted.repo}/{name}"

    def _base(self) -> str:
        if not self.settings.mirror:
            raise SourceFailed("not configured (PARITY_MIRROR names no URL)")
        return self.settings.mirror.rstrip("/")
