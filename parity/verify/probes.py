"""Integer-valued checkpoints: every partial sum is representable, so any correct kernel gives the same bits.

The stream is a sum of orthogonal rows of a Hadamard matrix with whole coefficients. Every sublayer adds twelve new rows so
that the mean square goes from 4 to 16, 64, 256, ...: a norm divides by a power of two. One attended token is so far ahead
that the others' softmax is exactly 0; rotations of the dimensions in use are exactly the identity in float32, since their
frequency is 1e-15; the gate is 0 or so large that silu is the identity. Expected logits are computed here in plain integers.

    stream = constant + class + token + ... + what the attended tokens were + what the MLP made of both
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

Matrix = npt.NDArray[np.float64]

HIDDEN, TOKENS, CLASSES, LAYERS, HEADS, HEAD_DIM = 128, 16, 4, 2, 4, 4
_CONSTANT, _CLASS, _TOKEN, _SPARE, _FREE = 0, 1, 8, 6, 24
_ROWS_PER_SUBLAYER = 12
_AHEAD = 32.0
"""Size of a query's and a key's entries: scores differ by multiples of 512."""
PROMPTS: tuple[tuple[int, ...], ...] = ((0, 1, 2, 3), (4, 9, 14, 3), (8, 5, 6, 15))
"""Four tokens of four classes (id mod 4) in the order 0, 1, 2, 3, so that what a head looks for is unique."""

ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "kimi_k25")
_LATENT = ("deepseek_v2", "deepseek_v3", "kimi_k25")
_ROUTED = ("qwen2_moe", "qwen3_moe", *_LATENT)
_BIASED = ("qwen2", "qwen2_moe")

NOT_BUILT: Mapping[str, str] = {
    "deepseek_v32": "no integer-valued index of the sparse attention was made; its ops are probed one by one",
    "deepseek_v4": "no integer-valued compressed attention was made; its ops are probed one by one",
    "deepseek_v41": "no integer-valued compressed attention was made; its ops are probed one by one",
    "kimi_linear": "no integer-valued linear attention was made; its ops are probed one by one",
    "kimi_k3": "no integer-valued linear attention was made; its ops are probed one by one",
    "qwen3_next": "no integer-valued linear attention was made; its ops are probed one by one",
    "qwen3_5": "no integer-valued linear attention was made; its ops are probed one by one",
    "qwen3_5_moe": "no integer-valued linear attention was made; its ops are probed one by one",
    "qwen4_exp": "no integer-valued gated streams were made; its ops are probed one by one",
}
"""The supported architectures that have no checkpoint here, and why."""


def hadamard(size: int) -> Matrix:
    """Sylvester's matrix of +1 and -1 with orthogonal rows."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


_H = hadamard(HIDDEN)


def _bit(number: int, place: int) -> float:
    return 1.0 if number >> place & 1 else -1.0


def _reads(rows: dict[int, float], size: float) -> Matrix:
    """Weights [HIDDEN] that turn a normed stream, whose rows have the coefficients 1 / `size`, into a sum over `rows`."""
    return np.asarray(sum(weight * _H[row] for row, weight in rows.items()) * (size / HIDDEN))


@dataclass(frozen=True, slots=True)
class _Sublayer:
    """Where a sublayer stands: `index` 0, 1, 2, ... over the model; the stream comes in with root mean square `size`."""

    index: int

    @property
    def size(self) -> float:
        return 2.0 ** (self.index + 1)

    @property
    def adds(self) -> float:
        """The coefficient of each new row: 12 adds^2 + size^2 = (2 size)^2."""
        return 2.0**self.index

    @property
    def rows(self) -> range:
        first = _FREE + _ROWS_PER_SUBLAYER * self.index
        return range(first, first + _ROWS_PER_SUBLAYER)


def _class_reads(place: int, size: float) -> Matrix:
    """A weight that gives the sign of a bit of the token's class."""
    return _reads({_CLASS + c: _bit(c, place) for c in range(CLASSES)}, size)


