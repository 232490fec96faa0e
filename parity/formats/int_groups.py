"""Integers with a scale for each run of `group_size` weights.

As compressed-tensors writes them: `int4_group` (`pack-quantized`), `data` int32 [..., out, in / 8], weight 8 i + j in bits
4 j .. 4 j + 3 as code - 8; `int8_group` (`int-quantized`), `data` int8 [..., out, in]. Both: `scale`
[..., out, in / group_size].

`int4_zero` is what AWQ and GPTQ mean, laid out by rows (`columns.by_rows`): `data` as in `int4_group`, `scale` and `zeros`
uint8 [..., out, in / group_size], weight = (code - zero) * scale. Where the inputs of a group do not stand beside each other,
`order` int32 [..., in] is the input that each stored column belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from parity.core.weights import Packed

from .base import Format

PER_WORD = 8
DEFAULT_GROUP = 32


def unpack_words(words: torch.Tensor) -> torch.Tensor:
    """The eight nibbles of each int32, lowest first: [..., n] -> uint8 [..., 8 n]."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=words.device)
    return ((words.unsqueeze(-1) >> shifts) & 15).to(torch.uint8).flatten(-2)


def pack_words(codes: torch.Tensor) -> torch.Tensor:
    """The inverse of `unpack_words`: [..., 8 n] of 0 .. 15 -> int32 [..., n]."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int64, device=codes.device)
    words = (codes.long().reshape(*codes.shape[:-1], -1, PER_WORD) << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _scaled(codes: torch.Tensor, scale: torch.Tensor, group_size: int) -> torch.Tensor:
    return (codes.float().reshape(codes.shape[0], -1, group_size) * scale.float().unsqueeze(-1)).flatten(-2)


def _expand_int4(arrays: Mapping[str, torch.Tensor], shape: tuple[int, int], meta: Mapping[str, int]) -> torch.Tensor:
    return _scaled(unpack_words(arrays["data"]).to(torch.int8) - 8, arrays["scale"], meta["group_size"])


def _expand_int8(arrays: Mapping[str, torch.Tensor], shape: tuple[int, int], meta: Mapping[str, int]) -> torch.Tensor:
    return _scaled(arrays["data"], arrays["scale"], meta["group_size"])


def _expand_zero(arrays: Mapping[str, torch.Tensor], shape: tuple[int, int], meta: Mapping[str, int]) -> torch.Tensor:
    codes = unpack_words(arrays["data"]).to(torch.int8).unflatten(-1, (-1, meta["group_size"]))
    centred = (codes - arrays["zeros"].to(torch.int8).unsqueeze(-1)).flatten(-2)
    weights = _scaled(centred, arrays["scale"], meta["group_size"])
    if "order" not in arrays:
        return weights
    return torch.empty_like(weights).index_copy_(1, arrays["order"].long(), weights)


def _quantise(tensor: torch.Tensor, group_size: int, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes in -limit - 1 .. limit and bfloat16 scales; the codes are for the scale as rounded."""
    groups = tensor.float().reshape(*tensor.shape[:-1], -1, group_size)
    scale = (groups.abs().amax(-1) / limit).to(torch.bfloat16)
    divisor = torch.where(scale == 0, 1.0, scale.float()).unsqueeze(-1)
    return (groups / divisor).round().clamp(-limit - 1, limit).flatten(-2).to(torch.int8), scale


def _pack_int4(tensor: torch.Tensor, meta: Mapping[str, int]) -> Packed:
    group_size = meta.get("group_size", DEFAULT_GROUP)
    codes, scale = _quantise(tensor, group_size, 7)
    data = pack_words((codes + 8).to(torch.uint8))
    return Packed("int4_group", tuple(tensor.shape), {"data": data, "scale": scale}, {"group_size": group_size})


def _pack_int8(tensor: torch.Tensor, meta: Mapping[str, int]) -> Packed:
    group_size = meta.get("group_size", DEFAULT_GROUP)
    codes, scale = _quantise(tensor, group_size, 127)
    return Packed("int8_group", tuple(tensor.shape), {"data": codes, "scale": scale}, {"group_size": group_size})


def _pack_zero(tensor: torch.Tensor, meta: Mapping[str, int]) -> Packed:
    """Codes from the smallest to the largest of a group, zero included, with float16 scales."""
    group_size = meta.get("group_size", DEFAULT_GROUP)
    groups = tensor.float().unflatten(-1, (-1, group_size))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scale = ((high - low) / 15).half()
    divisor = torch.where(scale == 0, 1.0, scale.float())
    zeros = (-low / divisor).round().clamp(0, 15)
    codes = (groups / divisor.unsqueeze(-1) + zeros.unsqueeze(-1)).round().clamp(0, 15).flatten(-2)
    arrays = {"data": pack_words(codes.to(torch.uint8)), "zeros": zeros.to(torch.uint8), "scale": scale}
    return Packed("int4_zero", tuple(tensor.shape), arrays, {"group_size": group_size})


FORMATS = (
    Format("int4_group", 4.5, PER_WORD, _expand_int4, {"data": 1, "scale": 1}, _pack_int4),
    Format("int8_group", 8.5, 1, _expand_int8, {"data": 1, "scale": 1}, _pack_int8),
    Format("int4_zero", 4.75, PER_WORD, _expand_zero, {"data": 1, "zeros": 1, "scale": 1}, _pack_zero),
)
