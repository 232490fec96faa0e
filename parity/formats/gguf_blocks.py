"""GGUF's simple block types: 32 weights with one float16 scale, and for the `_1` types a float16 minimum.

A row is a run of blocks, stored as they are in the file: `data` is uint8 [..., out, bytes_per_row]. Nibble j of the first
16 weights is the low half of byte j, of the last 16 the high half. Definitions after ggml's `ggml-quants.c`; the packers
choose as its reference quantisers do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from parity.core.weights import Packed

from .base import Format

BLOCK = 32


def half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """The float16 at byte `at` of each block, as float32 [blocks, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Low halves then high halves: uint8 [n, bytes] -> [n, 2 * bytes]."""
    return torch.cat((codes & 15, codes >> 4), dim=1)


def bits(codes: torch.Tensor) -> torch.Tensor:
    """Each byte's bits, lowest first: uint8 [n, bytes] -> [n, 8 * bytes]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return ((codes.unsqueeze(-1) >> shifts) & 1).flatten(1)


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    return half(blocks, 0) * (nibbles(blocks[:, 2:]).float() - 8)


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    return half(blocks, 0) * nibbles(blocks[:, 4:]).float() + half(blocks, 2)


def _q5_0(blocks: torch.Tensor) -> torch.Tensor:
    codes = nibbles(blocks[:, 6:]) | (bits(blocks[:, 2:6]) << 4)
    return half(blocks, 0) * (codes.float() - 16)


def _q5_1(blocks: torch.Tensor) -> torch.Tensor:
    codes = nibbles(blocks[:, 8:]) | (bits(blocks[:, 4:8]) << 4)
    return half(blocks, 0) * codes.float() + half(blocks, 2)


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    return half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()


def _bytes_of(scale: torch.Tensor) -> torch.Tensor:
    return scale.to(torch.float16).view(torch.uint8)


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)


def _join_nibbles(codes: torch.Tensor) -> torch.Tensor:
    return (codes[:, : BLOCK // 2] & 15) | ((codes[:, BLOCK // 2 :] & 15) << 4)


def _join_bits(codes: torch.Tensor) -> torch.Tensor:
    weights = 1 << torch.arange(8, device=codes.device)
    return ((codes >> 4).view(-1, 4, 8) * weights).sum(-1).to(torch.uint8)


def _symmetric(x: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and codes in 0 .. 2 * levels - 1, the value of largest magnitude at code 0."""
    peak = x.gather(1, x.abs().argmax(1, keepdim=True))
    scale = peak / -levels
    return scale, (x * _inverse(scale) + (levels + 0.5)).trunc().clamp(0, 2 * levels - 1).to(torch.uint8)


def _ranged(x: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scale, minimum and codes in 0 .. top."""
    low = x.amin(1, keepdim=True)
    scale = (x.amax(1, keepdim=True) - low) / top
    return scale, low, ((x - low) * _inverse(scale) + 0.5).trunc().clamp(0, top).to(torch.uint8)


def _pack_q4_0(x: torch.Tensor) -> torch.Tensor:
    scale, codes = _symmetric(x, 8)
    return torch.cat((_bytes_of(scale), _join_nibbles(codes)), 1)


def _pack_q4_1(x: torch.Tensor) -> torch.Tensor:
    scale, low, codes = _ranged(x, 15)
    return torch.cat((_bytes_of(scale), _bytes_of(low), _join_nibbles(codes)), 1)


def _pack_q5_0(x: torch.Tensor) -> torch.Tensor:
    scale, codes = _symmetric(x, 16)
    return torch.cat((_bytes_of(scale), _join_bits(codes), _join_nibbles(codes)), 1)


def _pack_q5_1(x: torch.Tensor) -> torch.Tensor:
    scale, low, codes = _ranged(x, 31)
    return torch.cat((_bytes_of(scale), _bytes_of(low), _join_bits(codes), _join_nibbles(codes)), 1)


def _pack_q8_0(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(1, keepdim=True) / 127
    codes = x * _inverse(scale)
    floor = codes.abs().floor()
    rounded = codes.sign() * (floor + (2 * (codes.abs() - floor)).floor())
    return torch.cat((_bytes_of(scale), rounded.to(torch.int8).view(torch.uint8)), 1)


def block_format(
    name: str,
    block: int,
    block_bytes: int,
    expand_blocks: Callable[[torch.Tensor], torch.Tensor],
    pack_blocks: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Format:
    """A format whose rows are runs of equal blocks in one array `data`."""

    def expand_matrix(arrays: Mapping[str, torch.Tensor], shape: tuple[int, int], meta: Mapping[str, int]) -> torch.Tensor:
        return expand_blocks(arrays["data"].reshape(-1, block_bytes)).reshape(shape)

    def pack(tensor: torch.Tensor, meta: Mapping[str, int]) -> Packed:
        assert pack_blocks is not None
        shape = tuple(tensor.shape)
        data = pack_blocks(tensor.float().reshape(-1, block))
        return Packed(name, shape, {"data": data.reshape(*shape[:-1], shape[-1] // block * block_bytes)})

    return Format(
        name=name,
        bits=8 * block_bytes / block,
        multiple=block,
        expand_matrix=expand_matrix,
        row_arrays={"data": 1},
        pack=pack if pack_blocks else None,
    )


FORMATS = (
    block_format("q4_0", BLOCK, 18, _q4_0, _pack_q4_0),
    block_format("q4_1", BLOCK, 20, _q4_1, _pack_q4_1),
    block_format("q5_0", BLOCK, 22, _q5_0, _pack_q5_0),
    block_format("q5_1", BLOCK, 24, _q5_1, _pack_q5_1),
    block_format("q8_0", BLOCK, 34, _q8_0, _pack_q8_0),
)
