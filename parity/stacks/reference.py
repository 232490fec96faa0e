"""Every op in plain PyTorch: the definition that all other kernels are held to.

Runs on any device, is differentiable except where it writes state, and prefers being read to being fast: a loop over the
sequences of the batch instead of padding, float32 inside.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.batch import Batch
from ..core.weights import Packed, Rows, Weight
from ..formats import expand, rows
from .ops import Activation, Ops, Routing
from .paged import entries_at, entries_of, row_size, sequences, softmax, stored, visible
from .reference_entries import attend_pooled, attend_selected, pool, select, select_blocks, write_pooled
from .reference_memory import gather, hash_windows, token_windows
from .reference_streams import (
    GATES,
    activate,
    gated_mean,
    hyper_read,
    hyper_weights,
    hyper_write,
    mix,
    normalized,
    spread,
    stream_gate,
    stream_norm,
)


def plain(weight: Weight, dtype: torch.dtype) -> Tensor:
    """The weight as one tensor."""
    if isinstance(weight, Rows):
        return torch.cat([plain(part, dtype) for part in weight.parts])
    if isinstance(weight, Packed):
        return expand(weight, dtype)
    return weight.to(dtype)


def embed(tokens: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
    if isinstance(weight, Rows):
        return plain(weight, dtype)[tokens.long()]
    return expand(rows(weight, tokens.long()), dtype)


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, plain(weight, x.dtype), None if bias is None else bias.to(x.dtype))


def gated_linear(x: Tensor, weight: Weight, bias: Tensor | None, activation: Activation) -> Tensor:
    return gated_activation(linear(x, weight, bias), activation)


def head_linear(x: Tensor, weight: Weight) -> Tensor:
    return torch.einsum("thi,hoi->tho", x, plain(weight, x.dtype))


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, zero_centred: bool = False) -> Tensor:
    y = normalized(x, eps)
    if weight is not None:
        y = y * (1.0 + weight.float() if zero_centred else weight.float())
    return y.to(x.dtype)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float, zero_centred: bool = False
) -> tuple[Tensor, Tensor]:
    total = x + residual
    return rms_norm(total, weight, eps, zero_centred), total


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps).to(x.dtype)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, activation: str) -> Tensor:
    return (normalized(x, eps) * weight.float() * GATES[activation](gate.float())).to(x.dtype)


def gated_activation(gate_up: Tensor, activation: Activation) -> Tensor:
    gate, up = gate_up.float().chunk(2, dim=-1)
    if activation.kind == "situ":
        left = activation.beta * torch.tanh(gate / activation.beta) * torch.sigmoid(gate)
        return (left * activation.linear * torch.tanh(up / activation.linear)).to(gate_up.dtype)
    if activation.limit is not None:
        gate, up = gate.clamp(max=activation.limit), up.clamp(-activation.limit, activation.limit)
    return (F.silu(gate) * up).to(gate_up.dtype)


def add(a: Tensor, b: Tensor) -> Tensor:
    return a + b


def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    return (x.float() * torch.sigmoid(gate.float())).to(x.dtype)


# --- rotation -------------------------------------------------------------------------------------------------------------


def rope_angles(positions: Tensor, inv_freq: Tensor, scale: float = 1.0, shift: int = 0) -> Tensor:
    angles = (positions + shift).float()[:, None] * inv_freq.float()
    return torch.stack([angles.cos(), angles.sin()], dim=1) * scale


def rope(x: Tensor, angles: Tensor, interleaved: bool = False, offset: int = 0, inverse: bool = False) -> Tensor:
    width = 2 * angles.shape[-1]
    part = x[..., offset : offset + width].float()
    cos, sin = angles[:, None, 0], angles[:, None, 1]
    if inverse:
        sin = -sin
    a, b = (part[..., 0::2], part[..., 1::2]) if interleaved else part.chunk(2, dim=-1)
    turned = (a * cos - b * sin, b * cos + a * sin)
    joined = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return torch.cat([x[..., :offset], joined.to(x.dtype), x[..., offset + width :]], dim=-1)


# --- paged state and attention ----------------------------------------------------------------------------------------------


def write(pages: Tensor, values: Tensor, batch: Batch) -> None:
    size = pages.shape[1]
    for s, span, _ in sequences(batch):
        positions = batch.positions[span].long()
        pages[batch.pages[s].long()[positions // size], positions % size] = stored(values[span], pages.dtype)


def rope_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    batch: Batch,
    interleaved: bool = False,
    offset: int = 0,
) -> Tensor:
    write(k_pages, rope(k, angles, interleaved, offset), batch)
    write(v_pages, v, batch)
    return rope(q, angles, interleaved, offset)


def norm_rope_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    zero_centred: bool,
    angles: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    batch: Batch,
) -> Tensor:
    q, k = rms_norm(q, q_weight, eps, zero_centred), rms_norm(k, k_weight, eps, zero_centred)
    return rope_write(q, k, v, angles, k_pages, v_pages, batch)


def attend(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    batch: Batch,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    num_heads, num_groups = q.shape[1], q.shape[1] // k_pages.shape[2]
    out = q.new_empty(q.shape[0], num_heads, row_size(v_pages))
    for s, span, length in sequences(batch):
        k = entries_of(k_pages, batch, s, length).float().repeat_interleave(num_groups, dim=1)
        v = entries_of(v_pages, batch, s, length).float().repeat_interleave(num_groups, dim=1)
        scores = torch.einsum("rhd,ehd->hre", q[span].float(), k) * scale
        scores = scores.masked_fill(~visible(batch.positions[span], length, window), -torch.inf)
        out[span] = torch.einsum("hre,ehd->rhd", softmax(scores, sinks), v).to(q.dtype)
    return out


def attend_latent(
    q: Tensor,
    q_rope: Tensor,
    latent_pages: Tensor,
    rope_pages: Tensor,
    batch: Batch,
    scale: float,
    selected: Tensor | None = None,
) -> Tensor:
    out = torch.empty_like(q)
    for s, span, length in sequences(batch):
        if selected is None:
            latent = entries_of(latent_pages, batch, s, length).float()
            turned = entries_of(rope_pages, batch, s, length).float()
            scores = torch.einsum("rhl,el->hre", q[span].float(), latent)
            scores += torch.einsum("rhl,el->hre", q_rope[span].float(), turned)
            scores = (scores * scale).masked_fill(~visible(batch.positions[span], length, None), -torch.inf)
            out[span] = torch.einsum("hre,el->rhl", scores.softmax(-1), latent).to(q.dtype)
            continue
        chosen = selected[span].long()
        missing = (chosen < 0) | (chosen > batch.positions[span, None])
        known = chosen.clamp(0, length - 1)
        latent, turned = (entries_at(pages, batch, s, known).float() for pages in (latent_pages, rope_pages))
        scores = torch.einsum("rhl,rel->hre", q[span].float(), latent)
        scores += torch.einsum("rhl,rel->hre", q_rope[span].float(), turned)
        scores = (scores * scale).masked_fill(missing, -torch.inf)
        out[span] = torch.einsum("hre,rel->rhl", scores.softmax(-1), latent).to(q.dtype)
    return out


# --- experts ----------------------------------------------------------------------------------------------------------------

_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": lambda x: F.softplus(x).sqrt(),
}


def _top(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest along the last dimension, best first, ties to the lowest index."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def route(logits: Tensor, routing: Routing, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    scores = _SCORES[routing.score](logits.float())
    choice = scores if bias is None else scores + bias.float()
    if routing.num_groups > 1:
        grouped = choice.unflatten(-1, (routing.num_groups, -1))
        best = grouped.amax(-1) if routing.group_score == "max" else grouped.topk(2, dim=-1).values.sum(-1)
        kept = torch.zeros_like(best, dtype=torch.bool).scatter_(-1, _top(best, routing.top_groups), True)
        choice = grouped.masked_fill(~kept[..., None], -torch.inf).flatten(-2)
    experts = _top(choice, routing.top_k)
    return _weights(scores.gather(-1, experts), routing), experts.int()


def route_to(logits: Tensor, tokens: Tensor, table: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    experts = table[tokens.long()]
    return _weights(_SCORES[routing.score](logits.float()).gather(-1, experts.long()), routing), experts


def _weights(chosen: Tensor, routing: Routing) -> Tensor:
    """The weights of the chosen experts' scores."""
    if routing.renormalize:
        chosen = chosen / (chosen.sum(-1, keepdim=True) + 1e-20)
    return chosen * routing.scale


