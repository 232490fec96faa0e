"""DeepSeek-V3.2: as V3, with an indexer in every layer that chooses the entries to attend to."""

from __future__ import annotations

import torch
from torch import nn

from ..core.errors import ConfigError
from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .latent import latent_decoder
from .layers.sparse import Indexer
from .standard import Sizes


def build(fields: Fields, ops: Ops, dtype: torch.dtype, *, draft: bool = False) -> Decoder:
    """A DeepSeek-V3.2 model."""
    fields.expect("layer_types", ["indexed_attention"] * fields.size("num_hidden_layers"))
    fields.expect("mlp_bias", False)
    q_rank, num_heads = fields.size("q_lora_rank", 1536), fields.size("index_n_heads", 64)
    dim, top_k = fields.size("index_head_dim", 128), fields.size("index_topk", 2048)
    if fields.has("q_lora_rank") and fields.size("q_lora_rank", None) is None:
        raise ConfigError("q_lora_rank is null: the indexer's queries are made of that rank")
    if dim < (rotated := fields.size("qk_rope_head_dim", 64)):
        raise ConfigError(f"index_head_dim = {dim} must be at least the {rotated} rotated dimensions")

    def indexer(sizes: Sizes) -> nn.Module:
        return Indexer(ops, hidden_size=sizes.hidden, q_rank=q_rank, num_heads=num_heads, dim=dim, top_k=top_k)

    return latent_decoder(fields, ops, dtype, indexer=indexer, draft=draft)


ARCHITECTURE = Architecture(
    model_types=("deepseek_v32",),
    build=build,
    drafts=True,
    checkpoints="DeepSeek-V3.2-Exp, V3.2, V3.2-Speciale, Math-V2",
    formats="FP8, GGUF",
    reference="transformers 5.23",
    missing="the vendor's rounding of index keys to FP8",
)
