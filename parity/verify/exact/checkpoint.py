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

from . import attention, delta, shared_key, streams
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
    "shared_key": ("attn", shared_key.shared_key),
}


def tensors(kind: str) -> dict[str, npt.NDArray[Any]]:
    """The checkpoint's tensors, under the names of its releases."""
    parts = KINDS[kind]
    norm = np.full(HIDDEN, 0.0 if parts.zero_centred else 1.0)
    found: dict[str, Matrix] = {"model.embed_tokens.weight": _embedding(), "lm_head.weight": _head()}
    for layer, mixer in enumerate(parts.mixers):
        prefix = f"model.layers.{layer}"
        name, make = _MIXERS[mixer]
        before, between = (Sublayer(2 * layer + place, _share(parts)) for place in (0, 1))
        found |= make(parts, f"{prefix}.{name}", before) | mlp(parts, f"{prefix}.mlp", between)
        found |= _sites(parts, prefix, before, between, norm)
    if parts.streams == "gated":
        found |= streams.gated_site("model.hyper_connection_mixer", Sublayer(2 * LAYERS, _share(parts)), writes=False)
    else:
        found["model.norm.weight"] = norm
    if parts.mixes:
        found |= _mix("model.output_attn_res")
    if parts.streams == "hyper" and not parts.lagged:
        found |= streams.hyper_head("model.hc_head.")
    return {parts.prefix + _released(parts, name): _stored(name, value) for name, value in found.items()}


def _share(parts: Kind) -> float:
    """What of the normed stream a sublayer is given."""
    return 1 / streams.COUNT if parts.streams == "gated" else 1.0


def _sites(parts: Kind, prefix: str, before: Sublayer, between: Sublayer, norm: Matrix) -> dict[str, Matrix]:
    """What stands before a layer's mixer and between it and the MLP."""
    if parts.streams == "gated":
        found = streams.gated_site(f"{prefix}.attn_hyper_connection", before)
        return found | streams.gated_site(f"{prefix}.mlp_hyper_connection", between)
    found = {f"{prefix}.{name}.weight": norm for name in ("input_layernorm", "post_attention_layernorm")}
    if parts.streams == "hyper":
        found |= streams.hyper_site(f"{prefix}.hc_attn", before.index, lagged=parts.lagged)
        found |= streams.hyper_site(f"{prefix}.hc_ffn", between.index, lagged=parts.lagged)
    if parts.mixes:
        found |= _mix(f"{prefix}.self_attention_res") | _mix(f"{prefix}.mlp_res")
    return found


_VENDOR_NAMES = (
    (".input_layernorm.", ".attn_norm."),
    (".post_attention_layernorm.", ".ffn_norm."),
    (".mlp.", ".ffn."),
    (".gate_proj.", ".w1."),
    (".down_proj.", ".w2."),
    (".up_proj.", ".w3."),
    (".e_score_correction_bias", ".bias"),
    ("lm_head.", "head."),
)


def _released(parts: Kind, name: str) -> str:
    """DeepSeek releases V4 under names of its own."""
    for ours, vendors in _VENDOR_NAMES if parts.streams == "hyper" else ():
        name = name.replace(ours, vendors)
    return name


def _stored(name: str, value: Matrix) -> npt.NDArray[Any]:
    """As released: tables of numbers of experts are whole numbers."""
    return np.ascontiguousarray(value, np.int64 if name.endswith("tid2eid") else np.float32)


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
    return np.asarray(stream / Sublayer(2 * LAYERS, _share(parts)).size @ _head().T)


def digest(logits: list[npt.NDArray[np.floating[Any]]]) -> str:
    """SHA-256 of logits as float32, both zeros alike."""
    return hashlib.sha256(b"".join((x.astype("<f4") + np.float32(0)).tobytes() for x in logits)).hexdigest()


@cache
def expected_digest(kind: str) -> str:
    """What every correct side must report."""
    return digest([expected(kind, prompt) for prompt in PROMPTS])
