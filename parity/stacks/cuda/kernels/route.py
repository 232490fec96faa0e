"""A router in one launch: scores, groups, the best experts, their weights."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from ...ops import Routing
from .common import inner, kernel, power, sigmoid, softplus, take_turn

_SCORES = {"softmax": 0, "sigmoid": 1, "sqrtsoftplus": 2}


@kernel
def _route(
    logits, bias, weights, experts, stride, num_experts, group_size, num_groups, top_k, top_groups, scale,
    SCORE: tl.constexpr, BIAS: tl.constexpr, GROUPED: tl.constexpr, TOP2: tl.constexpr, RENORMALIZE: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    g, e = tl.arange(0, BLOCK_G)[:, None], tl.arange(0, BLOCK_E)[None, :]
    index = g * group_size + e
    inside = (g < num_groups) & (e < group_size)
    x = tl.load(logits + row * stride + index, mask=inside, other=float("-inf")).to(tl.float32)
    if SCORE == 0:
        z = tl.exp(x - tl.max(tl.max(x, axis=1), axis=0))
        scores = z / tl.sum(tl.sum(z, axis=1), axis=0)
    elif SCORE == 1:
        scores = sigmoid(x)
    else:
        scores = tl.sqrt(softplus(x))
    choice = scores
    if BIAS:
        choice += tl.load(bias + index, mask=inside, other=0.0).to(tl.float32)
    choice = tl.where(inside, choice, float("-inf"))
    if GROUPED:
        best = tl.max(choice, axis=1)
        if TOP2:
            place = tl.min(tl.where(choice == best[:, None], e, BLOCK_E), axis=1)
            best += tl.max(tl.where(e == place[:, None], float("-inf"), choice), axis=1)
        groups = tl.arange(0, BLOCK_G)
        best = tl.where(groups < num_groups, best, float("-inf"))
        kept = groups < 0
        for _ in range(top_groups):
            left = tl.where(kept, float("-inf"), best)
            winner = tl.min(tl.where((left == tl.max(left, axis=0)) & ~kept, groups, BLOCK_G), axis=0)
            kept = kept | (groups == winner)
        choice = tl.where(kept[:, None], choice, float("-inf"))
    k = tl.arange(0, BLOCK_K)
    chosen, values = tl.zeros([BLOCK_K], tl.int32), tl.zeros([BLOCK_K], tl.float32)
    free = inside
    for i in range(top_k):
        left = tl.where(free, choice, float("-inf"))
        highest = tl.max(tl.max(left, axis=1), axis=0)
        winner = tl.min(tl.min(tl.where((left == highest) & free, index, 2147483647), axis=1), axis=0)
        winner = tl.minimum(winner, num_experts - 1)  # only a row without numbers has no winner
        value = tl.sum(tl.sum(tl.where(index == winner, scores, 0.0), axis=1), axis=0)
        chosen, values = tl.where(k == i, winner, chosen), tl.where(k == i, value, values)
        free = free & (index != winner)
    if RENORMALIZE:
        values = values / (tl.sum(values, axis=0) + 1e-20)
    tl.store(weights + row * top_k + k, values * scale, mask=k < top_k)
    tl.store(experts + row * top_k + k, chosen, mask=k < top_k)


@kernel
def _route_to(
    logits, tokens, table, weights, experts, stride, num_experts, top_k, scale,
    SCORE: tl.constexpr, RENORMALIZE: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    chosen = tl.load(table + tl.load(tokens + row).to(tl.int64) * top_k + k, mask=k < top_k, other=0)
    x = tl.load(logits + row * stride + chosen, mask=k < top_k, other=float("-inf")).to(tl.float32)
    if SCORE == 0:
        e = tl.arange(0, BLOCK_E)
        all_of_them = tl.load(logits + row * stride + e, mask=e < num_experts, other=float("-inf")).to(tl.float32)
        highest = tl.max(all_of_them, axis=0)
        values = tl.exp(x - highest) / tl.sum(tl.exp(all_of_them - highest), axis=0)
    elif SCORE == 1:
        values = sigmoid(x)
    else:
        values = tl.sqrt(softplus(x))
    values = tl.where(k < top_k, values, 0.0)
    if RENORMALIZE:
        values = values / (tl.sum(values, axis=0) + 1e-20)
    tl.store(weights + row * top_k + k, values * scale, mask=k < top_k)
    tl.store(experts + row * top_k + k, chosen, mask=k < top_k)


def route(logits: Tensor, routing: Routing, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    num_rows, num_experts = logits.shape
    weights = torch.empty(num_rows, routing.top_k, dtype=torch.float32, device=logits.device)
    experts = torch.empty(num_rows, routing.top_k, dtype=torch.int32, device=logits.device)
    if not num_rows:
        return weights, experts
    logits, group_size = inner(logits), num_experts // routing.num_groups
    _route[(num_rows,)](
        logits, logits if bias is None else bias, weights, experts, logits.stride(0), num_experts, group_size,
        routing.num_groups, routing.top_k, routing.top_groups, routing.scale,
        _SCORES[routing.score], bias is not None, routing.num_groups > 1, routing.group_score == "top2", routing.renormalize,
        power(routing.num_groups), power(group_size), power(routing.top_k), num_warps=4 if num_experts > 128 else 1,
    )  # fmt: skip
    return weights, experts


def route_to(logits: Tensor, tokens: Tensor, table: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    (num_rows, num_experts), top_k = logits.shape, table.shape[1]
    weights = torch.empty(num_rows, top_k, dtype=torch.float32, device=logits.device)
    experts = torch.empty(num_rows, top_k, dtype=table.dtype, device=logits.device)
    if num_rows:
        logits = inner(logits)
        _route_to[(num_rows,)](
            logits, tokens, table.contiguous(), weights, experts, logits.stride(0), num_experts, top_k, routing.scale,
            _SCORES[routing.score], routing.renormalize, power(num_experts), power(top_k), num_warps=1,
        )  # fmt: skip
    return weights, experts
