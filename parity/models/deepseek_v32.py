"""DeepSeek-V3.2: as V3, with an indexer in every layer that chooses the entries to attend to."""

from __future__ import annotations

import torch

from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .latent import draft_layers, latent_attention, leading_dense, sigmoid_routing
from .layers.sparse import Indexer
from .standard import assemble, read_sizes


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A DeepSeek-V3.2 model."""
    sizes = read_sizes(fields)
    fields.expect("layer_types", ["indexed_attention"] * sizes.num_layers)
    fields.expect("mlp_bias", False)
    index = {
        "hidden_size": sizes.hidden,
        "q_rank": fields.size("q_lora_rank", 1536),
        "num_heads": fields.size("index_n_heads", 64),
        "dim": fields.size("index_head_dim", 128),
        "top_k": fields.size("index_topk", 2048),
    }
    mixer, ropes = latent_attention(fields, ops, sizes, indexer=lambda: Indexer(ops, **index))
    mlp = leading_dense(fields, ops, sizes, sigmoid_routing(fields), bias="e_score_correction_bias")
    model = assemble(ops, dtype, sizes, ropes, mixer, mlp)
    model.ignored = draft_layers(fields, sizes)
    return model


ARCHITECTURE = Architecture(
    model_types=("deepseek_v32",),
    build=build,
    checkpoints="DeepSeek-V3.2-Exp, V3.2, V3.2-Speciale",
    reference="transformers 5.23",
    missing="multi-token prediction; the vendor's rounding of index keys to FP8",
)