def experts(x: Tensor, gate_up: Weight, down: Weight, weights: Tensor, experts: Tensor, activation: Activation) -> Tensor:
    parts = x.new_zeros(*experts.shape, down.shape[1], dtype=torch.float32)
    for expert in experts.unique().tolist():
        row, place = torch.where(experts == expert)
        hidden = gated_activation(linear(x[row], _expert(gate_up, expert)), activation)
        parts[row, place] = linear(hidden, _expert(down, expert)).float() * weights[row, place, None].float()
    return parts.sum(1).to(x.dtype)


def _expert(weight: Weight, expert: int) -> Weight:
    """One expert's matrix of a stacked weight [E, out, in]."""
    if isinstance(weight, Tensor):
        return weight[expert]
    assert isinstance(weight, Packed), "experts are stacked, never laid in rows"
    return Packed(weight.format, weight.shape[1:], {name: array[expert] for name, array in weight.arrays.items()}, weight.meta)


# --- recurrence -------------------------------------------------------------------------------------------------------------


def causal_conv(
    x: Tensor, weight: Tensor, state: Tensor, batch: Batch, bias: Tensor | None = None, activation: str | None = "silu"
) -> Tensor:
    out, width = torch.empty_like(x), weight.shape[-1]
    for s, span, _ in sequences(batch):
        slot = int(batch.slots[s])
        inputs = torch.cat([state[slot].to(x.dtype).T, x[span]])
        windows = inputs.unfold(0, width, 1).float()
        y = (windows * weight.float()).sum(-1)
        if bias is not None:
            y = y + bias.float()
        out[span] = (GATES[activation](y) if activation else y).to(x.dtype)
        state[slot] = inputs[-(width - 1) :].T.to(state.dtype)
    return out


