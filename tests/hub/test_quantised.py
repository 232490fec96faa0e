"""`--quantize`: which matrices are packed in what, and that the model computed is the one that the numbers say."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from parity.core.errors import Unsupported
from parity.core.weights import Packed
from parity.engine.load import EngineConfig, open_engine, quantised
from parity.formats import FORMATS, expand
from parity.hub import open_checkpoint
from parity.hub.quantised import QuantisedCheckpoint, recipe_for
from parity.stacks.registry import open_stack
from tests.models.tiny import logits, prompt, relative_error, save

SIZES = {"vocab_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A width that Q4_K's blocks divide, and one that they do not."""
    folder = tmp_path_factory.mktemp("dense")
    config = transformers.Qwen2Config(**SIZES, hidden_size=96, intermediate_size=256)
    save(transformers.Qwen2ForCausalLM, config, folder)
    return folder


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    config = transformers.Qwen2MoeConfig(
        **SIZES,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=64,
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=2,
    )
    save(transformers.Qwen2MoeForCausalLM, config, folder)
    return folder


def opened(folder: Path, quantize: str, spec: str = "cpu") -> QuantisedCheckpoint:
    stack, _ = open_stack(spec)
    return quantised(open_checkpoint(folder), quantize, stack, torch.float32)


def test_what_is_packed_in_what(dense: Path) -> None:
    found = {name: info.format for name, info in opened(dense, "q4").tensors.items()}
    layer = "model.layers.1."
    assert found[f"{layer}self_attn.q_proj.weight"] == "q5_0"
    assert found[f"{layer}self_attn.v_proj.weight"] == "q8_0"
    assert found[f"{layer}mlp.gate_proj.weight"] == "q5_0"
    assert found[f"{layer}mlp.down_proj.weight"] == "q6_k"
    assert found["lm_head.weight"] == "q8_0"
    assert found["model.embed_tokens.weight"] == "q5_0"
    plain = {name for name, form in found.items() if form not in FORMATS}
    assert plain == {name for name in found if "norm" in name or name.endswith(".bias")}
    assert {found[name] for name in plain} == {"float32"}
    eight = {info.format for name, info in opened(dense, "q8").tensors.items() if name not in plain}
    assert eight == {"q8_0"}


def test_routers_and_few_rows_stay(sparse: Path) -> None:
    found = {name: info.format for name, info in opened(sparse, "q8").tensors.items()}
    assert found["model.layers.1.mlp.gate.weight"] == "float32"
    assert found["model.layers.1.mlp.shared_expert_gate.weight"] == "float32"
    experts = {form for name, form in found.items() if ".experts." in name}
    assert experts == {"q8_0"}


@pytest.mark.parametrize("quantize", ["q8", "q4"])
def test_sizes_are_known_before_packing(dense: Path, quantize: str) -> None:
    checkpoint = opened(dense, quantize)
    for name, info in checkpoint.tensors.items():
        weight = checkpoint.read(name)
        assert (weight.nbytes, tuple(weight.shape)) == (info.nbytes, info.shape)
        assert info.format == (weight.format if isinstance(weight, Packed) else "float32")


def engine_of(folder: Path, spec: str, quantize: str | None) -> Any:
    options = {"num_pages": 16, "max_num_seqs": 2, "max_model_len": 64}
    return open_engine(folder, "tiny", EngineConfig(stack=spec, dtype="float32", quantize=quantize, **options)).load()


@pytest.mark.parametrize("quantize", ["q8", "q4"])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_model_is_that_of_the_packed_numbers(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, quantize: str
) -> None:
    """transformers with the expanded weights, and ours on the reference table, agree; the cpu's rounds activations too."""
    folder: Path = request.getfixturevalue(kind)
    checkpoint = opened(folder, quantize)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expanded = {name: expand(checkpoint.read(name)) for name in checkpoint.tensors}
    twin = tmp_path / "twin"
    model.save_pretrained(twin)
    save_file(expanded, twin / "model.safetensors", metadata={"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(twin, dtype=torch.float32)
    tokens = prompt(20, SIZES["vocab_size"])
    with torch.no_grad():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    assert relative_error(logits(engine_of(folder, "cpu:reference", quantize), tokens), theirs) < 1e-5
    assert relative_error(logits(engine_of(folder, "cpu", quantize), tokens), theirs) < 0.02


def test_a_stack_without_the_formats_says_so(dense: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "parity"):
        opened(dense, "q4", "cpu:reference")
    assert "cpu:reference does not compute on q4_k, q5_0, q6_k, q8_0" in caplog.text
    caplog.clear()
    opened(dense, "q4")
    assert not caplog.records


def test_the_stacks_own_formats_are_taken() -> None:
    assert recipe_for("q4", {"int4_group", "fp8_block"}).usual == ("int4_group",)
    assert recipe_for("q8", {"int8_group", "q8_0"}).usual == ("q8_0",)
    assert recipe_for("q8", ()).usual == ("q8_0",)


def test_refusals(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="'q3': there are q8, q4"):
        opened(dense, "q3")
    with pytest.raises(Unsupported, match="is quantised already \\(q8_0\\)"):
        QuantisedCheckpoint(opened(dense, "q8"), recipe_for("q4", ()))
    narrow = transformers.Qwen2Config(**SIZES, hidden_size=24, intermediate_size=40)
    save(transformers.Qwen2ForCausalLM, narrow, tmp_path / "narrow")
    with pytest.raises(Unsupported, match="has no matrix whose width"):
        opened(tmp_path / "narrow", "q8")


def test_an_embedding_that_is_the_head_too_is_sensitive(tmp_path: Path) -> None:
    config = transformers.Qwen2Config(**SIZES, hidden_size=256, intermediate_size=256, tie_word_embeddings=True)
    save(transformers.Qwen2ForCausalLM, config, tmp_path)
    found = {name: info.format for name, info in opened(tmp_path, "q4").tensors.items()}
    assert "lm_head.weight" not in found
    assert found["model.embed_tokens.weight"] == "q6_k"
    assert found["model.layers.0.self_attn.q_proj.weight"] == "q4_k"
