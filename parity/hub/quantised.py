"""A plain checkpoint whose matrices are packed as they are read: `--quantize`.

Only one tensor is ever there in both forms. What stays as it is: everything that a model keeps in float32 (norms, biases,
routers), matrices that heads absorb, those with few rows, and widths that no block divides.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from parity.core.errors import Unsupported
from parity.core.weights import Packed
from parity.formats import FORMATS, pack

from .checkpoint import Checkpoint, TensorInfo
from .derived import DerivedCheckpoint

log = logging.getLogger("parity")

PLAIN = ("bfloat16", "float16", "float32")
_FEWEST_ROWS = 32
_WHOLE = (".kv_b_proj.", ".conv1d.")  # expanded by their layer whatever they come in
_SENSITIVE = ("lm_head.", ".v_proj.", ".down_proj")
_EMBEDDING = "embed_tokens."


@dataclass(frozen=True)
class Recipe:
    """Which format a matrix is packed in, the first of each list whose block divides its width.

    Args:
        usual: for most matrices.
        sensitive: for those whose error costs most.
    """

    usual: tuple[str, ...]
    sensitive: tuple[str, ...]

    @property
    def formats(self) -> frozenset[str]:
        """All that it may use."""
        return frozenset(self.usual + self.sensitive)

    def format_of(self, width: int, *, sensitive: bool) -> str | None:
        """The format of a matrix; None if none fits."""
        fitting = (form for form in (self.sensitive if sensitive else self.usual) if width % _multiple(form) == 0)
        return next(fitting, None)


# In order of preference: the first is taken of which the stack computes on every format, else the first. The choice for `q4`
# is by measurement (docs/performance.md): the sensitive matrices in 6 or 8 bits cost 7 % of the size and halve the
# divergence, and where 256 does not divide a width, Q4_0 in place of Q5_0 saves 8 % and nearly quadruples it.
RECIPES: Mapping[str, tuple[Recipe, ...]] = {
    "q8": (Recipe(("q8_0",), ("q8_0",)), Recipe(("int8_group",), ("int8_group",))),
    "q4": (
        Recipe(("q4_k", "q5_0"), ("q6_k", "q8_0")),
        Recipe(("int4_group",), ("int4_group",)),
    ),
}


def recipe_for(name: str, formats: Collection[str]) -> Recipe:
    """The recipe of a name for a stack that computes on these formats.

    Raises:
        Unsupported: there is none of that name.
    """
    if name not in RECIPES:
        raise Unsupported(f"no quantisation is called {name!r}: there are {', '.join(RECIPES)}")
    computed = (recipe for recipe in RECIPES[name] if recipe.formats <= set(formats))
    return next(computed, RECIPES[name][0])


class QuantisedCheckpoint(DerivedCheckpoint):
    """A checkpoint under the same names, its matrices packed.

    Args:
        checkpoint: bf16, fp16 or fp32.
        recipe: the formats.
        kept: names that stay as they are.
        tied: the embedding is the head, too.

    Raises:
        Unsupported: the checkpoint is packed already, or has no matrix to pack.
    """

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, kept: Collection[str] = (), *, tied: bool = False) -> None:
        packed = sorted({info.format for info in checkpoint.tensors.values() if info.format in FORMATS})
        if packed:
            raise Unsupported(
                f"{checkpoint.path} is quantised already ({', '.join(packed)}); run it as it is, or quantise the original"
            )
        super().__init__(checkpoint)
        sensitive = (*_SENSITIVE, _EMBEDDING) if tied else _SENSITIVE
        self._formats = {
            name: form
            for name, info in checkpoint.tensors.items()
            if name not in kept and (form := _chosen(info, recipe, sensitive)) is not None
        }
        if not self._formats:
            raise Unsupported(f"{checkpoint.path} has no matrix whose width a block of {', '.join(recipe.formats)} divides")
        self.tensors: Mapping[str, TensorInfo] = {
            name: _packed_info(info, self._formats[name]) if name in self._formats else info
            for name, info in checkpoint.tensors.items()
        }

    def read(self, name: str) -> torch.Tensor | Packed:
        """The tensor, packed now if it is one that is."""
        weight = self._checkpoint.read(name)
        if name not in self._formats or not isinstance(weight, torch.Tensor):
            return weight
        packed = pack(weight, self._formats[name])
        self._checkpoint.release(name)
        return packed

    def release(self, name: str | None = None) -> None:
        """Of the plain one; what is packed is in nobody's file."""
        self._checkpoint.release(name)

    def describe(self) -> str:
        """How many matrices are in which format."""
        counts: dict[str, int] = {}
        for form in self._formats.values():
            counts[form] = counts.get(form, 0) + 1
        return ", ".join(f"{count} matrices {form}" for form, count in sorted(counts.items()))


def _chosen(info: TensorInfo, recipe: Recipe, sensitive: tuple[str, ...]) -> str | None:
    if len(info.shape) not in (2, 3) or info.format not in PLAIN or info.shape[-2] < _FEWEST_ROWS:
        return None
    if any(part in info.name for part in _WHOLE):
        return None
    return recipe.format_of(info.shape[-1], sensitive=any(part in info.name for part in sensitive))


def _packed_info(info: TensorInfo, form: str) -> TensorInfo:
    bits = round(FORMATS[form].bits * 32)  # of 32 weights, a whole number
    count = torch.Size(info.shape).numel()
    return dataclasses.replace(info, format=form, nbytes=count * bits // 256)


def _multiple(form: str) -> int:
    return 32 if form.startswith("int") else FORMATS[form].multiple
