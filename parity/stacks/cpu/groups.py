"""Formats of codes with scales beside them, packed into panels: FP8, MXFP4, and integers in groups.

FP8 keeps three bits of mantissa over fifteen powers of two, which no integer of eight bits holds: its products are of floats,
with activations as they are. The others are small integers times a scale. Their activations are rounded to bytes in blocks of
32, as for GGUF's types: for codes of four bits that rounding is a twentieth of the weights' own, for eight bits about as large.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from ...core.weights import Packed
from ...formats import expand, laid_by_rows
from .native import native
from .panels import empty_panels

log = logging.getLogger("parity")

FORMATS = frozenset({"fp8_block", "mxfp4", "int4_group", "int8_group", "int4_zero", "awq", "gptq"})
"""The packed formats that this module prepares."""

_WIDE = {"fp8_block": "fp8_128", "int4_group": "int4_128", "int8_group": "int8_128", "int4_zero": "zero4_128"}
"""Layouts with float32 scales for 128 columns."""
_NARROW: Mapping[tuple[str, torch.dtype], str] = {
    ("fp8_block", torch.float32): "fp8_32",
    ("fp8_block", torch.bfloat16): "fp8_32",
    ("fp8_block", torch.uint8): "fp8_power",
    ("mxfp4", torch.uint8): "mxfp4",
    ("int4_group", torch.float16): "q4_0",
    ("int4_group", torch.bfloat16): "int4_32",
    ("int8_group", torch.float16): "q8_0",
    ("int8_group", torch.bfloat16): "int8_32",
    ("int4_zero", torch.float16): "zero4_32",
}
"""Layouts with scales of their own type for 32 columns."""
_SCALES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_said: set[str] = set()


def prepare(weight: Packed) -> Packed | Tensor:
    """The matrix [..., out, in] as panels; as float32 where no layout holds it exactly, which is said once for a format."""
    by_rows = laid_by_rows(weight)
    layout = None if by_rows is None else _layout(by_rows)
    if by_rows is None or layout is None:
        if weight.format not in _said:
            _said.add(weight.format)
            meta = ", ".join(f"{name} {value}" for name, value in weight.meta.items())
            text = "cpu: no native layout holds %s %s (%s): such weights are expanded to float32"
            log.warning(text, weight.format, weight.shape, meta)
        return expand(weight)
    *leading, rows, width = by_rows.shape
    number, unit, _, panel_bytes = native().formats()[layout]
    size = -(-rows // native().PANEL_ROWS) * (width // unit) * panel_bytes
    panels = empty_panels(math.prod(leading), size)
    data, scale = by_rows.arrays["data"].contiguous(), _scale(by_rows.arrays["scale"], layout)
    zeros = by_rows.arrays["zeros"].contiguous() if "zeros" in by_rows.arrays else None
    group_rows, group_columns = _group(by_rows)
    number_format = native().formats()[_SCALES.get(scale.dtype, "f32")][0]
    for index, target in enumerate(panels):
        native().pack_groups(
            *(0 if array is None else array.data_ptr() + array.nbytes // len(panels) * index for array in (data, scale, zeros)),
            number, rows, width, group_rows, group_columns, number_format, target.data_ptr(),
        )  # fmt: skip
    order = {"order": by_rows.arrays["order"].contiguous()} if "order" in by_rows.arrays else {}
    return panelled(weight, panels, number, order)


def panelled(weight: Packed, panels: Tensor, layout: int, others: Mapping[str, Tensor] = MappingProxyType({})) -> Packed:
    """A weight [..., out, in] as panels uint8 [matrices, bytes] of a layout, and what else the kernels read."""
    *leading, rows, _ = weight.shape
    height = native().PANEL_ROWS
    shaped = panels.view(*leading, -(-rows // height), -1)
    return Packed(weight.format, weight.shape, {"panels": shaped, **others}, {"layout": layout}, {"panels": height})


def table(weight: Packed) -> tuple[int, int, int, int, int, int] | None:
    """An FP8 weight as `weights.table` has it; none whose scales would have to be copied into another form."""
    layout, data, scale = _layout(weight), weight.arrays["data"], _plain_bytes(weight.arrays["scale"])
    if layout is None or (scale.dtype == torch.uint8) != (layout == "fp8_power"):
        return None
    if not (data.is_contiguous() and scale.is_contiguous()):
        return None
    number_format = native().formats()[_SCALES.get(scale.dtype, "f32")][0]
    return data.data_ptr(), scale.data_ptr(), native().formats()[layout][0], *_group(weight), number_format


def _group(weight: Packed) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    meta = weight.meta
    if weight.format == "fp8_block":
        return meta["block_rows"], meta["block_columns"]
    return 1, meta.get("group_size", 32)


def _layout(weight: Packed) -> str | None:
    width, scale = weight.shape[-1], _plain_bytes(weight.arrays["scale"]).dtype
    group = min(_group(weight)[1], width)
    if group % 128 == 0 and width % 128 == 0 and weight.format in _WIDE:
        return _WIDE[weight.format]
    if group % 32 or width % 32:
        return None
    return _NARROW.get((weight.format, scale))


def _scale(scale: Tensor, layout: str) -> Tensor:
    """Bytes where the layout keeps powers of two, else floats."""
    plain = _plain_bytes(scale)
    if plain.dtype == torch.uint8 and layout == "fp8_128":
        plain = scale.view(torch.float8_e8m0fnu).float()
    return plain.contiguous()


def _plain_bytes(scale: Tensor) -> Tensor:
    return scale.view(torch.uint8) if scale.dtype == torch.float8_e8m0fnu else scale
