"""Small floats with scales: FP8 e4m3 in rectangles or with one for all, and MXFP4 (e2m1) in runs of 32.

`fp8_block`: `data` float8_e4m3fn [..., out, in]; `scale` float32, bfloat16 or e8m0
[..., ceil(out / block_rows), ceil(in / block_columns)].
One scale for a matrix is one block as large as that.
`mxfp4`: `data` uint8 [..., out, in / 2], the low nibble first; `scale` e8m0 [..., out, in / 32] (OCP Microscaling 1.0).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from parity.core.weights import Packed

from .base import Format

E4M3_MAX = 448.0
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
E2M1_MAX_EXPONENT = 2
MX_GROUP = 32


def scale_values(scale: torch.Tensor) -> torch.Tensor:
    """Scales as float32; bytes are e8m0: the power of two with exponent byte - 127."""
    return (scale.view(torch.float8_e8m0fnu) if scale.dtype == torch.uint8 else scale).float()


def _expand_fp8(arrays: Mapping[str, torch.Tensor], shape: tuple[int, int], meta: Mapping[str, int]) -> torch.Tensor:
    rows, columns = shape
    scale = scale_values(arrays["scale"])
    if meta["block_rows"] > 1:
        scale = scale.repeat_interleave(meta["block_rows"], 0)[:rows]
    scale = scale.repeat_interleave(meta["block_columns"], 1)[:, :columns]
    return arrays["data"].float() * scale


def _pack_fp8(tensor: torch.Tensor, meta: Mapping[str, int]) -> Packed:
    """`block_rows`, `block_columns` (128 each), and `e8m0` 1 for power-of-two scales."""
    height, width = meta.get("block_rows", 128), meta.get("block_columns", 128)
    *leading, rows, columns = tensor.shape
    tensor = tensor.float()
    down, right = -rows % height, -columns % width
    padded = torch.nn.functional.pad(tensor, (0, right, 0, down))
    blocks = padded.reshape(*leading, (rows + down) // height, height, (columns + right) // width, width)
    scale = blocks.abs().amax((-3, -1)) / E4M3_MAX
    scale = torch.where(scale == 0, 1.0, scale)
    if meta.get("e8m0"):
        scale = torch.exp2(torch.ceil(torch.log2(scale)).clamp(-127, 127))
    data = (blocks / scale[..., :, None, :, None]).reshape(padded.shape)[..., :rows, :columns]
    data = data.clamp(-E4M3_MAX, E4M3_MAX).contiguous().to(torch.float8_e4m3fn)
    stored = scale.to(torch.float8_e8m0fnu) if meta.get("e8m0") else scale
    return Packed(
        "fp8_block", tuple(tensor.shape), {"data": data, "scale": stored}, {"block_rows": height, "block_columns": width}
    )


def _expand_mxfp4(arrays: Mapping[str, torch.Tensor], shape: tuple[int, int], meta: Mapping[str, int]) -> torch.Tensor:
    data = arrays["data"].view(torch.uint8)
    codes = torch.stack((data & 15, data >> 4), -1).reshape(shape[0], -1, MX_GROUP)
    table = torch.tensor(E2M1, dtype=torch.float32, device=data.device)
    return (table[codes.int()] * scale_values(arrays["scale"]).unsqueeze(-1)).reshape(shape)


def _pack_mxfp4(tensor: torch.Tensor, meta: Mapping[str, int]) -> Packed:
    shape = tuple(tensor.shape)
    groups = tensor.float().reshape(*shape[:-1], shape[-1] // MX_GROUP, MX_GROUP)
    peak = groups.abs().amax(-1)
    exponent = torch.floor(torch.log2(torch.where(peak == 0, 1.0, peak))) - E2M1_MAX_EXPONENT
    scale = torch.exp2(exponent.clamp(-127, 127)).to(torch.float8_e8m0fnu)
    codes = e2m1_codes(groups / scale.float().unsqueeze(-1)).reshape(*shape[:-1], shape[-1] // 2, 2)
    return Packed("mxfp4", shape, {"data": codes[..., 0] | (codes[..., 1] << 4), "scale": scale.view(torch.uint8)})


def e2m1_codes(x: torch.Tensor) -> torch.Tensor:
    """The nearest e2m1 code of each number, ties to the even code, as uint8 0 .. 15."""
    magnitudes = torch.tensor(E2M1[:8], dtype=torch.float32, device=x.device)
    middles = (magnitudes[1:] + magnitudes[:-1]) / 2
    below = torch.bucketize(x.abs(), middles)
    above = torch.bucketize(x.abs(), middles, right=True)
    code = torch.where(below % 2 == 0, below, above)
    return (code + 8 * torch.signbit(x)).to(torch.uint8)


FORMATS = (
    Format("fp8_block", 8.002, 1, _expand_fp8, {"data": 1, "scale": "block_rows"}, _pack_fp8),
    Format("mxfp4", 4.25, MX_GROUP, _expand_mxfp4, {"data": 1, "scale": 1}, _pack_mxfp4),
)