def _token_reads(place: int, size: float) -> Matrix:
    return _reads({_TOKEN + t: _bit(t, place) for t in range(TOKENS)}, size)


def _constant_reads(size: float) -> Matrix:
    return _reads({_CONSTANT: 1.0}, size)


def _wanted(head: int) -> int:
    """Each head looks for one class; the fourth is computed and its output dropped, to keep to twelve rows."""
    return head


def _output(sublayer: _Sublayer) -> Matrix:
    """[HIDDEN, HEADS * 4]: each bit of what the first three heads attended becomes a new row."""
    rows = [sublayer.adds * _H[row] for row in sublayer.rows]
    return np.stack(rows + [np.zeros(HIDDEN)] * (HEADS * HEAD_DIM - len(rows)), axis=1)


def _attention(kind: str, prefix: str, sublayer: _Sublayer) -> dict[str, Matrix]:
    if kind in _LATENT:
        return _latent_attention(prefix, sublayer)
    size = sublayer.size
    normed = kind in ("qwen3", "qwen3_moe")
    biased = kind in _BIASED
    strength = 1.0 if normed else _AHEAD
    zero = np.zeros(HIDDEN)
    # Dimensions 0 and 2 turn by whole radians: they are kept out of the product.
    filler = _constant_reads(size) if normed else zero
    q, q_bias = list[Matrix](), list[float]()
    for head in range(HEADS):
        for row in (filler, None, filler, None):
            place = 0 if len(q) % HEAD_DIM == 1 else 1
            sign = _bit(_wanted(head), place)
            if row is None:
                # With biases, half of the query comes from them.
                share = 0.5 if biased else 1.0
                q.append(_constant_reads(size) * sign * strength * share)
                q_bias.append(sign * strength * (1 - share))
            else:
                q.append(row)
                q_bias.append(0.0)
    k = [filler, _class_reads(0, size) * strength, filler, _class_reads(1, size) * strength]
    v = [_token_reads(place, size) for place in range(HEAD_DIM)]
    found = {
        f"{prefix}.q_proj.weight": np.stack(q),
        f"{prefix}.k_proj.weight": np.stack(k),
        f"{prefix}.v_proj.weight": np.stack(v),
        f"{prefix}.o_proj.weight": _output(sublayer),
    }
    if biased:
        found |= {f"{prefix}.q_proj.bias": np.array(q_bias), f"{prefix}.k_proj.bias": np.zeros(4)}
        found[f"{prefix}.v_proj.bias"] = np.zeros(4)
    if normed:
        weight = np.array([0.0, _AHEAD, 0.0, _AHEAD])
        found |= {f"{prefix}.q_norm.weight": weight, f"{prefix}.k_norm.weight": weight}
    return found


def _latent_attention(prefix: str, sublayer: _Sublayer) -> dict[str, Matrix]:
    """Two plain and two rotated dimensions a head, of which the rotated ones are 0; a latent of eight signs."""
    size = sublayer.size
    q = np.zeros((HEADS, 4, HIDDEN))
    for head in range(HEADS):
        for place in range(2):
            q[head, place] = _constant_reads(size) * _bit(_wanted(head), place) * _AHEAD
    latent = [_class_reads(0, size), _class_reads(1, size), *(_token_reads(place, size) for place in range(4))]
    latent += [_constant_reads(size)] * 2
    # The latent's norm has an epsilon of its own, 1e-6 whatever the config says: lost beside 16 x 16.
    latent = [16.0 * row for row in latent]
    rotated = [np.zeros(HIDDEN)] * 2
    up = np.zeros((HEADS, 6, 8))
    up[:, 0, 0] = up[:, 1, 1] = _AHEAD
    for place in range(4):
        up[:, 2 + place, 2 + place] = 1.0
    return {
        f"{prefix}.q_proj.weight": q.reshape(-1, HIDDEN),
        f"{prefix}.kv_a_proj_with_mqa.weight": np.stack(latent + rotated),
        f"{prefix}.kv_a_layernorm.weight": np.ones(8),
        f"{prefix}.kv_b_proj.weight": up.reshape(-1, 8),
        f"{prefix}.o_proj.weight": _output(sublayer),
    }


