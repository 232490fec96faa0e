"""A file or a tensor that is missing is named before anything is computed, however the weights are stored."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from parity.core.errors import ModelNotFound, ParityError, WeightError
from parity.hub import open_checkpoint, write_safetensors
from parity.hub.file_names import INDEX
from parity.hub.safetensors import open_shards

from . import test_formats, test_qwen4_exp, tiny
from .test_dense import SIZES
from .test_experts import HYBRID


def in_format(name: str) -> Callable[[Path], object]:
    return lambda folder: test_formats.released(test_formats.CASES[name], folder)


def fused(folder: Path) -> None:
    """Experts in two tensors a layer, as Qwen3.5's bfloat16 releases have them."""
    config = transformers.Qwen3_5MoeTextConfig(**HYBRID, **test_formats.SHARED)
    model = tiny.save(transformers.Qwen3_5MoeForCausalLM, config, folder / "split")
    values = json.loads((folder / "split" / "config.json").read_text())
    write_safetensors(folder, values, {name: value.detach().clone() for name, value in model.state_dict().items()})


# (how the checkpoint is made, the tensor that is lost, what is said where no file is known to be missing)
CASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "fp8-scale": (
        in_format("deepseek_v3-fp8"),
        r"model.layers.1.mlp.experts.2.up_proj.weight_scale_inv",
        r"experts\.2\.up_proj\.weight is float8_e4m3fn, and the scales that say what it means are missing",
    ),
    "fp8-weight": (
        in_format("deepseek_v3-fp8"),
        r"model.layers.0.self_attn.o_proj.weight",
        r"o_proj\.weight_scale_inv is in the checkpoint and has no place(.|\n)*o_proj\.weight is missing",
    ),
    "int4-scale": (
        in_format("kimi_k2-int4"),
        r"model.layers.1.mlp.experts.7.down_proj.weight_scale",
        r"down_proj\.weight_packed is in the checkpoint and has no place(.|\n)*experts\.7\.down_proj\.weight is missing",
    ),
    "mxfp4-scale": (
        in_format("kimi_k2-mxfp4"),
        r"model.layers.2.mlp.experts.0.gate_proj.weight_scale",
        r"gate_proj\.weight_packed is in the checkpoint and has no place(.|\n)*experts\.0\.gate_proj\.weight is missing",
    ),
    "awq-zeros": (
        in_format("qwen2-awq"),
        r"model.layers.0.mlp.up_proj.qzeros",
        r"up_proj\.qweight is in the checkpoint and has no place(.|\n)*up_proj\.weight is missing",
    ),
    "gptq-groups": (in_format("qwen3-gptq"), r"model.layers.0.mlp.up_proj.g_idx", r"up_proj\.qweight: GPTQ without g_idx"),
    "stacked-experts": (
        fused,
        r"model.layers.2.mlp.experts.down_proj",
        r"layers\.2\.mlp\.experts\.down_proj is missing",
    ),
    "mapped-table": (
        test_qwen4_exp.save,
        r"model.layers.2.ple.ple_embedding.ngram_embedding.shard_3.weight",
        r"ngram_embedding\.shard_3\.weight is missing",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    make, lost, said = CASES[name]
    make(tmp_path / "made")
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    tensors = {name: file.read(name) for name, file in open_shards(tmp_path / "made").items()}
    folder = tmp_path / "split"
    write_safetensors(folder, config, tensors, shard_bytes=1)
    file = json.loads((folder / INDEX).read_text())["weight_map"][lost]
    (folder / file).unlink()
    with pytest.raises(ModelNotFound, match=f"lacks {file}, which {INDEX} names"):
        tiny.open_engine(folder)
    (folder / INDEX).unlink()
    with pytest.raises(ModelNotFound, match=f"lacks {file}, one of the {len(tensors)} that its other files count"):
        open_checkpoint(folder)
    whole = tmp_path / "whole"
    write_safetensors(whole, config, {name: tensor for name, tensor in tensors.items() if name != lost})
    with pytest.raises(ParityError) as caught:
        tiny.open_engine(whole)
    assert re.search(said, str(caught.value)), caught.value


@pytest.mark.parametrize("quantize", [None, "q8"])
def test_a_head_that_is_not_the_embedding_is_not_left_out(quantize: str | None, tmp_path: Path) -> None:
    """Some tied models are released with the head beside the embedding (Qwen3-0.6B): the same numbers, or a wrong config."""
    config = transformers.Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)
    model = tiny.save(transformers.Qwen3ForCausalLM, config, tmp_path / "made")
    values = json.loads((tmp_path / "made" / "config.json").read_text())
    tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}
    assert "lm_head.weight" in tensors
    write_safetensors(tmp_path / "same", values, tensors)
    tiny.open_engine(tmp_path / "same", quantize=quantize)
    tensors["lm_head.weight"][5, 5] += 1
    write_safetensors(tmp_path / "other", values, tensors)
    with pytest.raises(WeightError, match=r"lm_head\.weight in .* is not model\.embed_tokens\.weight, though the config ties"):
        tiny.open_engine(tmp_path / "other", quantize=quantize)
    write_safetensors(tmp_path / "untied", values | {"tie_word_embeddings": False}, tensors)
    tiny.open_engine(tmp_path / "untied", quantize=quantize)
