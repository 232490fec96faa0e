"""Packed number formats: what each means (`expand`), how to make it (`pack`), and cutting rows without expanding."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import TypeVar, overload

import torch

from parity.core.errors import Unsupported
from parity.core.weights import Packed, Rows, Weight

from . import columns, float_blocks, gguf_blocks, gguf_super, int_groups
from .base import Format, Packer

__all__ = ["FORMATS", "Format", "expand", "format_of", "pack", "rows", "rows_per_entry", "stack", "unstack"]

T = TypeVar("T")

FORMATS: Mapping[str, Format] = {
    form.name: form for module in (gguf_blocks, gguf_super, float_blocks, int_groups, columns) for form in module.FORMATS
}
"""Every packed format by name."""

# Weights packed at a time: the temporaries stay in the cache, and below 32,768 elements torch starts no threads, whose
# barriers cost many times the work on a busy machine.
_CHUNK = 1 << 15
_AT_ONCE = 1 << 24  # on a device that is not the host
# Weights expanded at a time: in smaller chunks the operations' own cost, in larger ones fresh memory takes the longer.
_EXPANDED = 1 << 19


def format_of(name: str) -> Format:
    """The format by name.

    Raises:
        Unsupported: there is none of that name.
    """
    if name not in FORMATS:
        raise Unsupported(f"no weight format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def rows_per_entry(weight: Packed) -> Mapping[str, int]:
    """How many rows an entry of each array covers; arrays that have no entry for some rows each are left out."""
    return format_of(weight.format).rows_per_entry(weight) if weight.row_arrays is None else weight.row_arrays


def expand(weight: Weight, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The numbers of a weight, [..., out, in]: computed in float32 by the format's definition, then rounded to `dtype`."""
    if isinstance(weight, torch.Tensor):
        return weight.to(dtype)
    parts = weight.parts if isinstance(weight, Rows) else (weight,)
    out, start = torch.empty(weight.shape, dtype=dtype, device=_device(parts[0])), 0
    for part in parts:
        _expand_into(out[start : start + part.shape[0]], part)
        start += part.shape[0]
    return out


def _device(weight: torch.Tensor | Packed) -> torch.device:
    return weight.device if isinstance(weight, torch.Tensor) else next(iter(weight.arrays.values())).device


