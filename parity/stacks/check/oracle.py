"""The reference table evaluated in float64: every tensor doubled, and every float32 of its text read as float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...core.batch import Batch
from ...core.weights import Packed, Rows
from .. import reference


class _Doubled(TorchFunctionMode):
    """Turns `x.float()`, `x.to(float32)` and `dtype=float32` into float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        widened = [_wide(value) for value in args]
        named = {key: _wide(value) for key, value in (kwargs or {}).items()}
        return func(*widened, **named)


def _wide(value: object) -> object:
    return torch.float64 if value is torch.float32 else value


def upcast(value: object) -> object:
    """A deep copy in float64 on the host; packed weights keep their numbers, integers and booleans their dtype."""
    if isinstance(value, Tensor | Packed):
        return _on_host(value)
    if isinstance(value, Rows):
        return value.each(_on_host)
    if isinstance(value, tuple):
        return tuple(upcast(part) for part in value)
    if isinstance(value, Batch):
        return on_device(value, torch.device("cpu"))
    return torch.float64 if isinstance(value, torch.dtype) else value


def _on_host(value: Tensor | Packed) -> Tensor | Packed:
    if isinstance(value, Tensor):
        copy = value.detach().to("cpu", copy=True)
        return copy.double() if copy.is_floating_point() else copy
    arrays = {role: array.detach().cpu() for role, array in value.arrays.items()}
    return Packed(value.format, value.shape, arrays, value.meta)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    names = ("tokens", "positions", "starts", "lengths", "pages", "slots")
    return Batch(
        **{name: getattr(batch, name).to(device) for name in names},
        page_size=batch.page_size,
        host_starts=batch.host_starts,
        host_lengths=batch.host_lengths,
    )


def exact(op: str, args: Sequence[object], options: Mapping[str, object]) -> object:
    """The op's result in float64; state among `args` (already upcast) is changed in place."""
    with _Doubled():
        return getattr(reference.OPS, op)(*args, **options)
