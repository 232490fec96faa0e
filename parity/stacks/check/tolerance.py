"""How far a kernel may be from the exact result: the one place where the tolerances of the suite are written.

The judge is the reference evaluated in float64 (`oracle.py`). With u the unit roundoff of a dtype (half an ulp of 1), a
result y may be off by

    (2 u(result) + 2 (roundings - 1) u(compute) + 8 sqrt(n) u(float32) + 4 / 127 * eight_bit) * size

* Each rounding to a dtype may cost one ulp, twice what correct rounding costs. `roundings` counts those that a kernel may
  make on the way: the result's own, and intermediates handed between matrix products in the compute dtype.
* The arithmetic is float32: four ulps, growing with the square root of n, the number of terms summed.
* Packed weights allow the activations to be rounded to eight bits in blocks, as integer kernels do; `eight_bit` counts the
  products for which they are, none on a stack that rounds none (`Stack.rounded`). One step is 1 / 127 of a block's peak,
  which is three to four times the rounding's effect.
* `size` is |y| for an element-wise op. For a sum it is |y| + the root mean square of y's row, since terms cancel: the
  rounding error of a sum of random terms is as large as the roundoff times the size of the other sums in the row.

Integers, and copies in one dtype, must be equal. What is computed and then kept in pages of int8 may be one step off, a 127th
of the row's largest number, since a rounding may fall on either side; what is only kept must be equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-30  # below what any kernel must keep: subnormal numbers may be flushed to zero


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a case allows.

    Args:
        terms: the number of terms in the op's longest sum; 1 is an element-wise op.
        roundings: roundings to a dtype, the result's own included.
        eight_bit: matrix products whose activations may be rounded to eight bits.
    """

    terms: int = 1
    roundings: int = 1
    eight_bit: int = 0

    def allowed(self, exact: Tensor, result: torch.dtype, compute: torch.dtype) -> Tensor:
        """The largest error of each element of `exact`, float64.

        Args:
            exact: the oracle's result.
            result: the dtype of the kernel's result.
            compute: the dtype of the case.
        """
        share = 2 * roundoff(result) + 2 * (self.roundings - 1) * roundoff(compute)
        share += 8 * math.sqrt(self.terms) * roundoff(torch.float32) + self.eight_bit * 4 / 127
        size = exact.abs()
        if self.terms > 1 and exact.ndim:
            finite = exact.nan_to_num(0.0, 0.0, 0.0)
            size = size + finite.square().mean(-1, keepdim=True).sqrt()
        return share * size + _TINY


ONE_ROUNDING = Tolerance()


def roundoff(dtype: torch.dtype) -> float:
    """The unit roundoff: half the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def one_step(row: Tensor) -> Tensor:
    """What each number of rows [..., D] read from pages of int8 may be off: a step, and the rounding of the step itself."""
    return (row.double().abs().amax(-1, keepdim=True) * (1.02 / 127) + _TINY).expand(row.shape)


def error(found: Tensor, exact: Tensor, allowed: Tensor) -> float:
    """The worst error in units of what is allowed; equal infinities and NaNs are no error, others are infinitely wrong."""
    if not exact.numel():
        return 0.0
    found = found.double()
    same = (found == exact) | (found.isnan() & exact.isnan())
    ratio = ((found - exact).abs() / allowed).masked_fill(same, 0.0)
    return float(ratio.nan_to_num(math.inf, math.inf, math.inf).max())