def _mlp_weights(sublayer: _Sublayer, expert: int) -> tuple[Matrix, Matrix, Matrix]:
    """A neuron for each token: open for that token, its sign one bit of what the first head read."""
    size, before = sublayer.size, _Sublayer(sublayer.index - 1)
    gate = np.stack([_reads({_TOKEN + token: 256.0}, size) for token in range(TOKENS)])
    read = [before.rows[token % 4] for token in range(TOKENS)]
    up = np.stack([_reads({row: 1.0 / before.adds}, size) for row in read])
    down = np.zeros((HIDDEN, TOKENS))
    for token in range(TOKENS):
        for place, row in enumerate(sublayer.rows):
            down[:, token] += _bit(token * 5 + expert * 3 + place * 7, place % 4) * sublayer.adds / 256 * _H[row]
    return gate, up, down


def _mlp(kind: str, prefix: str, sublayer: _Sublayer) -> dict[str, Matrix]:
    if kind not in _ROUTED:
        names = zip(("gate_proj", "up_proj", "down_proj"), _mlp_weights(sublayer, 0), strict=True)
        return {f"{prefix}.{name}.weight": weight for name, weight in names}
    # The expert of a token's class is so far ahead that its share is exactly 1.
    router = np.stack([_reads({_CLASS + c: 128.0}, sublayer.size) for c in range(CLASSES)])
    found = {f"{prefix}.gate.weight": router}
    for expert in range(CLASSES):
        for name, weight in zip(("gate_proj", "up_proj", "down_proj"), _mlp_weights(sublayer, expert), strict=True):
            found[f"{prefix}.experts.{expert}.{name}.weight"] = weight
    gate, up, down = _mlp_weights(sublayer, 0)
    if kind == "qwen2_moe":
        # The shared expert's gate is shut so far that its sigmoid is exactly 0.
        found[f"{prefix}.shared_expert_gate.weight"] = _constant_reads(sublayer.size)[None] * -1024
        shared = zip(("gate_proj", "up_proj", "down_proj"), (gate, up, down), strict=True)
        found |= {f"{prefix}.shared_expert.{name}.weight": weight for name, weight in shared}
    if kind in _LATENT:
        shared = zip(("gate_proj", "up_proj", "down_proj"), (gate, up, 0 * down), strict=True)
        found |= {f"{prefix}.shared_experts.{name}.weight": weight for name, weight in shared}
    if kind in ("deepseek_v3", "kimi_k25"):
        found[f"{prefix}.gate.e_score_correction_bias"] = np.zeros(CLASSES)
    return found


def _embedding() -> Matrix:
    rows = [_H[_CONSTANT] + _H[_CLASS + t % CLASSES] + _H[_TOKEN + t] + _H[_SPARE] for t in range(TOKENS)]
    return np.stack(rows)


