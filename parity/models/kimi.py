"""What Kimi Linear and K3 share: which layers are delta layers, and the names of the experts."""

from __future__ import annotations

from typing import Any

from ..core.errors import ConfigError
from ..core.weights import Rename
from .config import Fields, layer_types
from .standard import Sizes

EXPERT_NAMES = (
    Rename(r"\.block_sparse_moe\.", ".mlp."),
    Rename(r"\.experts\.(\d+)\.w1\.", r".experts.\1.gate_proj."),
    Rename(r"\.experts\.(\d+)\.w3\.", r".experts.\1.up_proj."),
    Rename(r"\.experts\.(\d+)\.w2\.", r".experts.\1.down_proj."),
)


def linear_layers(fields: Fields, sizes: Sizes) -> tuple[dict[str, Any], list[str]]:
    """(sizes of the delta layers, the kind of each layer), from `linear_attn_config` or the flat keys.

    Raises:
        ConfigError: a layer is in none or both of the lists, which count from 1, or is of neither kind as computed here.
    """
    fields.expect("mla_use_nope", True)
    fields.expect("use_grouped_topk", True)
    fields.expect("num_nextn_predict_layers", 0)
    fields.skip("rope_theta", "rope_scaling", "rope_parameters")  # nothing is rotated
    nested = Fields(fields.mapping("linear_attn_config", None) or {}, "linear_attn_config of config.json")
    fields.nested.append(nested)
    found = {
        "num_heads": nested.size("num_heads", None) or fields.size("linear_num_heads", 32),
        "head_dim": nested.size("head_dim", None) or fields.size("linear_head_dim", 128),
        "width": nested.size("short_conv_kernel_size", None) or fields.size("linear_conv_kernel_dim", 4),
        "lower_bound": nested.float("gate_lower_bound", None),
        "full_rank_gate": nested.bool("use_full_rank_gate", False),
    }
    fields.skip("linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim")
    if not fields.has("linear_attn_config"):
        return found, layer_types(fields, sizes.num_layers, ("linear_attention", "full_attention"), ())
    full, linear = nested.list("full_attn_layers", []), nested.list("kda_layers", [])
    if sorted([*full, *linear]) != list(range(1, sizes.num_layers + 1)):
        raise ConfigError(f"linear_attn_config must name each of {sizes.num_layers} layers once, counting from 1")
    fields.skip("layer_types")
    return found, ["full_attention" if layer + 1 in full else "linear_attention" for layer in range(sizes.num_layers)]
