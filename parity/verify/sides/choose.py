"""What a side's name stands for: a pack, an endpoint or a stack in this process; and opening it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import FormatError, UsageError
from ..packs import MAGIC
from ..settings import Settings
from .base import Side
from .endpoint import EndpointSide


def is_pack(spec: str) -> bool:
    """Whether a side is a file that begins as a pack does, or is named like one."""
    path = Path(spec)
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC or path.suffix == ".pack"
    except OSError as error:
        if path.suffix == ".pack":
            raise FormatError(f"cannot read the pack {spec}: {error.strerror}") from None
        return False


def is_url(spec: str) -> bool:
    """Whether a side is an endpoint."""
    return spec.startswith(("http://", "https://"))


def refuse_packing(specs: Sequence[str]) -> None:
    """Raises if none of the sides that are given a recipe packs weights: one for both is for those that can.

    Raises:
        UsageError: all are endpoints or packs, which are what they are.
    """
    if specs and all(is_pack(spec) or is_url(spec) for spec in specs):
        raise UsageError(f"--quantize packs the weights that a local stack loads, and {' and '.join(specs)} loads none here")


def open_side(spec: str, settings: Settings, place: int = 0) -> Side:
    """A side that can be captured.

    Raises:
        ParityError: no such stack, model or endpoint.
    """
    if is_url(spec):
        variable = settings.key_variables[place]
        key = os.environ.get(variable) if variable else None
        if variable and not key:
            raise UsageError(f"the environment variable {variable} holds no key")
        words = None
        if settings.model:
            from .local import load_vocabulary

            words = load_vocabulary(settings.model)
        return EndpointSide(spec, model=settings.endpoint_models[place], key=key, limits=settings.limits, words=words)
    from .local import LocalSide

    recipe = settings.quantize[place]
    packing = {} if recipe is None else {"quantize": recipe}
    return LocalSide(spec, settings.model, **settings.options, **packing)
