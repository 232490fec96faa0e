"""What is known of one side: the nouns that packs hold and levels compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .statistics.divergence import Top

Path = Literal["one_shot", "chunked", "stepwise", "prefix_hit", "mixed"]
PATHS: tuple[Path, ...] = ("one_shot", "chunked", "stepwise", "prefix_hit", "mixed")
"""One forward pass; several; token by token from the real cache; after a prefix hit; in a batch with others."""

Kind = Literal["local", "endpoint"]
Int32s: TypeAlias = npt.NDArray[np.int32]
Float32s: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a side says it is; None where it cannot say. Hashes are SHA-256 in hex.

    Args:
        side: the side as it was asked for, without keys.
        kind: a stack in the process, or an endpoint.
        model: the model's name.
        architecture: its `model_type`.
        stack, dtype: where and in what precision it computed: a dtype's name, or `packed` where packed weights are multiplied
            as they are, with activations rounded.
        weights: the content root: tensors by name, leaf = hash of name, dtype, shape and bytes; their Merkle root.
        tensors: the leaves by tensor name, which lets a difference be named.
        config, tokenizer, template: hashes of the three files' contents.
        sampling: what the model applies when a request says nothing.
        environment: versions, device, and settings that change numerics.
    """

    side: str
    kind: Kind
    model: str
    architecture: str | None = None
    stack: str | None = None
    dtype: str | None = None
    weights: str | None = None
    tensors: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    tokenizer: str | None = None
    template: str | None = None
    sampling: Mapping[str, float | int | str | bool | None] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of every side: fixed before the first answer, and carried in the pack.

    Args:
        suite, suite_hash: the prompts, by name and by SHA-256 of their contents.
        gates_hash: SHA-256 of the thresholds.
        top_k: most likely tokens kept a position.
        sketch_size, seed: projections kept a position, and the seed of everything random.
        stepwise_tokens: how many last positions of a prompt are computed token by token; half as many after a prefix hit.
        chunk_tokens: size of a chunk on the chunked path.
        num_samples, sample_tokens: sampled answers a prompt, and their length.
        layers: whether the inside of the model is kept for one prompt.
        levels: the levels that are wanted.
    """

    suite: str
    suite_hash: str
    gates_hash: str
    top_k: int = 64
    sketch_size: int = 32
    seed: int = 20_261_123
    stepwise_tokens: int = 8
    chunk_tokens: int = 32
    num_samples: int = 0
    sample_tokens: int = 16
    layers: bool = True
    levels: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """The next-token distributions at positions `at` of a prompt, on one path.

    Args:
        at: int32 [n], increasing; position i predicts token i + 1.
        top: their heads.
        lse: [n], the log-sum-exp of the raw logits; None where logits cannot be had.
        sketch: [n, sketch_size] of the centred logits; None likewise.
    """

    at: Int32s
    top: Top
    lse: Float32s | None = None
    sketch: Float32s | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One answer. `tokens` and `top` (a row for each token) are None where a side shows text only.

    `tool_calls` are (name, arguments as written); `error` says that the request failed, and how.
    """

    text: str
    finish: str
    tokens: tuple[int, ...] | None = None
    top: Top | None = None
    num_tokens: int | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """All that one side did with one prompt of the suite.

    Args:
        id: of the suite's item.
        tokens: the prompt's ids; None where a side does not show them.
        num_tokens: how many it counted.
        paths: distributions by path.
        answer: the greedy answer.
        samples: int32 [samples, sample_tokens], ids of sampled answers, padded with -1.
        seconds: time taken, for the cost table.
        in_float32: the same paths with everything computed in float32; empty where `paths` are that, or it cannot be had.
    """

    id: str
    tokens: Int32s | None = None
    num_tokens: int | None = None
    paths: Mapping[Path, Positions] = field(default_factory=dict)
    answer: Answer | None = None
    samples: Int32s | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    in_float32: Mapping[Path, Positions] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """The inside of the model on one prompt: `values[i]` is float32 [tokens, ...] at `sites[i]` = (layer, name), in the
    order computed."""

    tokens: Int32s
    sites: tuple[tuple[int, str], ...]
    values: tuple[Float32s, ...]


@dataclass(frozen=True, slots=True)
class Exact:
    """An exact probe's result, and what every correct side gives, each as a SHA-256."""

    found: str
    right: str


@dataclass(frozen=True, slots=True)
class Isolated:
    """Each site's error when fed the reference's values, in the order computed: (layer, site, relative error).

    `reference` is the SHA-256 of the inner values that it was fed.
    """

    reference: str
    sites: tuple[tuple[int, str, float], ...]
