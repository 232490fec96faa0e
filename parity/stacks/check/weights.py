"""Weights of every packed format: made from normal numbers, and of valid random codes in GGUF's super-blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ...core.weights import Packed
from ...formats import FORMATS, format_of, pack, stack
from ...formats.columns import AWQ_ORDER
from ...formats.int_groups import pack_words, unpack_words
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
    "int4_zero": ({"group_size": 32}, {"group_size": 128}),
    "awq": ({"group_size": 32}, {"group_size": 128}),
    "gptq": ({"group_size": 32}, {"group_size": 128, "in_order": 1}),
}


def one(make: Make, name: str, height: int, width: int, meta: Mapping[str, int]) -> Tensor | Packed:
    """One matrix [height, width rounded up] of a format."""
    if name in _DTYPES:
        return make.normal(height, width, dtype=_DTYPES[name], std=width**-0.5)
    form = FORMATS.get(name)
    multiple = max(form.multiple if form else 1, meta.get("group_size", 1))
    width = -(-width // multiple) * multiple
    if name in _BLOCKS:
        return _blocks(make, name, height, width)
    if name in _RAW:
        return _RAW[name](make, -(-height // 8) * 8, width, meta)
    return pack(make.normal(height, width, dtype=torch.float32, std=width**-0.5), name, **meta)


def by_rows(name: str) -> bool:
    """Whether rows can be cut from the format, as an embedding needs."""
    return name in _DTYPES or bool(format_of(name).row_arrays)


def _blocks(make: Make, name: str, height: int, width: int) -> Packed:
    size, at, minimum = _BLOCKS[name]
    data = make.integers(0, 256, height, width // 256, size, dtype=torch.uint8)
    scale = (make.uniform(height, width // 256, 1) + 1) * 5e-4
    data[..., at : at + 2] = scale.half().view(torch.uint8)
    if minimum is not None:
        at, factor = minimum
        data[..., at : at + 2] = (scale * factor).half().view(torch.uint8)
    return Packed(name, (height, width), {"data": data.flatten(1)})


def _by_columns(make: Make, height: int, width: int, group: int) -> tuple[Tensor, Mapping[str, Tensor]]:
    """(codes [in, out], zero points and scales [groups, out]) of normal numbers."""
    numbers = make.normal(height, width, dtype=torch.float32, std=width**-0.5)
    arrays = pack(numbers, "int4_zero", group_size=group).arrays
    return unpack_words(arrays["data"]).t(), {role: arrays[role].t().contiguous() for role in ("zeros", "scale")}


def _awq(make: Make, height: int, width: int, meta: Mapping[str, int]) -> Packed:
    codes, shared = _by_columns(make, height, width, meta["group_size"])
    nibbles = torch.tensor(AWQ_ORDER).argsort()

    def words(x: Tensor) -> Tensor:
        return pack_words(x.unflatten(-1, (-1, 8))[..., nibbles].flatten(-2))

    arrays = {"data": words(codes), "zeros": words(shared["zeros"]), "scale": shared["scale"]}
    return Packed("awq", (height, width), arrays, {"group_size": meta["group_size"]})


def _gptq(make: Make, height: int, width: int, meta: Mapping[str, int]) -> Packed:
    group = meta["group_size"]
    codes, shared = _by_columns(make, height, width, group)
    inputs = torch.arange(width) if meta.get("in_order") else torch.randperm(width, generator=make.generator)
    arrays = {
        "data": pack_words(codes[inputs].t()).t().contiguous(),
        "zeros": pack_words(shared["zeros"].clamp(min=1) - 1),
        "scale": shared["scale"],
        "groups": (inputs // group).int(),
    }
    return Packed("gptq", (height, width), arrays, {"group_size": group, "zero_offset": 1})


_RAW: Mapping[str, Callable[[Make, int, int, Mapping[str, int]], Packed]] = {"awq": _awq, "gptq": _gptq}
