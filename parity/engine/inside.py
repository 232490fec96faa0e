"""Shows a probe what goes into and comes out of every module of a layer, for looking at one stack through another's eyes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..core.batch import Probe

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


@contextmanager
def inside(model: nn.Module, probe: Probe | None) -> Iterator[None]:
    """While open, `probe(layer, site, value)` is called for the modules of each layer, in the order computed.

    A site is a module's path in its layer, such as `mlp.down_proj`, for what it returns (`mlp.gate.0`, `.1` where it returns
    several), and `mlp.down_proj.in` for its input. A tensor that the probe returns takes the value's place.
    """
    handles = []
    try:
        for path, module in model.named_modules() if probe is not None else ():
            found = _LAYER.fullmatch(path)
            if found and probe is not None:
                layer, site = int(found[1]), found[2]
                handles.append(module.register_forward_pre_hook(_before(probe, layer, site)))
                handles.append(module.register_forward_hook(_after(probe, layer, site)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(probe: Probe, layer: int, site: str) -> Any:
    def show(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not given or not isinstance(given[0], Tensor):
            return None
        replaced = probe(layer, f"{site}.in", given[0])
        return None if replaced is None else (replaced, *given[1:])

    return show


def _after(probe: Probe, layer: int, site: str) -> Any:
    def show(module: nn.Module, given: tuple[Any, ...], result: Any) -> Any:
        if isinstance(result, Tensor):
            return probe(layer, site, result)
        if isinstance(result, tuple) and all(isinstance(part, Tensor) for part in result):
            shown = [probe(layer, f"{site}.{index}", part) for index, part in enumerate(result)]
            return tuple(part if new is None else new for part, new in zip(result, shown, strict=True))
        return None

    return show
