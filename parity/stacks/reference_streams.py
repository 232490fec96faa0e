"""The plain definitions of the ops on several residual streams."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

GATES: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "sigmoid": torch.sigmoid}


def normalized(x: Tensor, eps: float) -> Tensor:
    """x / rms(x) over the last dimension, float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def spread(x: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    copies = x[:, None].repeat(1, count, 1)
    return copies if weights is None else (copies.float() * weights.float()[..., None]).to(x.dtype)


def hyper_weights(
    streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor, norm_eps: float, eps: float, iterations: int
) -> tuple[Tensor, ...]:
    count = streams.shape[1]
    mixed = F.linear(normalized(streams.flatten(1), norm_eps), fn.float())
    if len(fn) == count:
        return (torch.sigmoid(mixed * scale.float() + base.float()) + eps,)
    sizes = [count, count, count * count]
    pre, post, comb = (
        part * factor + bias
        for part, factor, bias in zip(mixed.split(sizes, -1), scale.float(), base.float().split(sizes), strict=True)
    )
    comb = comb.unflatten(-1, (count, count)).softmax(-1) + eps
    comb = comb / (comb.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + eps)
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
    return torch.sigmoid(pre) + eps, 2 * torch.sigmoid(post), comb


def hyper_read(streams: Tensor, pre: Tensor) -> Tensor:
    return (streams.float() * pre[..., None].float()).sum(1).to(streams.dtype)


def hyper_write(streams: Tensor, y: Tensor, post: Tensor, comb: Tensor | None) -> Tensor:
    mixed = streams.float() if comb is None else torch.einsum("tjk,tjd->tkd", comb.float(), streams.float())
    return (post[..., None].float() * y[:, None].float() + mixed).to(streams.dtype)


def stream_norm(streams: Tensor, weight: Tensor, eps: float, zero_centred: bool = False) -> Tensor:
    scale = 1.0 + weight.float() if zero_centred else weight.float()
    return (normalized(streams, eps) * scale).to(streams.dtype)


def activate(x: Tensor, kind: str, scale: float = 1.0, factor: float = 1.0) -> Tensor:
    return (GATES[kind](x.float() * scale) * factor).to(x.dtype)


def gated_mean(streams: Tensor, gates: Tensor) -> Tensor:
    return (streams.float() * torch.sigmoid(gates.float())).mean(1).to(streams.dtype)


def stream_gate(queries: Tensor, keys: Tensor) -> Tensor:
    score = (queries.float() * keys.float()).sum(-1) * queries.shape[-1] ** -0.5
    return torch.sigmoid(score.sign() * score.abs().clamp(min=1e-6).sqrt())


def mix(values: tuple[Tensor, ...], norm: Tensor, proj: Tensor, eps: float) -> Tensor:
    stacked = torch.stack(values, dim=1)
    scores = (normalized(stacked, eps) * norm.float() * proj.float()).sum(-1)
    return hyper_read(stacked, scores.softmax(-1))