def _head() -> Matrix:
    """[TOKENS, HIDDEN]: small whole numbers."""
    return np.asarray((np.arange(TOKENS * HIDDEN).reshape(TOKENS, HIDDEN) * 7919 // 31 % 9) - 4, np.float64)


def tensors(kind: str) -> dict[str, npt.NDArray[np.float32]]:
    """The checkpoint's tensors, under Hugging Face's names."""
    found: dict[str, Matrix] = {"model.embed_tokens.weight": _embedding(), "lm_head.weight": _head()}
    found["model.norm.weight"] = np.ones(HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        found |= {f"{prefix}.{n}.weight": np.ones(HIDDEN) for n in ("input_layernorm", "post_attention_layernorm")}
        found |= _attention(kind, f"{prefix}.self_attn", _Sublayer(2 * layer))
        found |= _mlp(kind, f"{prefix}.mlp", _Sublayer(2 * layer + 1))
    outer = "language_model." if kind == "kimi_k25" else ""
    return {outer + name: value.astype(np.float32) for name, value in found.items()}


def config(kind: str) -> dict[str, Any]:
    """The checkpoint's config."""
    if kind == "kimi_k25":
        return {"model_type": kind, "text_config": config("deepseek_v3")}
    common = {
        "model_type": kind,
        "vocab_size": TOKENS,
        "hidden_size": HIDDEN,
        "intermediate_size": TOKENS,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-30,
        "rope_theta": 1e30,
        "tie_word_embeddings": False,
    }
    if kind in ("llama", "qwen3", "qwen3_moe"):
        common |= {"head_dim": HEAD_DIM, "attention_bias": False}
    if kind in _BIASED:
        common |= {"head_dim": HEAD_DIM}
    experts = {"moe_intermediate_size": TOKENS, "num_experts_per_tok": 1, "norm_topk_prob": True}
    if kind == "qwen2_moe":
        common |= {"shared_expert_intermediate_size": TOKENS}
        experts["norm_topk_prob"] = False
    if kind in ("qwen2_moe", "qwen3_moe"):
        common |= experts | {"num_experts": CLASSES, "decoder_sparse_step": 1, "mlp_only_layers": []}
    if kind in _LATENT:
        common |= experts | {
            "num_key_value_heads": HEADS,
            "q_lora_rank": None,
            "kv_lora_rank": 8,
            "qk_nope_head_dim": 2,
            "qk_rope_head_dim": 2,
            "v_head_dim": 4,
            "n_routed_experts": CLASSES,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "noaux_tc" if kind == "deepseek_v3" else "greedy",
            "scoring_func": "sigmoid" if kind == "deepseek_v3" else "softmax",
            "norm_topk_prob": kind == "deepseek_v3",
            "routed_scaling_factor": 1.0,
            "first_k_dense_replace": 0,
            "moe_layer_freq": 1,
            "attention_bias": False,
        }
    return common


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
    stream = _embedding()[list(prompt)]
    routed = kind in _ROUTED
    for layer in range(LAYERS):
        attention, mlp = _Sublayer(2 * layer), _Sublayer(2 * layer + 1)
        read = np.zeros((len(prompt), HEADS, HEAD_DIM))
        for position in range(len(prompt)):
            for head in range(HEADS):
                read[position, head] = _attended(prompt[: position + 1], _wanted(head))
        stream = stream + read.reshape(len(prompt), -1) @ _output(attention).T
        for position, token in enumerate(prompt):
            down = _mlp_weights(mlp, token % CLASSES if routed else 0)[2]
            stream[position] = stream[position] + 256 * read[position, 0, token % 4] * down[:, token]
    return np.asarray(stream / 2.0 ** (2 * LAYERS + 1) @ _head().T)


def _attended(tokens: tuple[int, ...], wanted: int) -> Matrix:
    """The mean of the bits of the tokens whose class agrees best with the one wanted."""
    agreement = [sum(_bit(t % CLASSES, place) == _bit(wanted, place) for place in range(2)) for t in tokens]
    best = [token for token, value in zip(tokens, agreement, strict=True) if value == max(agreement)]
    return np.asarray(np.mean([[_bit(token, place) for place in range(HEAD_DIM)] for token in best], axis=0))


def digest(logits: list[npt.NDArray[np.floating[Any]]]) -> str:
    """SHA-256 of logits as float32, both zeros alike."""
    return hashlib.sha256(b"".join((x.astype("<f4") + np.float32(0)).tobytes() for x in logits)).hexdigest()


@cache
def expected_digest(kind: str) -> str:
    """What every correct side must report."""
    return digest([expected(kind, prompt) for prompt in PROMPTS])
