"""AWQ and GPTQ 4 bit: stored transposed, input by output, with zero points.

`awq`: `data` int32 [..., in, out / 8], the columns of a word in the order 0 2 4 6 1 3 5 7; `zeros` int32
[..., in / group_size, out / 8] likewise; `scale` [..., in / group_size, out].
`gptq`: `data` int32 [..., in / 8, out]; `zeros` and `scale` of the shapes above, in plain order; `groups` int32 [..., in], the
group of each input. Its first version stores zero points less one (`zero_offset` 1).
Both: weight = (code - zero) * scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from parity.core.errors import FormatError
from parity.core.weights import Packed

from .base import Format
from .int_groups import unpack_words

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Nibble of a word that holds column 0, 1, ... 7."""


def awq_codes(words: torch.Tensor) -> torch.Tensor:
    """int32 [n, out / 8] -> uint8 [n, out]."""
    order = torch.tensor(AWQ_ORDER, device=words.device)
    return unpack_words(words).reshape(len(words), -1, 8).index_select(-1, order).flatten(-2)


def _expand_awq(arrays: Mapping[str, torch.Tensor], shape: tuple[int, int], meta: Mapping[str, int]) -> torch.Tensor:
    group_size = meta["group_size"]
    codes = awq_codes(arrays["data"]).to(torch.int8).reshape(-1, group_size, shape[0])
    zeros = awq_codes(arrays["zeros"]).to(torch.int8).unsqueeze(1)
    return ((codes - zeros).float() * arrays["scale"].float().unsqueeze(1)).flatten(0, 1).t().contiguous()


def _expand_gptq(arrays: Mapping[str, torch.Tensor], shape: tuple[int, int], meta: Mapping[str, int]) -> torch.Tensor:
    codes = unpack_words(arrays["data"].t().contiguous()).to(torch.int8)
    zeros = (unpack_words(arrays["zeros"]) + meta["zero_offset"]).to(torch.int8).t()
    scale, groups = arrays["scale"].float().t(), arrays["groups"].long()
    if groups.numel() and not 0 <= int(groups.min()) <= int(groups.max()) < scale.shape[1]:
        raise FormatError(f"g_idx names groups {int(groups.min())} to {int(groups.max())} where there are {scale.shape[1]}")
    weights: torch.Tensor = (codes - zeros[:, groups]).float() * scale[:, groups]
    return weights


def by_rows(weight: Packed) -> Packed | None:
    """An `awq` or `gptq` matrix as `int4_zero`, the same numbers laid out by rows; None where groups differ in size."""
    height, width = weight.shape
    group_size, arrays = weight.meta["group_size"], weight.arrays
    order: torch.Tensor | None = None
    if weight.format == "awq":
        codes, zeros = awq_codes(arrays["data"]).t(), awq_codes(arrays["zeros"])
    else:
        codes, zeros = unpack_words(arrays["data"].t().contiguous()), unpack_words(arrays["zeros"]) + weight.meta["zero_offset"]
        order = arrays["groups"].long().argsort(stable=True)
        if not torch.equal(arrays["groups"].long()[order], torch.arange(width, device=order.device) // group_size):
            return None
        if bool((order[1:] > order[:-1]).all()):
            order = None
        else:
            codes = codes[:, order]
    low, high = codes[:, 0::2], codes[:, 1::2]
    found = {"data": (low | high << 4).contiguous().view(torch.int32)}
    found |= {"zeros": zeros.t().contiguous(), "scale": arrays["scale"].t().contiguous()}
    if order is not None:
        found["order"] = order.int()
    return Packed("int4_zero", (height, width), found, {"group_size": group_size})


FORMATS = (
    Format("awq", 4.25, 8, _expand_awq),
    Format("gptq", 4.25, 8, _expand_gptq),
)
