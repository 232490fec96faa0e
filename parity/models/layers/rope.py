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

MOST_DIMS = 2**20
"""Of a head that are rotated; released models rotate up to 128."""
MOST = 1e36
"""Of any number here, so that nothing computed of them overflows."""
PARTIAL = "partial_rotary_factor"


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


def rope_parameters(fields: Fields) -> dict[str, Any]:
    """The rope settings of a config, whether it is written the old way (rope_theta, rope_scaling) or the new one.

    A base that stands nowhere is 10000. Of two values that do not agree transformers takes the one inside the object, and code
    written for the old form the one beside it: such a config is refused.

    Raises:
        ConfigError: a setting is given twice, with different values.
    """
    merged: dict[str, Any] = {
        name: value for name in ("rope_theta", PARTIAL) if (value := fields.float(name, None)) is not None
    }
    for key in ("rope_scaling", "rope_parameters"):
        given = {name: value for name, value in (fields.mapping(key, None) or {}).items() if value is not None}
        if given:
            kind = given.pop("type", "default")
            given.setdefault("rope_type", kind)
        for name, value in given.items():
            if merged.setdefault(name, value) != value:
                raise ConfigError(f"{key} has {name} = {value!r}, and the config has {merged[name]!r} elsewhere")
    return {"rope_type": "default", "rope_theta": 10000.0} | merged


def rotated_dims(parameters: dict[str, Any], head_dim: int, default: float) -> int:
    """How many of a head's dimensions are rotated, by the settings' `partial_rotary_factor`, which is taken out of them."""
    fraction = _above_zero(parameters, PARTIAL, default)
    if fraction > 1:
        raise ConfigError(f"{PARTIAL} must be at most 1, not {fraction:g}")
    return int(head_dim * fraction)


def make_rope(parameters: Mapping[str, Any], dims: int, max_position: int) -> Rope:
    """The frequencies of `dims` rotated dimensions.

    Raises:
        ConfigError: a scaling or a key of one that is not computed, or a base that is not above 0.
    """
    left = dict(parameters)
    kind, theta = left.pop("rope_type"), _above_zero(left, "rope_theta")
    if not 0 < dims <= MOST_DIMS or dims % 2:
        raise ConfigError(f"{dims} dimensions cannot be rotated: an even number of them can, up to {MOST_DIMS}")
    # Text positions are the same in all three sections of a multimodal rope, which then is a plain one.
    for key in ("mrope_section", "mrope_interleaved"):
        left.pop(key, None)
    if left.get(PARTIAL) == 1:
        del left[PARTIAL]
    if kind == "mrope":
        kind = "default"
    # Rounded here and below as in the reference: a frequency's last digit is, at position 100,000, a cosine's third.
    spans = theta ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)
    if kind not in tuple(_KINDS):
        raise ConfigError(f"rope_type {kind!r} is not supported: only {', '.join(_KINDS)}")
    rope = _KINDS[kind](spans, theta, dims, max_position, left)
    if left:
        raise ConfigError(f"rope scaling {kind!r} has keys that are not computed: {', '.join(sorted(left))}")
    return rope


def _number(left: dict[str, Any], key: str, default: float | None = None) -> float:
    """A key of the scaling, taken out of it."""
    value = left.pop(key, None)
    value = default if value is None else value
    if value is None:
        raise ConfigError(f"the config's rope lacks {key!r}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{key} must be a number, not {value!r}")
    if not -MOST <= value <= MOST:
        raise ConfigError(f"{key} must be a number up to {MOST:g}, not {value}")
    return float(value)


def _above_zero(left: dict[str, Any], key: str, default: float | None = None) -> float:
    value = _number(left, key, default)
    if value <= 0:
        raise ConfigError(f"{key} must be above 0, not {value:.12g}")
    return value


def _default(spans: Tensor, theta: float, dims: int, max_position: int, left: dict[str, Any]) -> Rope:
    return Rope(1.0 / spans)


def _linear(spans: Tensor, theta: float, dims: int, max_position: int, left: dict[str, Any]) -> Rope:
    return Rope(1.0 / spans / _above_zero(left, "factor"))


def _llama3(spans: Tensor, theta: float, dims: int, max_position: int, left: dict[str, Any]) -> Rope:
    """Llama 3.1: long wavelengths are divided by the factor, short ones kept, those between blended."""
    factor, low, high = (_above_zero(left, key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = _above_zero(left, "original_max_position_embeddings")
    if low >= high:
        raise ConfigError(f"low_freq_factor = {low:g} must be below high_freq_factor = {high:g}")
    plain = 1.0 / spans
    turns = original / (2 * math.pi / plain)
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return Rope((1 - blend) * plain / factor + blend * plain)


def _yarn(spans: Tensor, theta: float, dims: int, max_position: int, left: dict[str, Any]) -> Rope:
    """YaRN (arXiv 2309.00071), with DeepSeek's two mscale keys.

    `attn_factor` multiplies the temperature, as in vLLM and llama.cpp: DeepSeek-R1-0528-Qwen3-8B undoes it so to the last
    digit. transformers knows only `attention_factor`, the temperature itself, and leaves the other out with a warning.
    """
    factor = _above_zero(left, "factor")
    original = _above_zero(left, "original_max_position_embeddings", max_position)
    fast, slow = _above_zero(left, "beta_fast", 32), _above_zero(left, "beta_slow", 1)
    truncate = bool(left.pop("truncate", True))
    if theta <= 1:
        raise ConfigError(f"rope_theta must be above 1 with YaRN, not {theta:g}")

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
    kept = 1 - ramp
    inv_freq = 1.0 / (factor * spans) * (1 - kept) + 1.0 / spans * kept
    own, everywhere = (_number(left, key, 0.0) for key in ("mscale", "mscale_all_dim"))
    given, times = left.pop("attention_factor", None), _number(left, "attn_factor", 1.0)
    if given is not None:
        scale = _number({"attention_factor": given}, "attention_factor")
    elif own and everywhere:
        scale = times * yarn_mscale(factor, own) / yarn_mscale(factor, everywhere)
    else:
        scale = times * yarn_mscale(factor, 1.0)
    return Rope(inv_freq, scale, yarn_mscale(factor, everywhere) if everywhere else 1.0)


def yarn_mscale(factor: float, mscale: float) -> float:
    """YaRN's attention temperature for a context stretched by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


_KINDS = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
