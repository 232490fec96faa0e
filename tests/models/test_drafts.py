"""Draft layers, loaded when they are asked for, compute the reference's hidden states and logits, from pages of their own."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers.modeling_layers import MtpModel

from parity.core.batch import Batch
from parity.core.errors import Unsupported, WeightError
from parity.engine.load import load_model
from parity.engine.memory import StateMemory
from parity.hub import open_checkpoint, write_safetensors
from parity.hub.weights import to_checkpoint
from parity.models import registry
from parity.models.decoder import Decoder
from parity.models.draft import OneByOne
from parity.stacks.reference import OPS
from parity.stacks.registry import open_stack

from . import tiny
from .recorded import recorded
from .test_deepseek_v4 import SIZES as V4_SIZES
from .test_experts import CASES
from .test_qwen4_exp import SIZES as QWEN4_SIZES

PAGE_SIZE = 8
V3 = {"enorm": "enorm", "hnorm": "hnorm", "eh_proj": "eh_proj", "post_norm": "shared_head.norm"}
QWEN = {"enorm": "pre_fc_norm_embedding", "hnorm": "pre_fc_norm_hidden", "eh_proj": "fc", "post_norm": "norm"}
REFERENCES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "deepseek_v3": ("model.layers.{}.", V3, {"num_nextn_predict_layers": 1}),
    "deepseek_v32": ("model.layers.{}.", V3, {"num_nextn_predict_layers": 1}),
    "qwen3_next": ("mtp.", QWEN, {}),
    "qwen3_5_text": ("mtp.", QWEN, {"mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False}),
    "qwen3_5_moe_text": ("mtp.", QWEN, {"mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False}),
}


class Runs:
    """A model with its draft layers and the state of one sequence."""

    def __init__(self, folder: Path, num_pages: int = 16, stack: str = tiny.REFERENCE) -> None:
        opened, _ = open_stack(stack)
        self.model: Decoder = load_model(open_checkpoint(folder), opened, torch.float32, draft=True)
        self.memory = StateMemory(
            self.model.state,
            num_pages=num_pages,
            page_size=PAGE_SIZE,
            num_slots=1,
            num_snapshots=0,
            dtype=torch.float32,
            device=opened.device,
        )
        self.num_pages = num_pages

    def batch(self, tokens: list[int], start: int = 0) -> Batch:
        count, end = len(tokens), start + len(tokens)

        def int32(*values: int) -> Tensor:
            return torch.tensor(values, dtype=torch.int32)

        pages = int32(*range(self.num_pages)).unsqueeze(0)
        positions = torch.arange(start, end, dtype=torch.int32)
        starts, lengths = int32(0, count), int32(end)
        return Batch(int32(*tokens), positions, starts, lengths, pages, int32(0), PAGE_SIZE, (0, count), (end,))

    def run(self, batch: Batch, following: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """The first draft layer alone."""
        assert isinstance(self.model.drafter, OneByOne)
        return self.model.drafter.run(self.model, 0, batch, following, self.memory.state, before)

    @torch.inference_mode()
    def guesses(self, tokens: list[int], following: list[int], sizes: list[int]) -> tuple[Tensor, Tensor]:
        """(what the first draft layer leaves to read, its logits) of every row, computed in steps of these sizes."""
        left, logits, start = [], [], 0
        self.memory.clear(0)
        for size in sizes:
            batch = self.batch(tokens[start : start + size], start)
            _, before = self.model.states(batch, self.memory.state)
            ahead = torch.tensor(following[start : start + size], dtype=torch.int32)
            hidden, after = self.run(batch, ahead, before)
            left.append(after)
            logits.append(self.model.head(hidden))
            start += size
        return torch.cat(left), torch.cat(logits)


def saved(name: str, folder: Path) -> tuple[torch.nn.Module, MtpModel]:
    """The tiny model of transformers with a random draft layer, saved under the names of released checkpoints."""
    family, options = CASES[name]
    prefix, names, keys = REFERENCES[name]
    config_class = getattr(transformers, f"{family}TextConfig", None) or getattr(transformers, f"{family}Config")
    config = config_class(**deepcopy(options))
    prefix = prefix.format(config.num_hidden_layers)
    model = tiny.save(getattr(transformers, f"{family}ForCausalLM"), config, folder)
    with_drafts = deepcopy(config)
    with_drafts.num_mtp_layers = 1
    if getattr(config, "layer_types", None):
        attention = "indexed_attention" if "indexed_attention" in config.layer_types else "full_attention"
        with_drafts.mtp_layer_types = [attention]
    if getattr(config, "mlp_layer_types", None):
        with_drafts.mtp_mlp_layer_types = ["sparse"]
    model.config = with_drafts
    torch.manual_seed(7)
    mtp = MtpModel(model, 1).eval().float()
    with torch.no_grad():
        for layer in mtp.layers:
            for parameter in layer.parameters():
                spread = 0.2 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
                parameter.copy_(torch.randn_like(parameter) * spread + (parameter if parameter.ndim == 1 else 0))
            for key, buffer in layer.named_buffers():
                if "bias" in key:
                    buffer.copy_(torch.randn_like(buffer) * 0.2)
    checkpoint = open_checkpoint(folder)
    tensors = {key: checkpoint.read(key) for key in checkpoint.tensors}
    block = prefix + ("layers.0." if prefix == "mtp." else "")
    for key, value in mtp.layers[0].state_dict().items():
        first = key.partition(".")[0]
        place = block + key.removeprefix("mtp_block.") if first == "mtp_block" else key.replace(first, prefix + names[first], 1)
        tensors[place] = value.clone()
    if prefix.startswith("model"):  # as released: copies of what is shared
        tensors[f"{prefix}embed_tokens.weight"] = tensors[f"{prefix}shared_head.head.weight"] = torch.zeros(3, 5)
    write_safetensors(folder, {**checkpoint.config, **keys}, tensors)
    return model, mtp


@pytest.mark.parametrize("name", REFERENCES)
def test_a_draft_layer_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    model, mtp = saved(name, tmp_path)
    runs = Runs(tmp_path)
    tokens = tiny.prompt(30, runs.model.vocab_size)
    following = [*tokens[1:], 5]
    with torch.no_grad():
        outputs = model(torch.tensor([tokens]), output_hidden_states=True)
        positions, embedded = torch.arange(30).unsqueeze(0), mtp.embed_tokens(torch.tensor([following]))
        hidden = mtp.layers[0](
            embedded,
            outputs.hidden_states[-1],
            position_embeddings=mtp.rotary_emb(embedded, position_ids=positions),
            attention_mask=torch.full((1, 1, 30, 30), -torch.inf).triu(1),
            position_ids=positions,
            past_key_values=None,
        )
        expected = model.lm_head(hidden)[0]
    for sizes in ([30], [7, 16, 1, 1, 5]):
        left, logits = runs.guesses(tokens, following, sizes)
        assert tiny.relative_error(left.numpy(), hidden[0].numpy()) < 1e-5
        assert tiny.relative_error(logits.numpy(), expected.numpy()) < 1e-5


def beside(spans: list[tuple[int, int]], tokens: list[int], num_pages: int = 16) -> Batch:
    """One step of several sequences over these tokens, each from one place to another, in pages of its own."""
    starts = [0, *accumulate(end - start for start, end in spans)]
    places = [place for span in spans for place in range(*span)]

    def int32(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32)

    pages = torch.arange(num_pages, dtype=torch.int32).view(len(spans), -1)
    ends, slots = [end for _, end in spans], int32([0] * len(spans))
    chosen = int32([tokens[place] for place in places])
    return Batch(chosen, int32(places), int32(starts), int32(ends), pages, slots, PAGE_SIZE, tuple(starts), tuple(ends))


def test_two_draft_layers_guess_one_after_the_other(tmp_path: Path) -> None:
    """Each reads what the one before left, and the tokens one further on."""
    config = {**CASES["deepseek_v3"][1], "model_type": "deepseek_v3", "num_nextn_predict_layers": 2}
    write_safetensors(tmp_path, config, random_tensors(config))
    runs, tokens = Runs(tmp_path), tiny.prompt(13, config["vocab_size"])
    model, state, batch = runs.model, runs.memory.state, beside([(0, 5), (0, 12)], tokens)
    following = torch.tensor([*tokens[1:6], *tokens[1:13]], dtype=torch.int32)
    with torch.inference_mode():
        _, before = model.states(batch, state)
        drafted = model.draft(batch, following, state, before)
        assert isinstance(model.drafter, OneByOne)
        normed, left = model.drafter.run(model, 0, batch, following, state, before)
        first = model.head(normed)[[4, 16]]
        ahead = [*tokens[2:6], int(first[0].argmax()), *tokens[2:13], int(first[1].argmax())]
        normed, _ = model.drafter.run(model, 1, batch, torch.tensor(ahead, dtype=torch.int32), state, left)
        second = model.head(normed)[[4, 16]]
    assert tiny.relative_error(drafted.logits.numpy(), torch.stack([first, second], dim=1).numpy()) < 1e-6
    assert torch.equal(drafted.tokens, drafted.logits.argmax(-1).int())
    assert len(set(drafted.tokens.flatten().tolist())) > 2


DEEPSEEK_V4 = {
    "model_type": "deepseek_v4",
    **{key: value for key, value in V4_SIZES.items() if key not in ("layer_types", "mlp_layer_types", "partial_rotary_factor")},
    "qk_rope_head_dim": 8,
    "compress_ratios": [0, 128, 4, 4, 0],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
    "rope_parameters": None,
    "num_hash_layers": 1,
    "num_nextn_predict_layers": 1,
    "n_shared_experts": 1,
}
QWEN4 = {
    "model_type": "qwen4_exp_text",
    **{key: value for key, value in QWEN4_SIZES.items() if key not in ("ple_layer_ids", "rope_parameters", "layer_types")},
    "rope_parameters": {**QWEN4_SIZES["rope_parameters"], "mrope_section": [2, 1, 1]},
    "linear_conv_kernel_dim": 4,
    "rms_norm_eps": 1e-6,
    "mtp_num_hidden_layers": 1,
}


def random_tensors(config: dict[str, Any]) -> dict[str, Tensor]:
    """Weights for every tensor, draft layers' too, under the checkpoint's names."""
    model, architecture = registry.build(config, OPS, torch.float32, draft=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, slot in model.all_slots().items():
        if name.endswith("tid2eid"):
            scores = torch.rand(slot.shape[0], config["n_routed_experts"], generator=generator)
            values = scores.argsort(-1)[:, : slot.shape[1]]
        else:
            values = torch.randn(slot.shape, generator=generator)
            values = values * (0.2 if len(slot.shape) == 1 else slot.shape[-1] ** -0.5)
            if name.endswith("norm.weight") and config["model_type"] == "deepseek_v4":
                values = values + 1
        tensors[to_checkpoint(name, registry.rules(model, architecture))] = values
    return tensors


def arrays(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The draft layers' tensors, for MLX."""
    import mlx.core as mx

    return {name: mx.array(value.numpy()) for name, value in tensors.items() if name.startswith("mtp.")}


