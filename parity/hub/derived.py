"""A checkpoint made from another: its tensors are its own, all else is the other's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint, TextSource


class DerivedCheckpoint:
    """What a checkpoint has from the one that it is made from.

    Args:
        checkpoint: that one.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def path(self) -> Path:
        """Of the original."""
        return self._checkpoint.path

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the original."""
        return self._checkpoint.config

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """Of the original."""
        return self._checkpoint.generation_config

    @property
    def text_source(self) -> TextSource:
        """Of the original."""
        return self._checkpoint.text_source
