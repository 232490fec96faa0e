"""What the registry knows of an architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.weights import Rule
    from .decoder import Decoder


@dataclass(frozen=True)
class Architecture:
    """One architecture: how to build it and how its checkpoints are named.

    Args:
        model_types: the config's `model_type`s that mean it.
        build: (config fields, kernel table, compute dtype) -> the model without weights; takes every field it uses.
        drafts: whether `build` takes `draft=True`, for the model with its draft layers.
        rules: from checkpoint names to module names.
        checkpoints: released models, for the table of `parity models --architectures`.
        formats: in which its tests load it, beside float32; other formats are read the same way but untested on it.
        reference: the implementation that its logits are tested against.
        missing: what of it is not supported, in words.
    """

    model_types: tuple[str, ...]
    build: Callable[..., Decoder]
    drafts: bool = False
    rules: tuple[Rule, ...] = ()
    checkpoints: str = ""
    formats: str = ""
    reference: str = ""
    missing: str = ""
