"""Checkpoints of models that also see: the text part computes what the reference's does, vision is named and left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from parity.hub import open_checkpoint

from . import checks, tiny
from .test_experts import CASES, HYBRID
from .test_formats import COMPRESSED, EXPERTS, halves, int4, released

EYES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "depth": 1,
    "num_heads": 2,
    "num_attention_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "kimi_k25": ("Kimi_K25", CASES["deepseek_v3"][1], {"projection_hidden_size": 32, "tie_word_embeddings": False}),
    "qwen3_5": ("Qwen3_5", HYBRID, {"tie_word_embeddings": True}),  # what is said of the whole counts
    "qwen3_5_moe": ("Qwen3_5Moe", CASES["qwen3_5_moe_text"][1], {}),
}
"""(family, sizes of the text part, values beside it)."""


def save(name: str, folder: Path) -> torch.nn.Module:
    """A whole model, eyes and all, named as its vendor names it."""
    family, text, more = MODELS[name]
    config_class = getattr(transformers, f"{family}Config")
    text_config = type(config_class().text_config)(**text)
    config = config_class(text_config=text_config.to_dict(), vision_config=EYES, **more)
    # With seed 0, transformers' own rounding in this model is larger than the tolerance (1.3e-5 from float64, ours 4.6e-6).
    seed = 1 if name == "qwen3_5_moe" else 0
    model = tiny.save(getattr(transformers, f"{family}ForConditionalGeneration"), config, folder, seed=seed)
    if name == "kimi_k25":  # transformers writes the text's layers under the name of vision's
        renamed(folder, lambda tensor: tensor.replace("language_model.model.blocks.", "language_model.model.layers."))
    return model


def renamed(folder: Path, change: Callable[[str], str]) -> None:
    """Writes the arrays of the checkpoint's one file once more, under other names."""
    for file in folder.glob("*.safetensors"):
        arrays = load_file(file)
        save_file({change(name): array.clone() for name, array in arrays.items()}, file, {"format": "pt"})


@pytest.mark.parametrize("name", MODELS)
def test_the_text_part_computes_what_the_whole_model_does(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = save(name, tmp_path)
    eyes = [key for key in open_checkpoint(tmp_path).tensors if any(part in key for part in ("vision", "visual", "projector"))]
    assert eyes
    case = checks.case_from_transformers(model, tmp_path, 45)
    with caplog.at_level(logging.INFO, logger="parity"):
        checks.check_logits(case)
    assert f"not loaded: {len(eyes)} tensor(s)" in caplog.text
    assert "vision is not supported" in caplog.text
    checks.check_steps(case)
    checks.check_mixed(case)


@pytest.mark.parametrize("name", ["kimi_vl", "kimi_k25"])
def test_as_the_vendor_stores_it(name: str, tmp_path: Path) -> None:
    """DeepSeek-V3's text part under Kimi's names: of Kimi-VL in bfloat16, of K2.5 with int4 experts, as released."""
    family, sizes = CASES["deepseek_v3-moonlight"]
    how = (EXPERTS, int4, COMPRESSED) if name == "kimi_k25" else (r".*\.weight$", halves(torch.bfloat16), {})
    model = released((family, sizes, *how), tmp_path)
    renamed(tmp_path, lambda key: f"language_model.{key}")
    file = tmp_path / "config.json"
    text = json.loads(file.read_text())
    outside = {key: text[key] for key in ("quantization_config",) if key in text}
    config = outside | {"model_type": name, "vision_config": {}, "media_placeholder_token_id": 1, "text_config": text}
    file.write_text(json.dumps(config))
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    whole = checks.case_from_transformers(model, tmp_path, 33)
    assert whole.engine().info.eos_token_ids == {text["eos_token_id"]}
    checks.check_logits(whole)
    checks.check_steps(whole)