def deepseek_v4_reference(config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    from mlx_vlm.speculative.drafters.deepseek_v4_mtp import deepseek_v4_mtp as reference

    model = reference.DeepseekV4MTPDraftModel(reference.DeepseekV4MTPConfig.from_dict({"text_config": config}))
    model.load_weights(list(model.sanitize(arrays(tensors)).items()))
    return model


def qwen4_reference(config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    from mlx_vlm.speculative.drafters.qwen4_exp_mtp import qwen4_exp_mtp as reference

    model = reference.Qwen4ExpMTPDraftModel(reference.Qwen4ExpMTPConfig.from_dict({"text_config": config}))
    stem, named = "mtp.layers.0.mlp.experts", dict(tensors)
    kinds = {
        kind: torch.stack([named.pop(f"{stem}.{expert}.{kind}.weight") for expert in range(config["num_experts"])])
        for kind in ("gate_proj", "up_proj", "down_proj")
    }
    named[f"{stem}.gate_up_proj"] = torch.cat([kinds["gate_proj"], kinds["up_proj"]], 1)
    named[f"{stem}.down_proj"] = kinds["down_proj"]
    model.load_weights(list(model.sanitize(arrays(named)).items()))
    return model


@pytest.mark.parametrize(
    ("config", "reference"),
    [(DEEPSEEK_V4, deepseek_v4_reference), (QWEN4, qwen4_reference)],
    ids=["deepseek_v4", "qwen4_exp"],
)
def test_a_draft_layer_of_several_streams_computes_what_mlx_vlm_computes(
    config: dict[str, Any], reference: Any, tmp_path: Path
) -> None:
    tensors = random_tensors(config)
    write_safetensors(tmp_path, config, tensors)
    runs = Runs(tmp_path)
    streams, hidden = config.get("hc_count", config.get("hc_mult", 4)), config["hidden_size"]
    before = torch.randn(30, streams, hidden, generator=torch.Generator().manual_seed(1))
    tokens = tiny.prompt(30, runs.model.vocab_size)

    def compute() -> np.ndarray:
        import mlx.core as mx

        model = reference(config, tensors)
        embedded = mx.array(runs.model.model.embed_tokens(torch.tensor(tokens, dtype=torch.int32)).unsqueeze(0).numpy())
        shape = (1, 30, streams, hidden)
        normed, left = model._forward_hidden(
            embedded, mx.array(before.numpy()).reshape(shape), mx.array([tokens]), model.make_cache()
        )
        return np.concatenate([np.array(normed[0]), np.array(left[0]).reshape(30, -1)], axis=1)

    expected = recorded(f"{config['model_type']}-draft", compute)
    for sizes in ([30], [7, 16, 1, 1, 5]):
        runs.memory.clear(0)
        start, rows = 0, []
        for size in sizes:
            batch = runs.batch(tokens[start : start + size], start)
            with torch.inference_mode():
                normed, left = runs.run(batch, batch.tokens, before[start : start + size])
            rows.append(torch.cat([normed, left.flatten(1)], dim=1))
            start += size
        assert tiny.relative_error(torch.cat(rows).numpy(), expected) < 1e-5


def test_draft_layers_are_listed_as_skipped_unless_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, _ = saved("qwen3_5_text", tmp_path)
    with caplog.at_level("INFO", logger="parity"):
        engine = tiny.open_engine(tmp_path)
    assert any("not loaded: 15 tensor(s) such as mtp." in line and "draft layers" in line for line in caplog.messages)
    tokens = tiny.prompt(20, 160)
    assert tiny.relative_error(tiny.logits(engine, tokens), tiny.reference_logits(model, tokens)) < 1e-5


def test_a_draft_tensor_that_lacks_or_is_unknown_is_named(tmp_path: Path) -> None:
    saved("deepseek_v3", tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    tensors: Any = {key: checkpoint.read(key) for key in checkpoint.tensors}
    name = next(key for key in tensors if key.endswith("eh_proj.weight"))
    tensors[name.replace("eh_proj", "surplus")] = tensors.pop(name)
    write_safetensors(tmp_path, checkpoint.config, tensors)
    with pytest.raises(WeightError, match=r"surplus(.|\n)*mtp\.0\.eh_proj\.weight is missing"):
        Runs(tmp_path)


def test_draft_layers_that_are_not_there_or_not_computed_are_refused(tmp_path: Path) -> None:
    options = CASES["deepseek_v3"][1]
    tiny.save(transformers.DeepseekV3ForCausalLM, transformers.DeepseekV3Config(**options, num_mtp_layers=0), tmp_path)
    with pytest.raises(Unsupported, match="names no draft layers"):
        Runs(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "deepseek_v2"}))
    with pytest.raises(Unsupported, match="'deepseek_v2' has no draft layers"):
        Runs(tmp_path)
