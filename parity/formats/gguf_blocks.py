"""GGUF's simple block types: 32 weights with one float16 scale, and for the `_1` types a float16 minimum.

A row is a run of blocks, stored as they are in the file: `data` is uint8 [..., out, bytes_per_row]. Nibble j of the first
16 weights is the low half of byte j, of the last 16 the high half. Definitions after ggml's `ggml-quants.c`. `q8_0` is packed
as its reference quantiser does; the packers of fewer bits search for the scale that loses least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from parity.core.weights import Packed

from .base import Format
from .search import affine_scale, symmetric_scale

BLOCK = 32


def half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """The float16 at byte `at` of each block, as float32 [blocks, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Low halves then high halves: uint8 [n, bytes] -> [n, 2 * bytes]."""
    codes = codes.contiguous()  # a copy takes a third of what two operations on scattered rows do
    return torch.cat((codes & 15, codes >> 4), dim=1)


def bits(codes: torch.Tensor) -> torch.Tensor:
    """The bits of four bytes, lowest first: uint8 [n, 4] -> int32 [n, 32]."""
    return (codes.contiguous().view(torch.int32) >> torch.arange(32, dtype=torch.int32, device=codes.device)) & 1


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


def bytes_of(scale: torch.Tensor) -> torch.Tensor:
    """float32 [blocks, n] as the bytes of float16: uint8 [blocks, 2 n]."""
    return scale.half().flatten().view(torch.uint8).view(len(scale), -1)


def inverse(scale: torch.Tensor) -> torch.Tensor:
    """1 / scale, and 0 of 0."""
    return torch.where(scale == 0, 0.0, 1 / scale)


def rounded(scale: torch.Tensor) -> torch.Tensor:
    """The numbers as float16 keeps them."""
    return scale.half().float()


def _join_nibbles(codes: torch.Tensor) -> torch.Tensor:
    return (codes[: BLOCK // 2] & 15) | ((codes[BLOCK // 2 :] & 15) << 4)


def _join_bits(codes: torch.Tensor) -> torch.Tensor:
    weights = (1 << torch.arange(8, dtype=torch.uint8, device=codes.device)).view(1, 8, 1)
    return ((codes >> 4).view(-1, 8, codes.shape[-1]) * weights).sum(1, dtype=torch.uint8)


def _symmetric(x: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales [blocks, 1] and codes in 0 .. 2 * levels - 1, [32, blocks]."""
    columns = x.t().contiguous()
    scale = rounded(symmetric_scale(columns, -levels, levels - 1))
    codes = torch.mul(columns, inverse(scale)).round_().clamp_(-levels, levels - 1).add_(levels)
    return scale.t(), codes.to(torch.uint8)


def _ranged(x: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scales and minima [blocks, 1], and codes in 0 .. top, [32, blocks]."""
    columns = x.t().contiguous()
    scale, low = map(rounded, affine_scale(columns, top, below=False))
    codes = torch.sub(columns, low).mul_(inverse(scale)).round_().clamp_(0, top)
    return scale.t(), low.t(), codes.to(torch.uint8)


def _pack_q4_0(x: torch.Tensor) -> torch.Tensor:
    scale, codes = _symmetric(x, 8)
    return torch.cat((bytes_of(scale), _join_nibbles(codes).t()), 1)


def _pack_q4_1(x: torch.Tensor) -> torch.Tensor:
    scale, low, codes = _ranged(x, 15)
    return torch.cat((bytes_of(scale), bytes_of(low), _join_nibbles(codes).t()), 1)


def _pack_q5_0(x: torch.Tensor) -> torch.Tensor:
    scale, codes = _symmetric(x, 16)
    return torch.cat((bytes_of(scale), _join_bits(codes).t(), _join_nibbles(codes).t()), 1)


def _pack_q5_1(x: torch.Tensor) -> torch.Tensor:
    scale, low, codes = _ranged(x, 31)
    return torch.cat((bytes_of(scale), bytes_of(low), _join_bits(codes).t(), _join_nibbles(codes).t()), 1)


def _pack_q8_0(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(1, keepdim=True) / 127
    codes = x * inverse(scale)
    floor = codes.abs().floor()
    nearest = codes.sign() * (floor + (2 * (codes.abs() - floor)).floor())
    return torch.cat((bytes_of(scale), nearest.to(torch.int8).view(torch.uint8)), 1)


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
