"""The experts of DeepSeek-V4 and V4.1: weighed by the root of a softplus, clamped, some chosen by a table of tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from torch import nn

from ..core.errors import ConfigError
from ..stacks.ops import Activation, Ops, Routing
from .config import Fields
from .layers.experts import Experts
from .layers.mlp import GatedMLP
from .layers.router import HashRouter, Router
from .layers.sparse_mlp import SparseMLP
from .standard import Sizes


class MakeExperts(Protocol):
    """Makes a layer's experts."""

    def __call__(self, *, hashed: bool = False, counts: tuple[int, int] | None = None) -> nn.Module:
        """Chosen by a table of tokens, or by scores; `counts` are (all, chosen) where they are not the model's."""


def compressed_experts(fields: Fields, ops: Ops, sizes: Sizes) -> MakeExperts:
    """Makes the experts of layers."""
    fields.expect("topk_method", "noaux_tc")
    fields.expect("mlp_bias", False)
    fields.skip("expert_dtype", "router_jitter_noise")
    score = fields.expect("scoring_func", "sqrtsoftplus", "sigmoid", "softmax", default="sqrtsoftplus")
    routing = Routing(
        top_k=fields.size("num_experts_per_tok", 6),
        score=score,
        renormalize=fields.expect("norm_topk_prob", True, default=True),
        scale=fields.float("routed_scaling_factor", 1.5),
    )
    num_experts = fields.size(fields.either("n_routed_experts", "num_local_experts"))
    moe_size = fields.size("moe_intermediate_size")
    fields.expect("intermediate_size", moe_size)
    shared_size = moe_size * fields.size("n_shared_experts", 1)
    limit = fields.float("swiglu_limit", 10.0)
    if limit <= 0:  # no limit to some, and to others one that leaves nothing
        raise ConfigError(f"swiglu_limit must be above 0, not {limit:g}")
    activation = Activation(limit=limit)

    def make(*, hashed: bool = False, counts: tuple[int, int] | None = None) -> nn.Module:
        count, top_k = counts or (num_experts, routing.top_k)
        how = replace(routing, top_k=top_k)
        if hashed:
            gate: Router | HashRouter = HashRouter(ops, sizes.hidden, count, how, sizes.vocab)
        else:
            gate = Router(ops, sizes.hidden, count, how, bias="e_score_correction_bias")
        experts = Experts(ops, count, sizes.hidden, moe_size, activation)
        shared = ("shared_experts", GatedMLP(ops, sizes.hidden, shared_size, activation))
        return SparseMLP(ops, sizes.hidden, gate, experts, shared=shared)

    return make
