"""Undoing what GGUF's converters change in the values, so that a tensor is what Hugging Face's name promises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from parity.core.errors import FormatError
from parity.core.weights import Packed
from parity.formats import expand, format_of, rows

from .gguf_names import Change

Weight = torch.Tensor | Packed


def undo(change: Change, weight: Weight, config: Mapping[str, Any], name: str) -> Weight:
    """The weight as Hugging Face has it. Rows are moved packed; columns are too, where heads hold whole blocks.

    Raises:
        FormatError: the shape does not fit the config.
    """
    if change in ("rope_q", "rope_k"):
        return rows(weight, _halves(weight.shape[0], config, change, name))
    if change in ("tiled", "tiled_scalars", "tiled_tail", "tiled_convolution"):
        weight = rows(weight, _grouped(weight.shape[0], config, change, name))
        return weight.unsqueeze(1) if change == "tiled_convolution" and isinstance(weight, torch.Tensor) else weight
    if change == "tiled_columns":
        return _columns(weight, config, name)
    if change == "":
        return weight
    tensor = weight if change == "table" and isinstance(weight, torch.Tensor) else expand(weight)
    shape = shape_after(change, tuple(tensor.shape))
    if change in ("row", "convolution", "long_convolution", "table"):
        return tensor.reshape(shape)
    if change == "one_added":
        return tensor - 1
    if change == "ones":
        return torch.ones(shape)
    if change in ("left", "right"):
        return tensor.chunk(2, -1)[change == "right"].contiguous()
    if change in ("decay_apart", "long_decay"):
        return torch.log(-tensor).reshape(shape)
    return rows(torch.log(-tensor), _grouped(tensor.shape[0], config, "tiled_scalars", name))  # decay


def shape_after(change: Change, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `undo` gives."""
    if change == "row":
        return (1, math.prod(shape))  # some files have the 1, others do not
    if change in ("tiled_convolution", "convolution"):
        return (shape[0], 1, *shape[1:])
    if change in ("left", "right"):
        return (*shape[:-1], shape[-1] // 2)
    if change == "long_convolution":
        if max(shape[:-1]) != math.prod(shape[:-1]):
            raise ValueError(f"a convolution of shape {shape}")
        return (max(shape[:-1]), 1, shape[-1])
    if change == "long_decay":
        return (1, 1, math.prod(shape), 1)
    return (math.prod(shape),) if change == "decay_apart" else shape


def joined_kv_b(keys: Weight, values: Weight) -> torch.Tensor:
    """kv_b_proj [heads * (nope + v), rank] from its halves: keys [heads, rank, nope], values [heads, v, rank]."""
    return torch.cat((expand(keys).transpose(1, 2), expand(values)), 1).flatten(0, 1)


def _halves(height: int, config: Mapping[str, Any], change: Change, name: str) -> torch.Tensor:
    """Rows in the order that has each head's two halves apart; the file has them interleaved."""
    key = "num_attention_heads" if change == "rope_q" else "num_key_value_heads"
    heads = config.get(key, config["num_attention_heads"])
    if height % (2 * heads):
        raise FormatError(f"{name}: {height} rows do not divide into {heads} heads of two halves")
    return torch.arange(height).reshape(heads, -1, 2).transpose(1, 2).reshape(-1)


def _grouped(height: int, config: Mapping[str, Any], change: Change, name: str) -> torch.Tensor:
    """Rows with the value heads of one key head together; the file has them dealt out in turn (tiled)."""
    key_heads, value_heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    width = 1 if change == "tiled_scalars" else config["linear_value_head_dim"]
    tail = value_heads * width
    head = height - tail if change in ("tiled_tail", "tiled_convolution") else 0
    if value_heads % key_heads or head + tail != height or head < 0:
        raise FormatError(f"{name}: {height} rows do not hold {value_heads} value heads of {width}")
    moved = torch.arange(tail).reshape(value_heads // key_heads, key_heads, width).transpose(0, 1).reshape(-1)
    return torch.cat((torch.arange(head), head + moved))


def _columns(weight: Weight, config: Mapping[str, Any], name: str) -> Weight:
    index = _grouped(weight.shape[-1], config, "tiled", name)
    block = format_of(weight.format).multiple if isinstance(weight, Packed) else 1
    if not isinstance(weight, Packed) or config["linear_value_head_dim"] % block:
        return expand(weight).index_select(-1, index)
    blocks = index[::block] // block
    data = weight.arrays["data"]
    moved = data.reshape(*data.shape[:-1], len(blocks), -1).index_select(-2, blocks).reshape(data.shape)
    return Packed(weight.format, weight.shape, {"data": moved}, weight.meta)