def delta_gates(
    a: Tensor, b: Tensor, a_log: Tensor, dt_bias: Tensor, lower_bound: float | None = None
) -> tuple[Tensor, Tensor]:
    rate = a_log.float().exp()
    if a.ndim == 3:
        rate = rate[:, None]
    moved = a.float() + dt_bias.float()
    decay = -rate * F.softplus(moved) if lower_bound is None else lower_bound * torch.sigmoid(rate * moved)
    return decay, torch.sigmoid(b.float())


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, batch: Batch, scale: float
) -> Tensor:
    repeats = v.shape[1] // q.shape[1]
    q, k = (_unit(x).repeat_interleave(repeats, dim=1) for x in (q, k))
    keep = decay.exp()
    if keep.ndim == 2:
        keep = keep[..., None]
    out = torch.empty_like(v)
    for s, span, _ in sequences(batch):
        memory = state[int(batch.slots[s])].float()
        for t in range(span.start, span.stop):
            memory = memory * keep[t, :, :, None]
            recalled = torch.einsum("hde,hd->he", memory, k[t])
            change = (v[t].float() - recalled) * beta[t, :, None]
            memory = memory + k[t, :, :, None] * change[:, None, :]
            out[t] = (torch.einsum("hde,hd->he", memory, q[t]) * scale).to(v.dtype)
        state[int(batch.slots[s])] = memory.to(state.dtype)
    return out


def _unit(x: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


# --- choosing a token -------------------------------------------------------------------------------------------------------


def sample(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    # argmax does not promise the first of equals; the first true value of a comparison does.
    most = logits.amax(-1, keepdim=True)
    greedy = (logits == most).int().argmax(-1).where(most[:, 0].isfinite(), -1)
    if bool((temperature == 0).all()):
        return greedy
    # Two sorted passes keep it plain: the order decides what is kept, the sum then runs in id order.
    scaled = logits / temperature.where(temperature > 0, 1.0)[:, None]
    probs = scaled.softmax(-1)
    order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[-1], device=probs.device)
    kept = rank < top_k.where(top_k > 0, probs.shape[-1])[:, None]
    ordered = order.values * kept
    before = ordered.cumsum(-1) - ordered
    kept &= before < top_p[:, None] * ordered.sum(-1, keepdim=True)
    kept &= order.values >= min_p[:, None] * order.values[:, :1]
    kept[:, 0] = True
    allowed = torch.zeros_like(kept).scatter_(-1, order.indices, kept)
    cumulated = (probs * allowed).double().cumsum(-1)
    reached = (cumulated > uniform[:, None].double() * cumulated[:, -1:]) & allowed
    return torch.where((temperature > 0) & (greedy >= 0), reached.int().argmax(-1), greedy)


OPS = Ops(
    embed=embed,
    linear=linear,
    gated_linear=gated_linear,
    head_linear=head_linear,
    rms_norm=rms_norm,
    add_rms_norm=add_rms_norm,
    layer_norm=layer_norm,
    gated_rms_norm=gated_rms_norm,
    gated_activation=gated_activation,
    add=add,
    sigmoid_gate=sigmoid_gate,
    rope_angles=rope_angles,
    rope=rope,
    write=write,
    rope_write=rope_write,
    norm_rope_write=norm_rope_write,
    attend=attend,
    attend_latent=attend_latent,
    select=select,
    select_blocks=select_blocks,
    attend_selected=attend_selected,
    pool=pool,
    write_pooled=write_pooled,
    attend_pooled=attend_pooled,
    route=route,
    route_to=route_to,
    experts=experts,
    causal_conv=causal_conv,
    delta_gates=delta_gates,
    gated_delta=gated_delta,
    spread=spread,
    hyper_weights=hyper_weights,
    hyper_read=hyper_read,
    hyper_write=hyper_write,
    stream_norm=stream_norm,
    activate=activate,
    gated_mean=gated_mean,
    stream_gate=stream_gate,
    mix=mix,
    token_windows=token_windows,
    hash_windows=hash_windows,
    gather=gather,
    sample=sample,
)
