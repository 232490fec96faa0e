"""What GGUF changes in the values of hybrid models is undone: each change is written here head by head, as described."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from parity.core.errors import ParityError
from parity.core.weights import Packed
from parity.formats import expand, pack
from parity.hub import open_checkpoint, write_gguf
from parity.hub.gguf_checkpoint import gguf_name
from parity.hub.gguf_layouts import LAYOUTS

from .test_checkpoint import SMALL, VOCABULARY, deepseek_metadata
from .test_loading import loads, unfused

KEY_HEADS, VALUE_HEADS, KEY_DIM = 2, 6, 16
PER_KEY = VALUE_HEADS // KEY_HEADS


def dealt(tensor: torch.Tensor, width: int, dim: int = 0) -> torch.Tensor:
    """Heads K0v0 K0v1 K0v2 K1v0 K1v1 K1v2 in the order K0v0 K1v0 K0v1 K1v1 K0v2 K1v2."""
    heads = [tensor.narrow(dim, head * width, width) for head in range(VALUE_HEADS)]
    return torch.cat([heads[key * PER_KEY + turn] for turn in range(PER_KEY) for key in range(KEY_HEADS)], dim)


def as_gguf(name: str, tensor: torch.Tensor, value_dim: int) -> torch.Tensor:
    """A tensor of Hugging Face's as the converter stores it."""
    plain = 2 * KEY_HEADS * KEY_DIM
    if name.endswith("A_log"):
        return dealt(-tensor.exp(), 1)
    if name.endswith(("dt_bias", "in_proj_a.weight", "in_proj_b.weight")):
        return dealt(tensor, 1)
    if name.endswith("in_proj_z.weight"):
        return dealt(tensor, value_dim)
    if name.endswith("in_proj_qkv.weight"):
        return torch.cat((tensor[:plain], dealt(tensor[plain:], value_dim)))
    if name.endswith("conv1d.weight"):
        tensor = tensor.squeeze(1)
        return torch.cat((tensor[:plain], dealt(tensor[plain:], value_dim)))
    if name.endswith("out_proj.weight"):
        return dealt(tensor, value_dim, 1)
    if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        return tensor + 1
    return tensor.reshape(-1) if name.endswith("shared_expert_gate.weight") else tensor


