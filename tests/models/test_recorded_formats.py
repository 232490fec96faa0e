"""Tiny checkpoints in released formats on the cpu stack: decode steps are recorded, and give what the reference table gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.stacks.cpu.native import missing

from . import tiny
from .test_formats import COMPRESSED, FP8, GPTQ, LINEAR, SIZES, Stored, awq, fp8, gptq, int4, mxfp4, released

if missing() is not None:
    pytest.skip(f"the cpu stack's kernels: {missing()}", allow_module_level=True)

WIDE = SIZES | {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
# Released format; how tensors are stored; the quantization config; how far log-probabilities may be from the reference's:
# without rounded activations only the order of sums differs, else each product adds half a hundredth of its size.
CASES: dict[str, tuple[Callable[[Tensor], Stored], dict[str, Any], float]] = {
    "fp8": (fp8(128, e8m0=False), FP8 | {"weight_block_size": [128, 128]}, 1e-4),
    "fp8-ue8m0": (fp8(32, e8m0=True), FP8 | {"weight_block_size": [32, 32]}, 1e-4),
    "int4": (int4, COMPRESSED, 0.2),
    "mxfp4": (mxfp4, COMPRESSED | {"format": "mxfp4-pack-quantized"}, 0.2),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, 0.2),
    "gptq": (gptq, GPTQ, 0.2),
}


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_step_is_the_reference(name: str, tmp_path: Path) -> None:
    store, quantization, tolerance = CASES[name]
    released(("Qwen2", WIDE, LINEAR, store, quantization), tmp_path)
    prompt = tiny.prompt(9, 160)
    engine = tiny.open_engine(tmp_path, stack="cpu")
    outputs = tiny.finish(engine, [tiny.greedy("a", prompt, 6)])["a"]
    assert engine.runner.recorded, "no step was recorded"
    tokens = tiny.generated(outputs)
    exact = torch.from_numpy(tiny.logits(tiny.open_engine(tmp_path), [*prompt, *tokens])).log_softmax(-1)
    found = [entry for output in outputs for entry in output.logprobs]
    assert len(found) == len(tokens)
    for position, entry in enumerate(found, len(prompt) - 1):
        for token, logprob in entry.top:
            assert abs(logprob - float(exact[position, token])) < tolerance
