"""Changes of a checkpoint's files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

Array = npt.NDArray[Any]
Edit = Callable[[Path], None]


def config(**changes: Any) -> Edit:
    """Sets keys of config.json; a dict is merged into the one that is there."""

    def edit(folder: Path) -> None:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        for key, value in changes.items():
            values[key] = values[key] | value if isinstance(value, dict) and isinstance(values.get(key), dict) else value
        path.write_text(json.dumps(values))

    return edit


def tensors(pattern: str, change: Callable[[Array], Array]) -> Edit:
    """Changes every tensor whose name matches."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        found = safetensors.numpy.load_file(path)
        names = [name for name in found if re.fullmatch(pattern, name)]
        assert names, f"no tensor matches {pattern}"
        for name in names:
            found[name] = np.ascontiguousarray(change(found[name]).astype(np.float32))
        safetensors.numpy.save_file(found, path, {"format": "pt"})

    return edit


def both(one: Edit, other: Edit) -> Edit:
    """One change after the other."""

    def edit(folder: Path) -> None:
        one(folder)
        other(folder)

    return edit


def swapped(one: str, other: str) -> Edit:
    """Exchanges tensors: a name with `one` in it gets what the name with `other` instead holds."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        found = safetensors.numpy.load_file(path)
        for name in [name for name in found if one in name]:
            partner = name.replace(one, other)
            found[name], found[partner] = found[partner], found[name]
        safetensors.numpy.save_file(found, path, {"format": "pt"})

    return edit


def template(change: Callable[[str], str]) -> Edit:
    """Changes the chat template."""

    def edit(folder: Path) -> None:
        jinja, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
        if jinja.is_file():
            jinja.write_text(change(jinja.read_text()))
            return
        values = json.loads(path.read_text())
        values["chat_template"] = change(values["chat_template"])
        path.write_text(json.dumps(values))

    return edit


def rounded(bits: int, block: int = 32) -> Callable[[Array], Array]:
    """A matrix rounded to integers with a scale for each block of a row."""

    def change(matrix: Array) -> Array:
        parts = matrix.reshape(-1, block)
        scale = np.abs(parts).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        return np.asarray((np.round(parts / np.where(scale == 0, 1, scale)) * scale).reshape(matrix.shape))

    return change


def shifted_scales(matrix: Array, block: int = 32) -> Array:
    """A matrix whose blocks carry the scales of their neighbours."""
    parts = matrix.reshape(matrix.shape[0], -1, block)
    scale = np.abs(parts).max(axis=2, keepdims=True)
    return np.asarray((parts / scale * np.roll(scale, 1, axis=1)).reshape(matrix.shape))


def interleaved(heads: int) -> Callable[[Array], Array]:
    """Rows of q or k as they look when a half-split rotation is taken for an interleaved one."""

    def change(matrix: Array) -> Array:
        parts = matrix.reshape(heads, -1, *matrix.shape[1:])
        half = parts.shape[1] // 2
        return np.asarray(np.stack([parts[:, :half], parts[:, half:]], axis=2).reshape(matrix.shape))

    return change