def metadata(architecture: str, value_dim: int) -> dict[str, Any]:
    numbers = {
        "block_count": 4,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "context_length": 128,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e7,
        "rope.dimension_count": 8,
        "full_attention_interval": 2,
        "ssm.conv_kernel": 4,
        "ssm.state_size": KEY_DIM,
        "ssm.group_count": KEY_HEADS,
        "ssm.time_step_rank": VALUE_HEADS,
        "ssm.inner_size": VALUE_HEADS * value_dim,
    }
    if architecture == "qwen35moe":
        numbers |= {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
        numbers |= {"expert_shared_feed_forward_length": 48}
    return {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in numbers.items()}


@pytest.mark.parametrize("value_dim", [16, 32], ids=["columns expanded", "columns moved packed"])
@pytest.mark.parametrize("architecture", ["qwen35", "qwen35moe"])
def test_hybrid_models(tmp_path: Path, architecture: str, value_dim: int) -> None:
    sizes = SMALL | {"num_hidden_layers": 4, "head_dim": 32, "full_attention_interval": 2}
    sizes |= {"linear_num_key_heads": KEY_HEADS, "linear_num_value_heads": VALUE_HEADS, "linear_key_head_dim": KEY_DIM}
    sizes |= {"linear_value_head_dim": value_dim, "layer_types": ["linear_attention", "full_attention"] * 2}
    if architecture == "qwen35":
        config: Any = transformers.Qwen3_5TextConfig(**sizes)
    else:
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        config = transformers.Qwen3_5MoeTextConfig(**sizes, **experts, shared_expert_intermediate_size=48)
    torch.manual_seed(0)
    state = unfused(transformers.AutoModelForCausalLM.from_config(config).state_dict())
    layout = LAYOUTS[architecture]
    written: dict[str, torch.Tensor | Packed] = {}
    for name, tensor in state.items():
        assert isinstance(tensor, torch.Tensor)
        tensor.normal_(std=0.1)
        changed = as_gguf(name, tensor, value_dim)
        quantised = changed.dim() == 2 and changed.shape[1] % 32 == 0
        written[gguf_name(name, layout)] = pack(changed, "q8_0") if quantised else changed
    write_gguf(tmp_path / "m.gguf", metadata(architecture, value_dim), written)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert checkpoint.tensors.keys() == state.keys()
    for name, tensor in state.items():
        read = checkpoint.read(name)
        assert tuple(read.shape) == checkpoint.tensors[name].shape == tuple(tensor.shape), name
        torch.testing.assert_close(expand(read), tensor, atol=2e-3, rtol=0, msg=name)
        moved = name.endswith("out_proj.weight") and value_dim % 32 == 0
        assert isinstance(read, Packed) or not moved
    assert loads(tmp_path / "m.gguf")


@pytest.mark.parametrize("make", [deepseek_metadata, lambda: metadata("qwen35", 16)], ids=["deepseek2", "qwen35"])
def test_damaged_metadata(tmp_path: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Wrong types, counts and sizes: the checkpoint opens or a named error says why; nothing else."""
    tensors: dict[str, torch.Tensor | Packed] = {
        "token_embd.weight": torch.zeros(96, 64),
        "blk.1.attn_k_b.weight": torch.zeros(4, 32, 16),
        "blk.1.attn_v_b.weight": torch.zeros(4, 16, 32),
        "blk.0.ssm_a": torch.ones(6),
        "blk.0.ssm_out.weight": torch.ones(8, 96),
    }
    write_gguf(tmp_path / "good.gguf", {**make(), **VOCABULARY}, tensors)
    good = (tmp_path / "good.gguf").read_bytes()
    path = tmp_path / "bad.gguf"
    chance = random.Random(0)
    outcomes = set()
    for _ in range(400):
        raw = bytearray(good)
        at = chance.randrange(min(len(raw), 4000))
        wild = struct.pack("<Q", chance.choice((0, 1, 2**31, 2**63, 2**64 - 1)))
        raw[at : at + 8] = wild if chance.random() < 0.3 else bytes([chance.randrange(13)]) + raw[at + 1 : at + 8]
        path.write_bytes(raw)
        try:
            checkpoint = open_checkpoint(path)
            assert isinstance(checkpoint.generation_config["eos_token_id"], list)
            for name in checkpoint.tensors:
                expand(checkpoint.read(name))
            outcomes.add("opened")
        except ParityError as error:
            outcomes.add(type(error).__name__)
    assert outcomes >= {"opened", "FormatError"}


SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (6,), (2, 3), (8, 96), (4, 32, 16), (1, 1, 1, 1))


@pytest.mark.parametrize("make", [deepseek_metadata, lambda: metadata("qwen35", 16)], ids=["deepseek2", "qwen35"])
def test_damaged_tensors(tmp_path: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Missing partners and shapes that do not fit: the checkpoint opens or a named error says why; nothing else."""
    values = {**make(), **VOCABULARY}
    layout = LAYOUTS[values["general.architecture"]]
    layers = [f"blk.0.{inner}.weight" for inner in layout.layer] + [f"blk.0.{name}" for name in layout.whole]
    names = [*layers, "blk.0.ffn_gate_up_exps.weight", "rope_freqs.weight", "output.weight", *layout.top]
    path = tmp_path / "bad.gguf"
    chance = random.Random(0)
    outcomes = set()
    for _ in range(400):
        embedding = chance.choice(SHAPES) if chance.random() < 0.1 else (96, 64)
        tensors = {"token_embd.weight": torch.zeros(embedding)}
        tensors |= {name: torch.full(chance.choice(SHAPES), -1.0) for name in chance.sample(names, chance.randrange(1, 6))}
        write_gguf(path, values, tensors)
        said = str(path)
        try:
            checkpoint = open_checkpoint(path)
            for name in checkpoint.tensors:
                assert expand(checkpoint.read(name)).shape == checkpoint.tensors[name].shape
            outcomes.add("opened")
        except ParityError as error:
            said = str(error)
            outcomes.add(type(error).__name__)
        assert str(path) in said
    assert outcomes >= {"opened", "FormatError"}


def test_draft_layers_are_named_apart(tmp_path: Path) -> None:
    values = metadata("qwen35", 16) | {"qwen35.block_count": 5, "qwen35.nextn_predict_layers": 1}
    tensors = {"token_embd.weight": torch.zeros(4, 64), "blk.4.nextn.eh_proj.weight": torch.zeros(2, 2)}
    write_gguf(tmp_path / "m.gguf", values, {**tensors, "blk.4.attn_norm.weight": torch.zeros(64)})
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert checkpoint.config["num_hidden_layers"] == 4
    assert {name for name in checkpoint.tensors if name.startswith("mtp.")} == {
        "mtp.fc.weight",
        "mtp.layers.0.input_layernorm.weight",
    }
