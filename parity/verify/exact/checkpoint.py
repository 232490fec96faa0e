"""The checkpoints as files, and the right logits, computed from the rules that they were made by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from . import attention, delta
from .configs import config
from .kinds import KINDS, Kind, Mixer
from .mlps import added, mlp
from .pieces import CLASS, CLASSES, CONSTANT, HIDDEN, LAYERS, ROWS, SPARE, TOKEN, TOKENS, Matrix, Sublayer, output

PROMPTS: tuple[tuple[int, ...], ...] = ((0, 1, 2, 3), (4, 9, 14, 3), (8, 5, 6, 15))
"""Four tokens of four classes (id mod 4) in the order 0, 1, 2, 3, so that what a head looks for is unique."""

ARCHITECTURES = tuple(KINDS)

_MIXERS: Mapping[Mixer, tuple[str, Callable[[Kind, str, Sublayer], dict[str, Matrix]]]] = {
    "grouped": ("self_attn", attention.grouped),
    "latent": ("self_attn", attention.latent),
    "gated_delta": ("linear_attn", delta.gated_delta),
    "kimi_delta": ("self_attn", delta.kimi_delta),
}


def tensors(kind: str) -> dict[str, npt.NDArray[np.float32]]:
    """The checkpoint's tensors, under Hugging Face's names."""
    parts = KINDS[kind]
    norm = np.full(HIDDEN, 0.0 if parts.zero_centred else 1.0)
    found: dict[str, Matrix] = {"model.embed_tokens.weight": _embedding(), "lm_head.weight": _head(), "model.norm.weight": norm}
    for layer, mixer in enumerate(parts.mixers):
        prefix = f"model.layers.{layer}"
        found |= {f"{prefix}.{name}.weight": norm for name in ("input_layernorm", "post_attention_layernorm")}
        name, make = _MIXERS[mixer]
        found |= make(parts, f"{prefix}.{name}", Sublayer(2 * layer))
        found |= mlp(parts, f"{prefix}.mlp", Sublayer(2 * layer + 1))
        if parts.mixes:
            found |= _mix(f"{prefix}.self_attention_res") | _mix(f"{prefix}.mlp_res")
    if parts.mixes:
        found |= _mix("model.output_attn_res")
    return {parts.prefix + name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def _mix(name: str) -> dict[str, Matrix]:
    """Equal scores for the two that are mixed: each counts half."""
    return {f"{name}_norm.weight": np.ones(HIDDEN), f"{name}_proj.weight": np.zeros((1, HIDDEN))}


def _embedding() -> Matrix:
    rows = [ROWS[CONSTANT] + ROWS[CLASS + t % CLASSES] + ROWS[TOKEN + t] + ROWS[SPARE] for t in range(TOKENS)]
    return np.stack(rows)


def _head() -> Matrix:
    """[TOKENS, HIDDEN]: small whole numbers."""
    return np.asarray((np.arange(TOKENS * HIDDEN).reshape(TOKENS, HIDDEN) * 7919 // 31 % 9) - 4, np.float64)


def write(kind: str, folder: Path) -> None:
    """The checkpoint as a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(kind)))
    safetensors.numpy.save_file(tensors(kind), folder / "model.safetensors", {"format": "pt"})
    model = {"type": "BPE", "vocab": {chr(97 + token): token for token in range(TOKENS)}, "merges": []}
    pre_tokenizer = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "model": model, "pre_tokenizer": pre_tokenizer, "decoder": decoder, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def expected(kind: str, prompt: tuple[int, ...]) -> Matrix:
    """The logits [tokens, vocabulary] in whole numbers and powers of two, computed from the rules and not by a model."""
    parts = KINDS[kind]
    stream = _embedding()[list(prompt)]
    for layer, mixer in enumerate(parts.mixers):
        read = delta.recalled(prompt) if mixer.endswith("delta") else attention.attended(parts, prompt)
        stream = stream + read.reshape(len(prompt), -1) @ output(Sublayer(2 * layer)).T
        stream = stream + added(parts, prompt, read, Sublayer(2 * layer + 1))
    return np.asarray(stream / 2.0 ** (2 * LAYERS + 1) @ _head().T)


def digest(logits: list[npt.NDArray[np.floating[Any]]]) -> str:
    """SHA-256 of logits as float32, both zeros alike."""
    return hashlib.sha256(b"".join((x.astype("<f4") + np.float32(0)).tobytes() for x in logits)).hexdigest()


@cache
def expected_digest(kind: str) -> str:
    """What every correct side must report."""
    return digest([expected(kind, prompt) for prompt in PROMPTS])
