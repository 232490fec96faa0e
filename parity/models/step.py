"""What every layer of a step is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..core.batch import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step through a model.

    Args:
        batch: the step's tensors.
        angles: rotation angles by rope name, float32 [T, 2, R / 2], computed once for all layers.
        shared: what a layer leaves for later layers of the same step, such as a selection of entries.
    """

    batch: Batch
    angles: Mapping[str, Tensor]
    shared: dict[str, Tensor] = field(default_factory=dict)
