"""The scales that lose least: for runs of numbers x, codes q in a small range and the squares of what is left of x.

For given codes the best scale is a regression of x on q, and for a given scale the best code is the nearest. Several scales
are tried from which codes follow; the regression on those codes gives each candidate's own best scale, its error follows
from the sums alone, and the best of all is kept. Runs stand in columns, [numbers, runs], so that every step is one over
whole vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

SYMMETRIC_STEPS = (-0.6, -0.3, 0.0, 0.3, 0.6)
AFFINE_STEPS = (-0.75, -0.25, 0.25, 0.75)
"""What is added to the largest code when the first scale is chosen: below zero the run's ends are rounded inwards."""


def symmetric_scale(x: torch.Tensor, low: int, high: int, steps: Sequence[float] = SYMMETRIC_STEPS) -> torch.Tensor:
    """The scale d [1, runs], of either sign, for which x ~ d q with q in low .. high loses least.

    `low` has the larger magnitude: the largest number of a run is put on that side.
    """
    most, least = x.amax(0, keepdim=True), x.amin(0, keepdim=True)
    peak = torch.where(most > -least, most, least)
    reciprocal = torch.where(peak == 0, 0.0, 1 / peak)
    best_gain = torch.zeros_like(peak)
    best = torch.zeros_like(peak)
    for step in steps:
        codes = torch.mul(x, reciprocal * (low - step if low < 0 else low + step)).round_().clamp_(low, high)
        product = torch.mul(codes, x).sum(0, keepdim=True)
        square = codes.square_().sum(0, keepdim=True).clamp_(min=1)
        scale = product / square
        gain = product * scale
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best = torch.where(better, scale, best)
    return best


def affine_scale(
    x: torch.Tensor, top: int, *, below: bool, steps: Sequence[float] = AFFINE_STEPS
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale d and offset b, both [1, runs], for which x ~ d q + b with q in 0 .. top loses least.

    Args:
        below: the offset may not be above zero.
    """
    count = x.shape[0]
    most, least = x.amax(0, keepdim=True), x.amin(0, keepdim=True)
    if below:
        least = least.clamp(max=0)
    span = most - least
    reciprocal = torch.where(span <= 0, 0.0, 1 / span)
    total = x.sum(0, keepdim=True)
    best_gain = torch.full_like(span, -torch.inf)
    best_scale, best_offset = torch.zeros_like(span), least.clone()
    for step in steps:
        inverse = reciprocal * (top + step)
        codes = torch.addcmul(-least * inverse, x, inverse).round_().clamp_(0, top)
        sum_q = codes.sum(0, keepdim=True)
        product = torch.mul(codes, x).sum(0, keepdim=True)
        square = codes.square_().sum(0, keepdim=True)
        spread = count * square - sum_q * sum_q
        scale = torch.where(spread <= 0, 0.0, (count * product - total * sum_q) / spread.clamp(min=1))
        offset = (total - scale * sum_q) / count
        if below:
            free = offset <= 0
            scale = torch.where(free, scale, product / square.clamp(min=1))
            offset = torch.where(free, offset, 0.0)
        # What the squares of x lose: sum x^2 - sum (x - d q - b)^2.
        gain = 2 * (scale * product + offset * total) - scale * (scale * square + 2 * offset * sum_q) - count * offset * offset
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best_scale = torch.where(better, scale, best_scale)
        best_offset = torch.where(better, offset, best_offset)
    return best_scale, best_offset
