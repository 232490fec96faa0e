"""`parity convert`: what is written means the same to others and to us, and nothing is lost on the way or left half done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from tokenizers import processors
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from parity.convert import relaid
from parity.convert.place import check_place
from parity.convert.quality import own_text, quality
from parity.convert.run import convert
from parity.convert.to_safetensors import class_name
from parity.core.errors import CapacityError, FormatError, Unsupported, UsageError
from parity.engine.load import sampling_defaults
from parity.formats import expand, pack
from parity.hub import open_checkpoint
from parity.hub.gguf_layouts import LAYOUTS
from parity.hub.safetensors import SafetensorsFile, write_file
from parity.llm import LLM
from parity.text.tokenizer import load_tokenizer
from parity.verify import exact as probes
from tests.cli.conftest import Run, run  # noqa: F401  # a fixture

from . import tiny

REFERENCE = "cpu:reference:float32"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("dense") / "tiny", hidden_size=96, intermediate_size=256)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "head_dim": 32}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
    return tiny.make(tmp_path_factory.mktemp("sparse") / "tiny", transformers.Qwen3MoeConfig, **sizes, **experts)


def our_logits(path: Path, tokens: list[int]) -> np.ndarray:
    with LLM(path, stack=REFERENCE, num_pages=8, max_num_seqs=1) as llm:
        return llm.logits(tokens)


def their_logits(path: Path, tokens: list[int], **options: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().numpy()


def tokens_of(path: Path) -> list[int]:
    return load_tokenizer(open_checkpoint(path).text_source).encode(tiny.TEXT)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_there_and_back(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """To GGUF, which we read, and on to safetensors, which transformers reads: the same weights, words and settings."""
    source: Path = request.getfixturevalue(kind)
    convert(source, tmp_path / "m.gguf", "gguf", name="tiny")
    convert(tmp_path / "m.gguf", tmp_path / "back", "safetensors", name="tiny")
    tokens = tokens_of(source)
    expected = their_logits(source, tokens)
    for path in (tmp_path / "m.gguf", tmp_path / "back"):
        assert np.abs(our_logits(path, tokens) - expected).max() < 1e-4
    assert np.abs(their_logits(tmp_path / "back", tokens) - expected).max() < 1e-5
    before, after = open_checkpoint(source), open_checkpoint(tmp_path / "back")
    assert before.tensors.keys() == after.tensors.keys()
    for name in before.tensors:
        assert torch.equal(expand(before.read(name)), expand(after.read(name))), name


def test_the_tokenizer_is_the_same(dense: Path, tmp_path: Path) -> None:
    convert(dense, tmp_path / "m.gguf", "gguf", name="tiny")
    convert(tmp_path / "m.gguf", tmp_path / "back", "safetensors", name="tiny")
    first = load_tokenizer(open_checkpoint(dense).text_source)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for path in (tmp_path / "m.gguf", tmp_path / "back"):
        checkpoint = open_checkpoint(path)
        found = load_tokenizer(checkpoint.text_source)
        assert found.chat_template == first.chat_template == tiny.TEMPLATE
        assert set(found.eos_token_ids) >= {first.eos_token_ids[0]}
        assert found.special_tokens == first.special_tokens
        assert "<tool_call>" in found.added_tokens
        for text in (tiny.TEXT, "<|im_start|>user\nhi<|im_end|>", "a  b\n\n\t中文🙂 e\u0301"):
            assert found.encode(text) == first.encode(text) == theirs.encode(text)
        assert checkpoint.generation_config["temperature"] == 0.7
        assert checkpoint.generation_config["top_k"] == 20
        assert set(checkpoint.generation_config["eos_token_id"]) >= set(first.eos_token_ids)
    assert theirs.decode(first.encode(tiny.TEXT)) == tiny.TEXT.replace("e\u0301", "é")


def test_a_model_that_does_not_sample_does_not_as_gguf(dense: Path, tmp_path: Path) -> None:
    source = shutil.copytree(dense, tmp_path / "tiny")
    (source / "generation_config.json").write_text(json.dumps({"do_sample": False, "top_k": 20}))
    convert(source, tmp_path / "m.gguf", "gguf", name="tiny")
    found = [sampling_defaults(open_checkpoint(path).generation_config) for path in (source, tmp_path / "m.gguf")]
    assert found == [{"temperature": 0.0, "top_k": 20}] * 2


def test_a_model_for_embeddings_stays_one(tmp_path: Path) -> None:
    source = tiny.make_embedding(tmp_path / "tiny")
    convert(source, tmp_path / "m.gguf", "gguf", name="tiny")
    convert(source, tmp_path / "copy", "safetensors", name="tiny", dtype="float32")
    convert(tmp_path / "m.gguf", tmp_path / "back", "safetensors", name="tiny")
    convert(tmp_path / "m.gguf", tmp_path / "again.gguf", "gguf", name="tiny")
    tokens = tokens_of(source)
    assert tokens[-1] == load_tokenizer(source).special_tokens["<|endoftext|>"]
    with torch.no_grad():
        expected = transformers.AutoModel.from_pretrained(source)(torch.tensor([tokens])).last_hidden_state[0, -1].numpy()
    for name in ("m.gguf", "copy", "back", "again.gguf"):
        assert tokens_of(tmp_path / name) == tokens
        with LLM(tmp_path / name, stack=REFERENCE, num_pages=8, max_num_seqs=1) as llm:
            assert llm.info.embeds, name
            assert np.abs(llm.embed(tiny.TEXT) - expected).max() < 1e-5 * np.abs(expected).max()
    metadata = open_checkpoint(tmp_path / "m.gguf").text_source
    assert isinstance(metadata, Mapping)
    assert metadata[gguf.Keys.LLM.POOLING_TYPE.format(arch="qwen3")] == gguf.PoolingType.LAST
    assert metadata[gguf.Keys.Tokenizer.ADD_EOS] is True
    assert metadata[gguf.Keys.Tokenizer.EOS_ID] == tokens[-1]
    assert metadata[gguf.Keys.Tokenizer.EOT_ID] == load_tokenizer(source).special_tokens["<|im_end|>"]


def test_what_the_model_leaves_out_is_not_written_as_gguf(dense: Path, tmp_path: Path) -> None:
    source = shutil.copytree(dense, tmp_path / "tiny")
    weights = safetensors.torch.load_file(source / "model.safetensors")
    left_out = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(12)}
    safetensors.torch.save_file(weights | left_out, source / "model.safetensors", {"format": "pt"})
    convert(source, tmp_path / "m.gguf", "gguf", name="tiny")
    assert open_checkpoint(tmp_path / "m.gguf").tensors.keys() == open_checkpoint(dense).tensors.keys()


def test_tokens_around_a_text_that_gguf_cannot_say_are_refused(dense: Path, tmp_path: Path) -> None:
    source = shutil.copytree(dense, tmp_path / "tiny")
    made = tiny.tokenizer()
    start = "<|im_start|>"
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{start} $A", special_tokens=[(start, made.token_to_id(start))]
    )
    made.save(str(source / "tokenizer.json"))
    with pytest.raises(Unsupported, match=r"puts \[\d+\] before each text"):
        convert(source, tmp_path / "m.gguf", "gguf", name="tiny")
    assert not (tmp_path / "m.gguf").exists()


def test_a_config_from_gguf_names_its_class(dense: Path, tmp_path: Path) -> None:
    convert(dense, tmp_path / "m.gguf", "gguf", name="tiny")
    convert(tmp_path / "m.gguf", tmp_path / "back", "safetensors", name="tiny")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "back").architectures == ["Qwen2ForCausalLM"]
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    types = {layout.model_type for layout in LAYOUTS.values()} & known.keys()
    assert len(types) > 10
    assert {name: class_name(name) for name in types} == {name: known[name] for name in types}


@pytest.mark.parametrize(("quantize", "most"), [("q8", 0.002), ("q4", 0.05)])
def test_packed_gguf_means_the_same_to_transformers(dense: Path, tmp_path: Path, quantize: str, most: float) -> None:
    done = convert(dense, tmp_path / "m.gguf", "gguf", name="tiny", quantize=quantize)
    tokens = tokens_of(dense)
    ours = our_logits(tmp_path / "m.gguf", tokens)
    theirs = their_logits(tmp_path, tokens, gguf_file="m.gguf")
    assert np.abs(ours - theirs).max() < 1e-4
    assert done.nbytes < done.source_bytes / 2.5
    assert done.nbytes == sum(info.nbytes for info in open_checkpoint(tmp_path / "m.gguf").tensors.values())
    options: dict[str, Any] = {"stack": REFERENCE, "num_pages": 8, "max_num_seqs": 1}
    with LLM(dense, **options) as source, LLM(tmp_path / "m.gguf", **options) as result:
        found = quality(source, result, tiny.TEXT * 4)
        same = quality(source, source, tiny.TEXT * 4)
    assert 0 < found.mean_kl < most
    assert (same.mean_kl, same.same_top, same.perplexity) == (0, 1, same.source_perplexity)
    assert found.source_perplexity == same.perplexity


def test_experts_are_packed_in_gguf(sparse: Path, tmp_path: Path) -> None:
    convert(sparse, tmp_path / "m.gguf", "gguf", name="tiny", quantize="q8")
    found = open_checkpoint(tmp_path / "m.gguf")
    assert found.tensors["model.layers.0.mlp.experts.gate_proj.weight"].format == "q8_0"
    assert found.tensors["model.layers.0.mlp.experts.gate_proj.weight"].shape == (4, 32, 64)
    assert found.tensors["model.layers.0.mlp.gate.weight"].format == "float32"
    source = open_checkpoint(sparse)
    for layer, part in ((0, "gate"), (0, "up"), (1, "down")):
        stem = f"model.layers.{layer}.mlp.experts"
        packed = expand(found.read(f"{stem}.{part}_proj.weight"))
        for expert in range(4):
            alone = pack(source.read(f"{stem}.{expert}.{part}_proj.weight"), "q8_0")  # type: ignore[arg-type]
            assert torch.equal(packed[expert], expand(alone))


@pytest.mark.parametrize(("quantize", "form"), [("q8", "int8_group"), ("q4", "int4_group")])
def test_packed_safetensors(dense: Path, tmp_path: Path, quantize: str, form: str) -> None:
    """compressed-tensors' names and config, and the numbers that they stand for."""
    convert(dense, tmp_path / "packed", "safetensors", name="tiny", quantize=quantize)
    found, source = open_checkpoint(tmp_path / "packed"), open_checkpoint(dense)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert found.tensors[name].format == form
    assert torch.equal(expand(found.read(name)), expand(pack(source.read(name), form)))  # type: ignore[arg-type]
    assert found.tensors["lm_head.weight"].format == found.tensors["model.embed_tokens.weight"].format == "float32"
    settings = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    assert settings["ignore"] == ["lm_head"]
    assert settings["config_groups"]["group_0"]["weights"]["num_bits"] == int(quantize[1])
    stored = SafetensorsFile(tmp_path / "packed" / "model.safetensors").entries
    if quantize == "q4":
        assert stored[name.replace("weight", "weight_packed")].shape == (96, 12)
        assert stored[name.replace("weight", "weight_shape")].shape == (2,)
    assert stored[name.replace("weight", "weight_scale")].shape == (96, 3)
    # And back to plain numbers, with no word of packing left.
    convert(tmp_path / "packed", tmp_path / "plain", "safetensors", name="tiny", dtype="float32")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    tokens = tokens_of(dense)
    ours, theirs = our_logits(tmp_path / "packed", tokens), their_logits(tmp_path / "plain", tokens)
    assert np.abs(ours - theirs).max() < 1e-4


