"""GGUF's K types: super-blocks of 256 weights whose sub-block scales are quantised themselves.

`data` is uint8 [..., out, bytes_per_row], the blocks as they are in the file. Definitions after ggml's `ggml-quants.c`.
"""

from __future__ import annotations

import torch

from .gguf_blocks import block_format, half

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


FORMATS = (
    block_format("q2_k", BLOCK, 84, _q2_k),
    block_format("q3_k", BLOCK, 110, _q3_k),
    block_format("q4_k", BLOCK, 144, _q4_k),
    block_format("q5_k", BLOCK, 176, _q5_k),
    block_format("q6_k", BLOCK, 210, _q6_k),
)
