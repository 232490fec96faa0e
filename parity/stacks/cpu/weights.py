"""Weights in the order that the kernels read: panels of 16 rows, four columns of a row beside each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.weights import Packed, Rows, Weight
from . import groups
from .native import native
from .panels import empty_panels

PLAIN = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
"""Number formats computed on in place."""


@dataclass(frozen=True)
class Layout:
    """A native format: its number, the columns and bytes of a row's block, and the bytes of a panel's block."""

    number: int
    columns: int
    bytes: int
    panel_bytes: int


LAYOUTS = {name: Layout(*values) for name, values in native().formats().items()}
_NUMBERED = {layout.number: layout for layout in LAYOUTS.values()}
BLOCKS = frozenset({"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"})
"""Formats that are packed block by block, as GGUF files hold them."""
ROUNDED = BLOCKS | (groups.FORMATS - {"fp8_block"})
"""Formats of small integers, whose products round the activations to bytes in the table that serves."""
FORMATS = BLOCKS | groups.FORMATS | {str(dtype).removeprefix("torch.") for dtype in PLAIN}
"""Formats that `linear` and `embed` compute on: packed ones, and plain numbers by the dtype's name."""


def prepare(weight: Weight) -> Weight:
    """Packed matrices as panels; plain tensors as they are, in one piece."""
    if isinstance(weight, Tensor):
        return weight.contiguous()
    if isinstance(weight, Rows):
        return weight.each(prepare)
    if "panels" in weight.arrays:
        return weight
    if weight.format in groups.FORMATS:
        return groups.prepare(weight)
    layout = LAYOUTS[weight.format]
    *stack, rows, columns = weight.shape
    data = weight.arrays["data"].contiguous()
    panels = -(-rows // native().PANEL_ROWS)
    packed = empty_panels(math.prod(stack), panels * (columns // layout.columns) * layout.panel_bytes)
    for source, target in zip(data.view(packed.shape[0], -1), packed, strict=True):
        native().pack(source.data_ptr(), layout.number, rows, columns, target.data_ptr())
    return groups.panelled(weight, packed, layout.number)


def table(weight: Tensor | Packed) -> tuple[int, int, int, int, int, int] | None:
    """A weight [out, in] as its file has it, to be read row by row: the addresses of its numbers and of their scales (0 for
    none), its native format, the rows and columns that share a scale, and the scales' format; None if no kernel reads it."""
    if isinstance(weight, Tensor):
        plain = weight.dtype in PLAIN and weight.is_contiguous()
        return (weight.data_ptr(), 0, native_format(weight), 1, 1, 0) if plain else None
    if weight.format in BLOCKS and weight.arrays["data"].is_contiguous():
        return weight.arrays["data"].data_ptr(), 0, LAYOUTS[weight.format].number, 1, 1, 0
    return groups.table(weight) if weight.format == "fp8_block" else None


def orders(weight: Weight) -> list[Tensor | None]:
    """The order in which each part of a prepared weight takes its inputs, or None for their own."""
    each = weight.parts if isinstance(weight, Rows) else (weight,)
    return [part.arrays.get("order") if isinstance(part, Packed) else None for part in each]


def parts(weight: Weight) -> list[tuple[int, int, int]] | None:
    """(address, native format, rows) of each part of a prepared weight; None if the kernels cannot read one of them."""
    found: list[tuple[int, int, int]] = []
    for part in weight.parts if isinstance(weight, Rows) else (weight,):
        if isinstance(part, Tensor):
            if part.dtype not in PLAIN or not part.is_contiguous():
                return None
            found.append((part.data_ptr(), LAYOUTS[PLAIN[part.dtype]].number, part.shape[0]))
        else:
            panels = part.arrays.get("panels")
            if panels is None:
                return None
            found.append((panels.data_ptr(), part.meta["layout"], part.shape[0]))
    return found


def halves(weight: Weight) -> list[tuple[int, int, int]] | None:
    """The halves of a prepared weight's rows as `parts` gives them; None if the kernels cannot read one without the other."""
    found = parts(weight)
    if found is None or any(order is not None for order in orders(weight)):
        return None
    if len(found) == 1:
        (address, number, rows), width = found[0], weight.shape[1]
        layout, half = _NUMBERED[number], rows // 2
        if not layout.columns:
            return [(address, number, half), (address + half * width * layout.bytes, number, half)]
        panels, rest = divmod(half, native().PANEL_ROWS)
        beyond = panels * (width // layout.columns) * layout.panel_bytes
        return None if rest else [(address, number, half), (address + beyond, number, half)]
    return found if len(found) == 2 and found[0][2] == found[1][2] else None


def matrices(weight: Tensor | Packed) -> list[tuple[int, int, int]]:
    """(address, native format, rows) of each matrix of a prepared weight [N, out, in]."""
    data = weight if isinstance(weight, Tensor) else weight.arrays["panels"]
    step = data.nbytes // weight.shape[0]
    return [(data.data_ptr() + step * index, native_format(weight), weight.shape[1]) for index in range(weight.shape[0])]


def native_format(weight: Tensor | Packed) -> int:
    """The number that the kernels know a weight's format by."""
    return LAYOUTS[PLAIN[weight.dtype]].number if isinstance(weight, Tensor) else weight.meta["layout"]


def stacked(weight: Weight) -> bool:
    """Whether the kernels can read a prepared weight [N, out, in] one matrix after the other."""
    if isinstance(weight, Tensor):
        return weight.dtype in PLAIN and weight.is_contiguous()
    return isinstance(weight, Packed) and "panels" in weight.arrays
