"""Where weights go: each layer lists the checkpoint tensors it takes, and the loader fills every one exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from ...core.weights import Weight


class Place(Protocol):
    """Brings a weight to the stack: device, dtype or expansion, the kernels' order. Given by the loader."""

    def __call__(self, weight: Weight, *, plain: bool = False) -> Weight:
        """The weight as it is computed on; where `plain`, as plain numbers, whatever the stack computes on."""


Put: TypeAlias = Callable[[Weight, Place], None]
"""Takes a weight, raw as read, with what places it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor that a layer wants.

    Args:
        name: the checkpoint's name, relative to the layer's own module, or to its parent if it starts with `.`.
        shape: the logical shape.
        put: takes the tensor; called exactly once. The weight is raw, as read.
        exact: kept in float32 whatever the compute dtype (norms, biases, router corrections, decay rates).
    """

    name: str
    shape: tuple[int, ...]
    put: Put = field(repr=False)
    exact: bool = False


@runtime_checkable
class TakesWeights(Protocol):
    """A layer with weights of its own."""

    def slots(self) -> Iterator[Slot]:
        """The tensors it wants."""


@runtime_checkable
class ChoosesForm(Protocol):
    """A layer whose weights are released in more than one form, such as experts one by one or stacked."""

    def choose_form(self, path: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Looks at what the checkpoint has, before `slots` is asked; `path` is the layer's own name."""


def slots(model: nn.Module, shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})) -> dict[str, Slot]:
    """Every tensor that the model wants, by checkpoint name; `shapes` is what the checkpoint has."""
    found: dict[str, Slot] = {}
    for path, module in model.named_modules():
        if isinstance(module, ChoosesForm):
            module.choose_form(path, shapes)
        if not isinstance(module, TakesWeights):
            continue
        parent = path.rpartition(".")[0]
        for slot in module.slots():
            base, name = (parent, slot.name[1:]) if slot.name.startswith(".") else (path, slot.name)
            full = f"{base}.{name}" if base else name
            assert full not in found, f"two layers want {full}"
            found[full] = slot
    return found


class Parameter:
    """A place for one weight in a layer: its slot before loading, its value after."""

    def __init__(self, name: str, *shape: int, exact: bool = False) -> None:
        self.name, self.shape, self.exact = name, shape, exact
        self._value: Weight | None = None

    def slot(self) -> Slot:
        """The slot that fills it."""
        return Slot(self.name, self.shape, self.put, self.exact)

    def put(self, weight: Weight, place: Place) -> None:
        """Takes the weight as read and keeps it as placed."""
        self._value = place(weight)

    @property
    def value(self) -> Weight:
        """The weight, plain or packed."""
        assert self._value is not None, f"{self.name} was not loaded"
        return self._value

    @property
    def tensor(self) -> Tensor:
        """The weight, known to be plain."""
        value = self.value
        assert isinstance(value, Tensor), f"{self.name} is packed"
        return value
