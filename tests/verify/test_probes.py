"""Integer-valued checkpoints: two independent stacks and plain arithmetic agree to the last bit, a wrong kernel does not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from parity import LLM
from parity.models import registry
from parity.verify import exact as probes


@pytest.mark.parametrize("kind", probes.ARCHITECTURES)
def test_reference_and_arithmetic_agree_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    probes.write(kind, tmp_path)
    with LLM(tmp_path, stack="cpu:reference:float32", num_pages=16, page_size=2, max_num_seqs=4) as llm:
        for chunk in (None, 1):
            for prompt in probes.PROMPTS:
                np.testing.assert_array_equal(llm.logits(list(prompt), chunk=chunk), probes.expected(kind, prompt))
            assert probes.digest([llm.logits(list(p), chunk=chunk) for p in probes.PROMPTS]) == probes.expected_digest(kind)


# Kimi K2.5 is DeepSeek-V3 in a wrapper, which transformers loads with its vision part only; two others it does not have.
@pytest.mark.parametrize("kind", [kind for kind in probes.ARCHITECTURES if kind not in ("kimi_k25", "kimi_k3", "deepseek_v41")])
def test_transformers_agrees_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    probes.write(kind, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    for prompt in probes.PROMPTS:
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits[0].numpy()
        np.testing.assert_array_equal(logits, probes.expected(kind, prompt))


_VENDORS_NAMES = {
    "kimi_k25": (),
    "kimi_k3": (
        (r"\.mlp\.", ".block_sparse_moe."),
        (r"experts\.(\d+)\.gate_proj", r"experts.\1.w1"),
        (r"experts\.(\d+)\.down_proj", r"experts.\1.w2"),
        (r"experts\.(\d+)\.up_proj", r"experts.\1.w3"),
    ),
    "deepseek_v41": ((r"^model\.", ""), (r"^embed_tokens\.", "embed.")),
}
"""Names as released, where the probe's are another library's."""


@pytest.mark.parametrize("kind", _VENDORS_NAMES)
def test_mlx_lm_agrees_to_the_last_bit_where_transformers_has_no_model(kind: str) -> None:
    mx = pytest.importorskip("mlx.core")
    caches = pytest.importorskip("mlx_lm.models.cache")
    module = pytest.importorskip(f"mlx_lm.models.{kind}")
    model = module.Model(module.ModelArgs.from_dict(probes.config(kind)))
    weights = {}
    for name, value in probes.tensors(kind).items():
        for ours, vendors in _VENDORS_NAMES[kind]:
            name = re.sub(ours, vendors, name)
        weights[name] = mx.array(value)
    model.load_weights(list(model.sanitize(weights).items()))
    for prompt in probes.PROMPTS:
        cache = caches.make_prompt_cache(model)
        np.testing.assert_array_equal(np.array(model(mx.array([prompt]), cache=cache))[0], probes.expected(kind, prompt))


@pytest.mark.parametrize("kind", probes.ARCHITECTURES)
def test_nearly_right_is_not_right(kind: str, tmp_path: Path) -> None:
    probes.write(kind, tmp_path)
    with LLM(tmp_path, stack="cpu:reference:float32", num_pages=16, page_size=2, max_num_seqs=4) as llm:

        def nudge(layer: int, site: str, value: torch.Tensor) -> torch.Tensor | None:
            return value * (1 + 2**-22) if (layer, site) == (1, "mlp") else None

        logits = [llm.logits(list(prompt), probe=nudge) for prompt in probes.PROMPTS]
    assert probes.digest(logits) != probes.expected_digest(kind)


def test_every_architecture_has_a_checkpoint() -> None:
    assert {architecture.model_types[0] for architecture in registry.architectures()} == {*probes.ARCHITECTURES}


def test_logits_are_not_trivial() -> None:
    for kind in probes.ARCHITECTURES:
        logits = np.concatenate([probes.expected(kind, prompt) for prompt in probes.PROMPTS])
        assert len(np.unique(logits, axis=0)) == len(logits)
        np.testing.assert_array_equal(logits * 2**16, np.round(logits * 2**16))
    assert probes.expected_digest("qwen3") != probes.expected_digest("qwen3_moe")


def test_hadamard_rows_are_orthogonal() -> None:
    matrix = probes.hadamard(64)
    np.testing.assert_array_equal(matrix @ matrix.T, 64 * np.eye(64))
    used = probes.LAYERS * 2 * 12 + 24
    assert used <= probes.HIDDEN
