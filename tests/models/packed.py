"""Checkpoints in the formats that they are released in, and the same numbers written out."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from parity.formats import expand, pack

MATRICES = re.compile(r"\.(wq_a|wq_b|wkv|wo_a|wo_b|main_proj|shared_experts\.w[123])\.weight$")
EXPERTS = re.compile(r"\.experts\.\d+\.w[123]\.weight$")


def released(tensors: Mapping[str, Tensor], block: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(as DeepSeek releases them, what those numbers are): matrices in FP8 with power-of-two scales of square blocks, experts
    in MXFP4, compressors and the rest as they are."""
    stored: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        scale = name.removesuffix(".weight") + ".scale"
        if EXPERTS.search(name):
            packed = pack(tensor, "mxfp4")
            stored[name], stored[scale] = (
                packed.arrays["data"].view(torch.int8),
                packed.arrays["scale"].view(torch.float8_e8m0fnu),
            )
        elif MATRICES.search(name) and "compressor" not in name:
            packed = pack(tensor, "fp8_block", block_rows=block, block_columns=block, e8m0=1)
            stored[name], stored[scale] = packed.arrays["data"], packed.arrays["scale"]
        else:
            stored[name] = plain[name] = tensor
            continue
        plain[name] = expand(packed)
    return stored, plain
