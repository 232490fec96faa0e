"""GGUF's K types: super-blocks of 256 weights whose sub-block scales are quantised themselves.

`data` is uint8 [..., out, bytes_per_row], the blocks as they are in the file. Definitions after ggml's `ggml-quants.c`.
"""

from __future__ import annotations

import torch

from .gguf_blocks import block_format, bytes_of, half, inverse, rounded
from .search import affine_scale, symmetric_scale

BLOCK = 256


def _shifted(codes: torch.Tensor, shifts: tuple[int, ...], mask: int) -> torch.Tensor:
    """uint8 [n, groups, width] -> [n, groups, len(shifts), width]: the bit fields of each byte."""
    by = torch.tensor(shifts, dtype=torch.uint8, device=codes.device).view(1, 1, -1, 1)
    return (codes.unsqueeze(2) >> by) & mask


def _scales_and_mins(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The eight 6-bit scales and minima in 12 bytes: the last four of each have their upper two bits in the first bytes."""
    first, second, third = scales[:, 0:4], scales[:, 4:8], scales[:, 8:12]
    scale = torch.cat((first & 63, (third & 15) | ((first >> 2) & 48)), 1)
    low = torch.cat((second & 63, (third >> 4) | ((second >> 2) & 48)), 1)
    return scale, low


def _q2_k(blocks: torch.Tensor) -> torch.Tensor:
    scales = blocks[:, :16]
    codes = _shifted(blocks[:, 16:80].reshape(-1, 2, 32), (0, 2, 4, 6), 3).reshape(-1, 16, 16)
    scale = (half(blocks, 80) * (scales & 15)).unsqueeze(-1)
    low = (half(blocks, 82) * (scales >> 4)).unsqueeze(-1)
    return scale * codes.float() - low


def _q3_k(blocks: torch.Tensor) -> torch.Tensor:
    high = _shifted(blocks[:, :32].reshape(-1, 1, 32), tuple(range(8)), 1).reshape(-1, 16, 16)
    codes = _shifted(blocks[:, 32:96].reshape(-1, 2, 32), (0, 2, 4, 6), 3).reshape(-1, 16, 16)
    packed = blocks[:, 96:108]
    low_bits = torch.cat((packed[:, :8] & 15, packed[:, :8] >> 4), 1)
    high_bits = _shifted(packed[:, 8:12].reshape(-1, 1, 4), (0, 2, 4, 6), 3).reshape(-1, 16)
    scales = (low_bits | (high_bits << 4)).to(torch.int8) - 32
    scale = (half(blocks, 108) * scales).unsqueeze(-1)
    # A set high bit means no offset: the stored bit is the inverse of "subtract 4".
    return scale * (codes.to(torch.int8) - ((high ^ 1) << 2).to(torch.int8)).float()


def _q4_k(blocks: torch.Tensor) -> torch.Tensor:
    scales, lows = _scales_and_mins(blocks[:, 4:16])
    codes = _shifted(blocks[:, 16:144].reshape(-1, 4, 32), (0, 4), 15).reshape(-1, 8, 32)
    return (half(blocks, 0) * scales).unsqueeze(-1) * codes.float() - (half(blocks, 2) * lows).unsqueeze(-1)


def _q5_k(blocks: torch.Tensor) -> torch.Tensor:
    scales, lows = _scales_and_mins(blocks[:, 4:16])
    high = _shifted(blocks[:, 16:48].reshape(-1, 1, 32), tuple(range(8)), 1).reshape(-1, 8, 32)
    codes = _shifted(blocks[:, 48:176].reshape(-1, 4, 32), (0, 4), 15).reshape(-1, 8, 32) | (high << 4)
    return (half(blocks, 0) * scales).unsqueeze(-1) * codes.float() - (half(blocks, 2) * lows).unsqueeze(-1)


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    low = _shifted(blocks[:, :128].reshape(-1, 2, 64), (0, 4), 15).reshape(-1, 256)
    high = _shifted(blocks[:, 128:192].reshape(-1, 2, 32), (0, 2, 4, 6), 3).reshape(-1, 256)
    codes = ((low | (high << 4)).float() - 32).reshape(-1, 16, 16)
    scales = blocks[:, 192:208].contiguous().view(torch.int8)
    return (half(blocks, 208) * scales).unsqueeze(-1) * codes


def _split(x: torch.Tensor, size: int) -> torch.Tensor:
    """Super-blocks [n, 256] as sub-blocks in columns: [size, n * 256 / size]."""
    return x.reshape(-1, size).t().contiguous()


def _join_scales(scale: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """The inverse of `_scales_and_mins`: two of uint8 [n, 8] -> [n, 12]."""
    first = scale[:, :4] | ((scale[:, 4:] >> 4) << 6)
    second = low[:, :4] | ((low[:, 4:] >> 4) << 6)
    third = (scale[:, 4:] & 15) | ((low[:, 4:] & 15) << 4)
    return torch.cat((first, second, third), 1)


def _six_bits(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of at least 0, [n, 8], as multiples 0 .. 63 of one float16 a row: (that number [n, 1], the multiples)."""
    unit = rounded(values.amax(1, keepdim=True) / 63)
    return unit, (values * inverse(unit)).round_().clamp_(0, 63)


def _ranged(x: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and minima of a `_k` block in its first 16 bytes, [n, 16], and the codes in 0 .. top, uint8 [n, 8, 32]."""
    columns = _split(x, 32)
    scale, offset = affine_scale(columns, top, below=True)
    unit, multiple = _six_bits(scale.view(-1, 8).clamp(min=0))
    low_unit, low_multiple = _six_bits(-offset.view(-1, 8))
    scale, low = (unit * multiple).view(1, -1), (low_unit * low_multiple).view(1, -1)
    codes = torch.add(columns, low).mul_(inverse(scale)).round_().clamp_(0, top).to(torch.uint8)
    multiples = _join_scales(multiple.to(torch.uint8), low_multiple.to(torch.uint8))
    return torch.cat((bytes_of(unit), bytes_of(low_unit), multiples), 1), codes.t().reshape(-1, 8, 32)


def _pairs(codes: torch.Tensor) -> torch.Tensor:
    """Low nibbles of the even sub-blocks, high ones of the odd: uint8 [n, 8, 32] -> [n, 128]."""
    return ((codes[:, 0::2] & 15) | ((codes[:, 1::2] & 15) << 4)).flatten(1)


def _pack_q4_k(x: torch.Tensor) -> torch.Tensor:
    head, codes = _ranged(x, 15)
    return torch.cat((head, _pairs(codes)), 1)


def _pack_q5_k(x: torch.Tensor) -> torch.Tensor:
    head, codes = _ranged(x, 31)
    places = (1 << torch.arange(8, dtype=torch.uint8, device=x.device)).view(1, 8, 1)
    return torch.cat((head, ((codes >> 4) * places).sum(1, dtype=torch.uint8), _pairs(codes)), 1)


def _pack_q6_k(x: torch.Tensor) -> torch.Tensor:
    columns = _split(x, 16)
    scale = symmetric_scale(columns, -32, 31).view(-1, 16)
    unit = rounded(scale.abs().amax(1, keepdim=True) / 127)
    multiple = (scale * inverse(unit)).round_().clamp_(-127, 127)
    codes = torch.mul(columns, inverse((unit * multiple).view(1, -1))).round_().clamp_(-32, 31).add_(32)
    whole = codes.to(torch.uint8).t().reshape(-1, 2, 4, 32)  # halves of the block, then quarters of each
    low = (whole[:, :, :2] & 15) | ((whole[:, :, 2:] & 15) << 4)
    places = torch.tensor((0, 2, 4, 6), dtype=torch.uint8, device=x.device).view(1, 1, 4, 1)
    high = ((whole >> 4) << places).sum(2, dtype=torch.uint8)
    scales = multiple.to(torch.int8).view(torch.uint8)
    return torch.cat((low.flatten(1), high.flatten(1), scales, bytes_of(unit)), 1)


FORMATS = (
    block_format("q2_k", BLOCK, 84, _q2_k),
    block_format("q3_k", BLOCK, 110, _q3_k),
    block_format("q4_k", BLOCK, 144, _q4_k, _pack_q4_k),
    block_format("q5_k", BLOCK, 176, _q5_k, _pack_q5_k),
    block_format("q6_k", BLOCK, 210, _q6_k, _pack_q6_k),
)
