"""Weights of every packed format: made from normal numbers where the format can be, else of valid random codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ...core.weights import Packed
from ...formats import FORMATS, format_of, pack, stack
from .case import Make

_DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Bytes of a 256-weight block; where its float16 scale stands; where the scale of its minimum, and how many times the first
# it is so that random codes have a mean of zero, as weights do. Without that, sums are of one sign and say little of errors.
_BLOCKS: Mapping[str, tuple[int, int, tuple[int, float] | None]] = {
    "q2_k": (84, 80, (82, 1.5)),
    "q3_k": (110, 108, None),
    "q4_k": (144, 0, (2, 7.5)),
    "q5_k": (176, 0, (2, 15.5)),
    "q6_k": (210, 208, None),
}


def weights(make: Make, height: int, width: int, experts: int | None = None) -> Iterator[tuple[str, Tensor | Packed]]:
    """(what it is, weight [height, width] or [experts, height, width]) in each of the stack's formats.

    The width is rounded up to a multiple of the format's block.
    """
    for name in sorted(make.formats):
        for meta in _META.get(name, ({},)):
            label = name + "".join(f" {key} {value}" for key, value in meta.items())
            if experts is None:
                yield label, one(make, name, height, width, meta)
            else:
                yield label, stack([one(make, name, height, width, meta) for _ in range(experts)])


_META: Mapping[str, tuple[Mapping[str, int], ...]] = {
    "fp8_block": ({}, {"block_rows": 32, "block_columns": 32, "e8m0": 1}),
    "int4_group": ({"group_size": 32}, {"group_size": 128}),
    "int8_group": ({"group_size": 32}, {"group_size": 128}),
}


def one(make: Make, name: str, height: int, width: int, meta: Mapping[str, int]) -> Tensor | Packed:
    """One matrix [height, width rounded up] of a format."""
    if name in _DTYPES:
        return make.normal(height, width, dtype=_DTYPES[name], std=width**-0.5)
    form = FORMATS.get(name)
    multiple = max(form.multiple if form else 1, meta.get("group_size", 1), 32 if name in _RAW else 1)
    width = -(-width // multiple) * multiple
    if name in _BLOCKS:
        return _blocks(make, name, height, width)
    if name in _RAW:
        return _RAW[name](make, -(-height // 8) * 8, width)
    return pack(make.normal(height, width, dtype=torch.float32, std=width**-0.5), name, **meta)


def by_rows(name: str) -> bool:
    """Whether rows can be cut from the format, as an embedding needs."""
    return name in _DTYPES or bool(format_of(name).row_arrays)


def _blocks(make: Make, name: str, height: int, width: int) -> Packed:
    size, at, minimum = _BLOCKS[name]
    data = make.integers(0, 256, height, width // 256, size, dtype=torch.uint8)
    scale = make.uniform(height, width // 256, 1) * 1e-3 + 1e-4
    data[..., at : at + 2] = scale.half().view(torch.uint8)
    if minimum is not None:
        at, factor = minimum
        data[..., at : at + 2] = (scale * factor).half().view(torch.uint8)
    return Packed(name, (height, width), {"data": data.flatten(1)})


def _words(make: Make, *shape: int) -> Tensor:
    return make.integers(-(2**31), 2**31, *shape)


def _awq(make: Make, height: int, width: int) -> Packed:
    scale = make.uniform(width // 32, height).half() * 0.01 + 0.001
    arrays = {"data": _words(make, width, height // 8), "zeros": _words(make, width // 32, height // 8), "scale": scale}
    return Packed("awq", (height, width), arrays, {"group_size": 32})


def _gptq(make: Make, height: int, width: int) -> Packed:
    scale = make.uniform(width // 32, height).half() * 0.01 + 0.001
    arrays = {
        "data": _words(make, width // 8, height),
        "zeros": _words(make, width // 32, height // 8),
        "scale": scale,
        "groups": (torch.randperm(width, generator=make.generator) // 32).int(),
    }
    return Packed("gptq", (height, width), arrays, {"group_size": 32, "zero_offset": 1})


_RAW: Mapping[str, Callable[[Make, int, int], Packed]] = {"awq": _awq, "gptq": _gptq}
