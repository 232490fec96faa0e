"""A checkpoint with its tensors in another arrangement or form, made as they are read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from ..core.weights import Packed
from ..formats import FORMATS, expand, rows, stack, unstack
from ..hub.checkpoint import Checkpoint, TensorInfo
from ..hub.derived import DerivedCheckpoint

Read = Callable[[], "torch.Tensor | Packed"]

_ONE = re.compile(r"(.+\.experts)\.(\d+)\.((?:gate|up|down)_proj\.weight)")
_ALL = re.compile(r"(.+\.experts)\.((?:gate|up|down)_proj\.weight)")
_FUSED = re.compile(r"(.+\.experts)\.(gate_up|down)_proj")


@dataclass(frozen=True)
class Made:
    """A tensor: what it is, the other checkpoint's that it is made from, and how."""

    info: TensorInfo
    sources: tuple[str, ...]
    read: Read


class Relaid(DerivedCheckpoint):
    """Another checkpoint's config and texts with tensors of its own, by name."""

    def __init__(self, checkpoint: Checkpoint, tensors: Mapping[str, Made]) -> None:
        super().__init__(checkpoint)
        self._made = tensors
        self.tensors: Mapping[str, TensorInfo] = {name: made.info for name, made in tensors.items()}

    def read(self, name: str) -> torch.Tensor | Packed:
        """The tensor, made now."""
        return self._made[name].read()

    def release(self, name: str | None = None) -> None:
        """Of all that it was made from."""
        if name is None:
            self._checkpoint.release()
            return
        for source in self._made[name].sources:
            self._checkpoint.release(source)


def expanded(checkpoint: Checkpoint, dtype: torch.dtype | None, exact: frozenset[str] = frozenset()) -> Relaid:
    """Everything in a dtype, packed matrices expanded, but integers as they are and `exact` names in float32.

    Args:
        dtype: None leaves plain tensors as they are; then none may be packed.
    """
    found: dict[str, Made] = {}
    for name, info in checkpoint.tensors.items():
        target = torch.float32 if name in exact else dtype
        if target is None:
            assert info.format not in FORMATS, f"{name} is {info.format}"
            found[name] = Made(info, (name,), _plain(checkpoint, name))
        elif info.format in FORMATS or _is_real(info.format):
            size = torch.Size(info.shape).numel() * target.itemsize
            changed = dataclasses.replace(info, format=str(target).removeprefix("torch."), nbytes=size)
            found[name] = Made(changed, (name,), _expand(checkpoint, name, target))
        else:
            found[name] = Made(info, (name,), _plain(checkpoint, name))
    return Relaid(checkpoint, found)


def named(checkpoint: Checkpoint, sources: Mapping[str, str]) -> Relaid:
    """Some tensors under other names: the new name to the old."""
    return Relaid(
        checkpoint,
        {
            name: Made(dataclasses.replace(checkpoint.tensors[source], name=name), (source,), _plain(checkpoint, source))
            for name, source in sources.items()
        },
    )


def with_experts(checkpoint: Checkpoint, form: Literal["stacked", "single"]) -> Checkpoint:
    """Experts as GGUF has them, one tensor for all of a layer, or as safetensors have them, one for each."""
    found = _stacked(checkpoint) if form == "stacked" else _single(checkpoint)
    return checkpoint if found is None else Relaid(checkpoint, found)


def _stacked(checkpoint: Checkpoint) -> dict[str, Made] | None:
    members: dict[str, dict[int, str]] = {}
    found: dict[str, Made] = {}
    for name, info in checkpoint.tensors.items():
        if match := _ONE.fullmatch(name):
            members.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = name
        elif (match := _FUSED.fullmatch(name)) and match[2] == "gate_up":
            half = info.shape[-2] // 2
            for start, part in enumerate(("gate_proj", "up_proj")):
                index = torch.arange(start * half, (start + 1) * half)
                shape = (*info.shape[:-2], half, info.shape[-1])
                changed = dataclasses.replace(info, name=f"{match[1]}.{part}.weight", shape=shape, nbytes=info.nbytes // 2)
                found[changed.name] = Made(changed, (name,), _rows(checkpoint, name, index))
        elif match:
            changed = dataclasses.replace(info, name=f"{name}.weight")
            found[changed.name] = Made(changed, (name,), _plain(checkpoint, name))
        else:
            found[name] = Made(info, (name,), _plain(checkpoint, name))
    for name, numbered in members.items():
        names = [numbered[index] for index in sorted(numbered)]
        first = checkpoint.tensors[names[0]]
        size = sum(checkpoint.tensors[one].nbytes for one in names)
        changed = dataclasses.replace(first, name=name, shape=(len(names), *first.shape), nbytes=size)
        found[name] = Made(changed, tuple(names), _stack(checkpoint, names))
    return None if found.keys() == checkpoint.tensors.keys() else found


def _single(checkpoint: Checkpoint) -> dict[str, Made] | None:
    found: dict[str, Made] = {}
    for name, info in checkpoint.tensors.items():
        match = _ALL.fullmatch(name)
        if not match or len(info.shape) != 3:
            found[name] = Made(info, (name,), _plain(checkpoint, name))
            continue
        for index in range(info.shape[0]):
            one = f"{match[1]}.{index}.{match[2]}"
            changed = dataclasses.replace(info, name=one, shape=info.shape[1:], nbytes=info.nbytes // info.shape[0])
            found[one] = Made(changed, (name,), _one(checkpoint, name, index))
    return None if found.keys() == checkpoint.tensors.keys() else found


def _is_real(form: str) -> bool:
    return form.startswith(("float", "bfloat")) and form not in FORMATS


def _plain(checkpoint: Checkpoint, name: str) -> Read:
    return lambda: checkpoint.read(name)


def _expand(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Read:
    return lambda: expand(checkpoint.read(name), dtype)


def _rows(checkpoint: Checkpoint, name: str, index: torch.Tensor) -> Read:
    return lambda: rows(checkpoint.read(name), index)


def _stack(checkpoint: Checkpoint, names: list[str]) -> Read:
    return lambda: stack([checkpoint.read(name) for name in names])


def _one(checkpoint: Checkpoint, name: str, index: int) -> Read:
    return lambda: unstack(checkpoint.read(name))[index]