def test_nothing_is_replaced_without_leave(dense: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    target.write_bytes(b"mine")
    with pytest.raises(UsageError, match="--force"):
        convert(dense, target, "gguf", name="tiny")
    assert target.read_bytes() == b"mine"
    convert(dense, target, "gguf", name="tiny", force=True)
    assert open_checkpoint(target).tensors
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="no model"):
        convert(dense, folder, "safetensors", name="tiny", force=True)
    convert(dense, tmp_path / "made", "safetensors", name="tiny", dtype="bfloat16")
    with pytest.raises(UsageError, match="there already"):
        convert(dense, tmp_path / "made", "safetensors", name="tiny")
    convert(dense, tmp_path / "made", "safetensors", name="tiny", dtype="float16", force=True)
    assert open_checkpoint(tmp_path / "made").tensors["lm_head.weight"].format == "float16"
    with pytest.raises(UsageError, match="the model that is read"):
        convert(tmp_path / "made", tmp_path / "made", "safetensors", name="tiny", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "m.gguf", "made"]


@pytest.mark.parametrize("to", ["gguf", "safetensors"])
def test_a_failure_leaves_nothing(dense: Path, tmp_path: Path, to: Any) -> None:
    """The last tensor cannot be packed: what was written before it is gone, and what was there is still there."""
    broken = tmp_path / "broken"
    shutil.copytree(dense, broken)
    file = SafetensorsFile(broken / "model.safetensors")
    tensors = {name: file.read(name).clone() for name in file.entries}
    tensors["model.layers.1.self_attn.v_proj.weight"][0, 0] = torch.nan
    write_file(broken / "model.safetensors", tensors)
    target = tmp_path / ("m.gguf" if to == "gguf" else "made")
    with pytest.raises(Unsupported, match="not finite"):
        convert(broken, target, to, name="tiny", quantize="q8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


@pytest.mark.parametrize("to", ["gguf", "safetensors"])
def test_a_full_disk_is_named(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it: without a name

    monkeypatch.setattr(f"parity.convert.to_{to}.write", full)
    target = tmp_path / ("m.gguf" if to == "gguf" else "made")
    with pytest.raises(OSError, match="No space left") as failed:
        convert(dense, target, to, name="tiny")
    assert failed.value.filename == str(target)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_put_back_where_the_new_one_cannot_take_its_name(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, replace = tmp_path / "made", os.replace
    convert(dense, made, "safetensors", name="tiny")

    def stopped(source: Path, target: Path) -> None:
        if Path(source).name == "made.part":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        convert(dense, made, "safetensors", name="tiny", dtype="float16", force=True)
    assert open_checkpoint(made).tensors["lm_head.weight"].format == "float32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_experts_are_expanded_one_by_one(sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(sparse, tmp_path / "m.gguf", "gguf", name="tiny", quantize="q8")
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(relaid, "expand", lambda weight, dtype: shapes.append(tuple(weight.shape)) or expand(weight, dtype))
    convert(tmp_path / "m.gguf", tmp_path / "plain", "safetensors", name="tiny")
    assert shapes.count((32, 64)) == 2 * 2 * 4
    assert {len(shape) for shape in shapes} == {1, 2}


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attn_factor": 0.8782488562869419},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.25},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0, "beta_slow": 2.0},
        {"rope_type": "linear", "factor": 2.0},
    ],
    ids=["a multiple of the temperature", "a temperature", "betas", "linear"],
)
def test_rope_scaling_survives(dense: Path, tmp_path: Path, scaling: dict[str, Any]) -> None:
    """DeepSeek-R1-0528-Qwen3-8B has the first of them."""
    source = tmp_path / "source"
    shutil.copytree(dense, source)
    change_config(source, rope_parameters={"rope_theta": 10000.0} | scaling)
    convert(source, tmp_path / "m.gguf", "gguf", name="tiny")
    tokens = tokens_of(source)
    plain, expected, found = (our_logits(path, tokens) for path in (dense, source, tmp_path / "m.gguf"))
    assert np.abs(plain - expected).max() > 1e-3
    assert np.abs(found - expected).max() < 1e-4


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("kind", ["qwen3_5", "kimi_k25", "deepseek_v4"])
def test_architectures_that_are_not_written_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    probes.write(kind, tmp_path / "source")
    with pytest.raises(Unsupported, match="is not written as GGUF"):
        convert(tmp_path / "source", tmp_path / "m.gguf", "gguf", name="tiny")


def test_refusals(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="make room"):
        check_place(tmp_path / "m.gguf", dense, 1 << 60, folder=False, force=False)
    with pytest.raises(UsageError, match="make it first"):
        check_place(tmp_path / "no" / "m.gguf", dense, 1, folder=False, force=False)
    other = tmp_path / "other"
    shutil.copytree(dense, other)
    content = json.loads((other / "tokenizer.json").read_text("utf-8"))
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (other / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(Unsupported, match="no name for"):
        convert(other, tmp_path / "m.gguf", "gguf", name="tiny")
    (other / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError):
        convert(other, tmp_path / "m.gguf", "gguf", name="tiny")
    assert not (tmp_path / "m.gguf").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file and a folder is written"):
        convert(dense, tmp_path / "file", "safetensors", name="tiny", force=True)
    made = tmp_path / "made.gguf"
    convert(dense, made, "safetensors", name="tiny")
    with pytest.raises(UsageError, match="is a folder and a file is written"):
        convert(dense, made, "gguf", name="tiny", force=True)
    scaled = tmp_path / "scaled"
    shutil.copytree(dense, scaled)
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    change_config(scaled, rope_parameters=yarn | {"truncate": False})
    with pytest.raises(Unsupported, match="'yarn' with truncate is not written as GGUF"):
        convert(scaled, tmp_path / "m.gguf", "gguf", name="tiny")


def test_the_command(run: Run, dense: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "text.txt").write_text(tiny.TEXT * 3)
    words = ("convert", str(dense), "--to", "gguf", "-q", "q8", "-o", str(tmp_path / "m.gguf"), "--stack", "cpu")
    code, out, err = run(*words, "--quality-text", str(tmp_path / "text.txt"))
    assert (code, err) == (0, "")
    assert "bits a weight" in out.splitlines()[0]
    assert out.splitlines()[1].startswith("over ")
    for part in ("mean KL divergence", "same most likely token", "perplexity", "source"):
        assert part in out
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "--force" in err
    code, _, err = run("convert", str(dense), "--to", "gguf", "-o", str(tmp_path / "folder"))
    assert "ends in .gguf" in err
    words = ("convert", str(dense), "--to", "safetensors", "-o", str(tmp_path / "x"))
    code, _, err = run(*words, "--no-quality", "--stack", "cpu")
    assert "--no-quality" in err
    assert code == 2


def test_our_text_is_long_enough() -> None:
    assert len(own_text()) > 7000
