"""From a config's `model_type` to the architecture that computes it; imports only the one asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import torch

from ..core.errors import Unsupported
from ..core.weights import Ignore, Rule
from ..stacks.ops import Ops
from . import draft as drafts
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder

# model_type -> module; several types may share one.
_MODULES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "qwen3_next": "qwen3_next",
    "qwen3_5": "qwen3_5",
    "qwen3_5_text": "qwen3_5",
    "qwen3_5_moe": "qwen3_5_moe",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "qwen4_exp": "qwen4_exp",
    "qwen4_exp_text": "qwen4_exp",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "deepseek_v32": "deepseek_v32",
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v41",
    "deepseek_v41_text": "deepseek_v41",
    "kimi_k2": "deepseek_v3",
    "kimi_k25": "kimi_k25",
    "kimi_vl": "kimi_k25",
    "kimi_linear": "kimi_linear",
    "kimi_k3": "kimi_k3",
}


def find(model_type: str) -> Architecture:
    """The architecture of a model type.

    Raises:
        Unsupported: it is none of ours.
    """
    if model_type not in _MODULES:
        known = ", ".join(sorted(_MODULES))
        raise Unsupported(f"model_type {model_type!r} is not supported: Parity computes {known}")
    architecture: Architecture = import_module(f".{_MODULES[model_type]}", __package__).ARCHITECTURE
    return architecture


def architectures() -> Iterator[Architecture]:
    """Every architecture, once."""
    for module in dict.fromkeys(_MODULES.values()):
        yield import_module(f".{module}", __package__).ARCHITECTURE


def build(config: Mapping[str, Any], ops: Ops, dtype: torch.dtype, *, draft: bool = False) -> tuple[Decoder, Architecture]:
    """The model of a config, without weights; with its draft layers if `draft`.

    Raises:
        Unsupported: the architecture is not ours, or has no draft layers that are computed.
        ConfigError: the config has a key or value that is not computed.
    """
    fields = Fields(config)
    architecture = find(fields.model_type)
    if draft and not architecture.drafts:
        raise Unsupported(f"{fields.model_type!r} has no draft layers that Parity computes; load it without them")
    model = architecture.build(fields, ops, dtype, draft=True) if draft else architecture.build(fields, ops, dtype)
    fields.finish()
    if draft and not len(model.mtp):
        raise Unsupported(f"the config of this {fields.model_type!r} names no draft layers; load it without them")
    return model, architecture


TIED = Ignore(r"lm_head\.weight", "the head is tied to the embedding", repeats="model.embed_tokens.weight")
# Kimi K2 and Moonlight are released with them, and not even with the model's own.
FREQUENCIES = Ignore(r".*\.rotary_emb\.inv_freq$", "rotation frequencies follow from the config")


def rules(model: Decoder, architecture: Architecture) -> tuple[Rule, ...]:
    """From checkpoint names to the model's, and what of a checkpoint is left out."""
    rules = (*architecture.rules, *model.rules, FREQUENCIES, *((TIED,) if model.tied else ()))
    return tuple(rule for rule in rules if not (len(model.mtp) and isinstance(rule, Ignore) and rule.why == drafts.WHY))
