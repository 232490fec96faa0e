"""A dense Qwen3 with random weights as safetensors: how long a step takes does not depend on their values.

python bench/random_checkpoint.py FOLDER [--shape Qwen3-0.6B] [--dtype bfloat16]
parity bench FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from shapes import SHAPES


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="made if it is not there")
    dense = sorted(name for name, config in SHAPES.items() if config["model_type"] == "qwen3")
    parser.add_argument("--shape", choices=dense, default="Qwen3-0.6B")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write(arguments.folder, SHAPES[arguments.shape], getattr(torch, arguments.dtype))


def write(folder: Path, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device | None = None) -> None:
    """Writes `config.json` and `model.safetensors` of a model whose head is its embedding; a device draws faster."""
    name = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": name}))
    drawn = torch.Generator(device or "cpu").manual_seed(0)
    tensors = {name: _weight(shape, dtype, drawn) for name, shape in _shapes(config).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes


def _weight(shape: tuple[int, ...], dtype: torch.dtype, drawn: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    return torch.empty(shape, dtype=dtype, device=drawn.device).uniform_(-0.03, 0.03, generator=drawn).cpu()


if __name__ == "__main__":
    main()