def _expand_into(out: torch.Tensor, weight: torch.Tensor | Packed) -> None:
    if isinstance(weight, torch.Tensor):
        out.copy_(weight)
        return
    form = format_of(weight.format)
    height, width = weight.shape[-2:]
    expanded = out.view(-1, height, width)
    matrices = {role: array.reshape(-1, *array.shape[len(weight.shape) - 2 :]) for role, array in weight.arrays.items()}
    per_entry = form.rows_per_entry(weight)
    unit = math.lcm(*per_entry.values()) if per_entry else height
    step = max(_EXPANDED // max(width, 1) // unit, 1) * unit

    def part(place: tuple[int, int]) -> None:
        matrix, start = place
        stop = min(start + step, height)
        arrays = {role: array[matrix] for role, array in matrices.items()}
        for role, per in per_entry.items():
            arrays[role] = arrays[role][start // per : -(-stop // per)]
        expanded[matrix, start:stop] = form.expand_matrix(arrays, (stop - start, width), weight.meta)

    places = [(matrix, start) for matrix in range(len(expanded)) for start in range(0, height, step)]
    _in_threads(part, places, out.device)


def pack(tensor: torch.Tensor, format: str, **meta: int) -> Packed:
    """The nearest weight in a format to `tensor` [..., out, in]; `meta` as the format's page says, such as `group_size`.

    Raises:
        Unsupported: the format cannot be made here, the width is not a multiple of its block, or a number is not finite.
    """
    form = format_of(format)
    if form.pack is None:
        makers = [name for name, other in FORMATS.items() if other.pack]
        raise Unsupported(f"weights cannot be made in {format}; they can in {', '.join(makers)}")
    multiple = math.lcm(form.multiple, meta.get("group_size", 1))
    if tensor.dim() < 2 or tensor.shape[-1] % multiple:
        raise Unsupported(f"{format} needs [..., out, in] with `in` a multiple of {multiple}, not {tuple(tensor.shape)}")
    if not torch.isfinite(tensor.sum(dtype=torch.float32)):
        raise Unsupported(f"a weight of shape {tuple(tensor.shape)} is not finite and cannot be packed in {format}")
    if not form.row_arrays or any(per != 1 for per in form.row_arrays.values()) or not tensor.numel():
        return form.pack(tensor.float(), meta)
    arrays, found = _pack_rows(form.pack, tensor.reshape(-1, tensor.shape[-1]), meta)
    shaped = {role: array.reshape(*tensor.shape[:-1], *array.shape[1:]) for role, array in arrays.items()}
    return Packed(format, tuple(tensor.shape), shaped, found)


def _pack_rows(
    packer: Packer, flat: torch.Tensor, meta: Mapping[str, int]
) -> tuple[dict[str, torch.Tensor], Mapping[str, int]]:
    """Some rows at a time, in threads of our own: (the arrays, the format's numbers)."""
    step = max((_CHUNK if flat.device.type == "cpu" else _AT_ONCE) // flat.shape[1], 1)
    first = packer(flat[:step].float(), meta)
    arrays = {role: array.new_empty(len(flat), *array.shape[1:]) for role, array in first.arrays.items()}

    def part(start: int) -> None:
        packed = packer(flat[start : start + step].float(), meta) if start else first
        for role, array in packed.arrays.items():
            arrays[role][start : start + step] = array

    _in_threads(part, range(0, len(flat), step), flat.device)
    return arrays, first.meta


def _in_threads(work: Callable[[T], None], places: Sequence[T], device: torch.device) -> None:
    """Does all of the work, on the host in threads of our own."""
    if device.type != "cpu" or len(places) < 2:
        for place in places:
            work(place)
        return
    inference = torch.is_inference_mode_enabled()  # threads do not take it over, and it decides what may be written to

    def one(place: T) -> None:
        with torch.inference_mode(inference):
            work(place)

    list(_threads(torch.get_num_threads(), os.getpid()).map(one, places))


@cache
def _threads(count: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay: a thread's first use of PyTorch starts others for it, which takes longer than a small matrix."""
    return ThreadPoolExecutor(count)


def rows(weight: torch.Tensor | Packed, index: torch.Tensor) -> torch.Tensor | Packed:
    """Some rows (the second last dimension) in the order of `index`, int64 [n]; nothing is expanded.

    Raises:
        Unsupported: the format does not store rows apart.
    """
    if isinstance(weight, torch.Tensor):
        return weight.index_select(max(weight.dim() - 2, 0), index)
    form = format_of(weight.format)
    if not form.row_arrays:
        raise Unsupported(f"{weight.format} does not keep its rows apart; expand it first")
    axis = len(weight.shape) - 2
    selected = {role: _select(weight.arrays[role], axis, index // per) for role, per in form.rows_per_entry(weight).items()}
    arrays = dict(weight.arrays) | selected  # what has no entry for each row, such as the order of the inputs, is every row's
    meta = dict(weight.meta) | {per: 1 for per in form.row_arrays.values() if isinstance(per, str)}
    return Packed(weight.format, (*weight.shape[:-2], len(index), weight.shape[-1]), arrays, meta)


def stack(weights: Sequence[torch.Tensor | Packed]) -> torch.Tensor | Packed:
    """Equal-shaped weights, such as experts, one above the other: [n, out, in].

    Raises:
        Unsupported: they are of several kinds.
    """
    first = weights[0]
    kinds = {(w.format, w.shape, *sorted(w.meta.items())) if isinstance(w, Packed) else w.dtype for w in weights}
    if len(kinds) > 1:
        raise Unsupported(f"weights of different kinds cannot be stacked: {sorted(map(str, kinds))}")
    if isinstance(first, torch.Tensor):
        return torch.stack([weight for weight in weights if isinstance(weight, torch.Tensor)])
    packed = [weight for weight in weights if isinstance(weight, Packed)]
    arrays = {role: _stack([weight.arrays[role] for weight in packed]) for role in first.arrays}
    return Packed(first.format, (len(weights), *first.shape), arrays, first.meta)


def laid_by_rows(weight: Packed) -> Packed | None:
    """A matrix, or a stack of them, with its rows apart: `awq` and `gptq` as `int4_zero`, others as they are.

    None where groups differ in size, or the matrices of a stack have their inputs in orders of their own: their activations
    would be needed once for each order.
    """
    if weight.format not in ("awq", "gptq"):
        return weight
    if len(weight.shape) == 2:
        return columns.by_rows(weight)
    each = [columns.by_rows(one) for one in unstack(weight)]
    found = [one for one in each if one is not None and "order" not in one.arrays]
    if len(found) < len(each):
        return None
    joined = stack(found)
    assert isinstance(joined, Packed)  # as all of them are
    return joined


@overload
def unstack(weight: torch.Tensor) -> list[torch.Tensor]: ...
@overload
def unstack(weight: Packed) -> list[Packed]: ...
def unstack(weight: torch.Tensor | Packed) -> list[torch.Tensor] | list[Packed]:
    """The matrices of a stack [n, out, in], as views."""
    if isinstance(weight, torch.Tensor):
        return list(weight.unbind())
    return [
        replace(weight, shape=weight.shape[1:], arrays={role: array[index] for role, array in weight.arrays.items()})
        for index in range(weight.shape[0])
    ]


def _select(array: torch.Tensor, axis: int, index: torch.Tensor) -> torch.Tensor:
    # Torch has no index_select for the eight-bit floats: their bytes do as well.
    if array.dtype.itemsize == 1:
        return array.view(torch.uint8).index_select(axis, index).view(array.dtype)
    return array.index_select(axis, index)


def _stack(arrays: list[torch.Tensor]) -> torch.Tensor:
    if arrays[0].dtype.itemsize == 1:
        return torch.stack([array.view(torch.uint8) for array in arrays]).view(arrays[0].dtype)
    return torch.stack(arrays)
