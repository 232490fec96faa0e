"""How many bytes of weights a decode step reads: what bounds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..engine.load import accounted
from ..hub.checkpoint import Checkpoint, TensorInfo
from ..stacks.base import Stack

_NUM_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token")


def step_bytes(checkpoint: Checkpoint, stack: Stack, dtype: torch.dtype, streams: int = 1) -> float:
    """Bytes of weights read in a step of so many streams, in the form that they have on the stack.

    Of an embedding that is not the head too only a few rows are read: it does not count. Of the routed experts those
    count that the streams choose, if they choose at random.
    """
    found = accounted(checkpoint, stack, dtype)
    model, slots, plan = found.model, found.slots, found.plan
    share = share_of_experts(checkpoint.config, streams)
    total = 0.0
    for name, source in plan.sources.items():
        if ".embed_tokens." in f".{name}" and not model.tied:
            continue
        tensor = checkpoint.tensors[source]
        size = 4 * _count(tensor) if slots[name].exact else _held_bytes(tensor, stack, dtype)
        total += size * share if ".experts." in name else size
    return total


def _held_bytes(tensor: TensorInfo, stack: Stack, dtype: torch.dtype) -> int:
    return tensor.nbytes if tensor.format in stack.formats else _count(tensor) * dtype.itemsize


def _count(tensor: TensorInfo) -> int:
    return math.prod(tensor.shape)


def share_of_experts(config: Mapping[str, Any], streams: int) -> float:
    """Of the routed experts that a step reads; 1 where there are none."""
    text = config.get("text_config", config)
    number, chosen = (next((text[key] for key in keys if text.get(key)), None) for keys in (_NUM_EXPERTS, _CHOSEN))
    return 1.0 if number is None or chosen is None else 1 - (1 - chosen / number) ** streams
