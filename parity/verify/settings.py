"""How a verification is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .levels import LEVELS
from .packs.signature import Signer
from .sides.http import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to verify.

    Args:
        model: for local sides; and its vocabulary serves endpoints. None is the default model.
        suite: a name or a JSONL file.
        levels: which are wanted.
        out: folder of packs and reports.
        oracle: a third side in float32 that A and B are measured against; `auto` takes a side that is the reference in
            float32, or A in float32 where it shows that, and else captures one; `none` never does.
        gates: a file of thresholds, instead of ours.
        num_samples: sampled answers a prompt.
        keep_going: do not stop at the first level that fails.
        key_variables: the environment variables that hold the keys of A's and B's endpoints.
        endpoint_models: the names to ask A's and B's endpoints for.
        quantize: the recipes that A's and B's weights are packed by while loading; an oracle's are packed as A's.
        limits: what an endpoint may cost.
        options: more for `LLM`.
        signer: signs the packs that are made.
        signed_by: the public key that packs which are given must be signed with, in hex.
    """

    model: str | None = None
    suite: str = "quick"
    levels: tuple[int, ...] = tuple(LEVELS)
    out: Path = Path("parity-verify")
    oracle: str = "auto"
    gates: Path | None = None
    num_samples: int = 0
    keep_going: bool = False
    key_variables: tuple[str | None, str | None] = (None, None)
    endpoint_models: tuple[str | None, str | None] = (None, None)
    quantize: tuple[str | None, str | None] = (None, None)
    limits: Limits = field(default_factory=Limits)
    options: Mapping[str, Any] = field(default_factory=dict)
    signer: Signer | None = None
    signed_by: str | None = None
