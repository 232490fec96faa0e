"""Rotary position embeddings: frequencies from a config, in every published scaling that our families use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ConfigError
from ..config import Fields


@dataclass(frozen=True, eq=False)
class Rope:
    """Rotation frequencies of one kind of layer.

    Args:
        inv_freq: float32 [dims / 2], radians a token.
        scale: multiplies cosines and sines.
        mscale: attention temperature of DeepSeek's YaRN; the softmax scale is multiplied by its square.
        shift: added to the positions.
    """

    inv_freq: Tensor
    scale: float = 1.0
    mscale: float = 1.0
    shift: int = 0

    @property
    def dims(self) -> int:
        """Dimensions rotated."""
        return 2 * self.inv_freq.shape[0]

    def grouped(self, every: int) -> Rope:
        """The rotation of entries pooled from `every` tokens, by the first one's position, as seen from the last one's row."""
        return replace(self, shift=1 - every)


def rope_parameters(fields: Fields, default_theta: float = 10000.0) -> dict[str, Any]:
    """The rope settings of a config, whether it is written the old way (rope_theta, rope_scaling) or the new one."""
    theta = fields.float("rope_theta", None)
    merged: dict[str, Any] = {"rope_type": "default", "rope_theta": theta if theta is not None else default_theta}
    for key in ("rope_scaling", "rope_parameters"):
        given = fields.mapping(key, None)
        if given:
            merged |= {name: value for name, value in given.items() if value is not None}
            merged["rope_type"] = given.get("rope_type", given.get("type", "default"))
    merged.pop("type", None)
    return merged


def make_rope(parameters: Mapping[str, Any], dims: int, max_position: int) -> Rope:
    """The frequencies of `dims` rotated dimensions.

    Raises:
        ConfigError: a scaling or a key of one that is not computed, or a base that is not above 0.
    """
    left = dict(parameters)
    kind, theta = left.pop("rope_type"), float(left.pop("rope_theta"))
    if theta <= 0:
        raise ConfigError(f"rope_theta must be above 0, not {theta}")
    # Text positions are the same in all three sections of a multimodal rope, which then is a plain one.
    for key in ("mrope_section", "mrope_interleaved", "partial_rotary_factor"):
        left.pop(key, None)
    if kind == "mrope":
        kind = "default"
    plain = theta ** -(torch.arange(0, dims, 2, dtype=torch.float32) / dims)
    if kind not in _KINDS:
        raise ConfigError(f"rope_type {kind!r} is not supported: only {', '.join(_KINDS)}")
    rope = _KINDS[kind](plain, theta, dims, max_position, left)
    if left:
        raise ConfigError(f"rope scaling {kind!r} has keys that are not computed: {', '.join(sorted(left))}")
    return rope


def _default(plain: Tensor, theta: float, dims: int, max_position: int, left: dict[str, Any]) -> Rope:
    return Rope(plain)


def _linear(plain: Tensor, theta: float, dims: int, max_position: int, left: dict[str, Any]) -> Rope:
    return Rope(plain / float(left.pop("factor")))


def _llama3(plain: Tensor, theta: float, dims: int, max_position: int, left: dict[str, Any]) -> Rope:
    """Llama 3.1: long wavelengths are divided by the factor, short ones kept, those between blended."""
    factor, low, high = (float(left.pop(key)) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(left.pop("original_max_position_embeddings"))
    turns = original * plain / (2 * math.pi)
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return Rope(plain * (blend + (1 - blend) / factor))


def _yarn(plain: Tensor, theta: float, dims: int, max_position: int, left: dict[str, Any]) -> Rope:
    """YaRN (arXiv 2309.00071), with DeepSeek's two mscale keys.

    `attn_factor` multiplies the temperature, as in vLLM and llama.cpp: DeepSeek-R1-0528-Qwen3-8B undoes it so to the last
    digit. transformers knows only `attention_factor`, the temperature itself, and leaves the other out with a warning.
    """
    factor = float(left.pop("factor"))
    original = float(left.pop("original_max_position_embeddings", max_position))
    fast, slow = float(left.pop("beta_fast", 32)), float(left.pop("beta_slow", 1))
    truncate = bool(left.pop("truncate", True))

    def dimension(turns: float) -> float:
        """The dimension whose wavelength makes this many turns over the original context."""
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(fast), dimension(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dims // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    inv_freq = plain / factor * ramp + plain * (1 - ramp)
    own, everywhere = left.pop("mscale", None), left.pop("mscale_all_dim", None)
    given, times = left.pop("attention_factor", None), float(left.pop("attn_factor", 1.0))
    if given is not None:
        scale = float(given)
    elif own and everywhere:
        scale = times * yarn_mscale(factor, float(own)) / yarn_mscale(factor, float(everywhere))
    else:
        scale = times * yarn_mscale(factor, 1.0)
    return Rope(inv_freq, scale, yarn_mscale(factor, float(everywhere)) if everywhere else 1.0)


def yarn_mscale(factor: float, mscale: float) -> float:
    """YaRN's attention temperature for a context stretched by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


_KINDS = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
