"""Places that carry models. Each says what a repository holds, or fetches one file into a partial file; the hash decides."""

from __future__ import annotations

from collections.abc import Mapping

from parity.core.errors import UsageError

from ..settings import HubSettings
from .base import Source, SourceFailed
from .cache import CacheSource
from .folder import FolderSource
from .huggingface import HuggingFaceSource
from .index import IndexSource
from .mirror import MirrorSource
from .modelscope import ModelScopeSource

__all__ = ["SOURCES", "Source", "SourceFailed", "make_source"]

SOURCES: Mapping[str, type[Source]] = {
    "folder": FolderSource,
    "cache": CacheSource,
    "mirror": MirrorSource,
    "huggingface": HuggingFaceSource,
    "modelscope": ModelScopeSource,
    "index": IndexSource,
}
"""Every kind of source by the name used in PARITY_SOURCES and in the catalogue."""


def make_source(name: str, settings: HubSettings) -> Source:
    """The source of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in SOURCES:
        raise UsageError(f"no source {name!r} (PARITY_SOURCES, --source); there are {', '.join(SOURCES)}")
    return SOURCES[name](settings)
