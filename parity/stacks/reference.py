"""Every op in plain PyTorch: the definition that all other kernels are held to.

Runs on any device, is differentiable except where it writes state, and prefers being read to being fast: a loop over the
sequences of the batch instead of padding, float32 inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.batch import Batch
from ..core.weights import Packed, Rows, Weight
from ..formats import expand, rows
from .ops import Activation, Ops, Routing


def _plain(weight: Weight, dtype: torch.dtype) -> Tensor:
    """The weight as one tensor."""
    if isinstance(weight, Rows):
        return torch.cat([_plain(part, dtype) for part in weight.parts])
    if isinstance(weight, Packed):
        return expand(weight, dtype)
    return weight.to(dtype)


def embed(tokens: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
    if isinstance(weight, Rows):
        return _plain(weight, dtype)[tokens.long()]
    return expand(rows(weight, tokens.long()), dtype)


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, _plain(weight, x.dtype), None if bias is None else bias.to(x.dtype))


def head_linear(x: Tensor, weight: Weight) -> Tensor:
    return torch.einsum("thi,hoi->tho", x, _plain(weight, x.dtype))


def _normalized(x: Tensor, eps: float) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, zero_centred: bool = False) -> Tensor:
    y = _normalized(x, eps)
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


_GATES: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "sigmoid": torch.sigmoid}


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, activation: str) -> Tensor:
    return (_normalized(x, eps) * weight.float() * _GATES[activation](gate.float())).to(x.dtype)


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


def rope_angles(positions: Tensor, inv_freq: Tensor, scale: float = 1.0) -> Tensor:
    angles = positions.float()[:, None] * inv_freq.float()
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


def _sequences(batch: Batch) -> Iterator[tuple[int, slice, int]]:
    """(sequence, its rows, tokens whose state exists after the step)."""
    starts, lengths = batch.starts.tolist(), batch.lengths.tolist()
    for s, length in enumerate(lengths):
        yield s, slice(starts[s], starts[s + 1]), length


def _entries(pages: Tensor, batch: Batch, s: int, length: int) -> Tensor:
    """A sequence's entries in order: [length, ...]."""
    used = batch.pages[s, : -(-length // pages.shape[1])].long()
    return pages[used].flatten(0, 1)[:length]


def write(pages: Tensor, values: Tensor, batch: Batch) -> None:
    size = pages.shape[1]
    for s, span, _ in _sequences(batch):
        positions = batch.positions[span].long()
        pages[batch.pages[s].long()[positions // size], positions % size] = values[span].to(pages.dtype)


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


def _visible(positions: Tensor, length: int, window: int | None) -> Tensor:
    """bool [rows, length]: the entries that each row may see."""
    entries = torch.arange(length, device=positions.device)
    seen = entries <= positions[:, None]
    if window is not None:
        seen &= entries > positions[:, None] - window
    return seen


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
    out = q.new_empty(q.shape[0], num_heads, v_pages.shape[-1])
    for s, span, length in _sequences(batch):
        k = _entries(k_pages, batch, s, length).float().repeat_interleave(num_groups, dim=1)
        v = _entries(v_pages, batch, s, length).float().repeat_interleave(num_groups, dim=1)
        scores = torch.einsum("rhd,ehd->hre", q[span].float(), k) * scale
        scores = scores.masked_fill(~_visible(batch.positions[span], length, window), -torch.inf)
        out[span] = torch.einsum("hre,ehd->rhd", _softmax(scores, sinks), v).to(q.dtype)
    return out


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Over the last dimension of [H, rows, entries]; a sink takes part and is dropped."""
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.float()[:, None, None].expand(-1, scores.shape[1], 1)
    return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]


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
    for s, span, length in _sequences(batch):
        latent = _entries(latent_pages, batch, s, length).float()
        turned = _entries(rope_pages, batch, s, length).float()
        if selected is None:
            scores = torch.einsum("rhl,el->hre", q[span].float(), latent)
            scores += torch.einsum("rhl,el->hre", q_rope[span].float(), turned)
            scores = (scores * scale).masked_fill(~_visible(batch.positions[span], length, None), -torch.inf)
            out[span] = torch.einsum("hre,el->rhl", scores.softmax(-1), latent).to(q.dtype)
            continue
        chosen = selected[span].long()
        missing = (chosen < 0) | (chosen > batch.positions[span, None])
        latent, turned = latent[chosen.clamp(0, length - 1)], turned[chosen.clamp(0, length - 1)]
        scores = torch.einsum("rhl,rel->hre", q[span].float(), latent)
        scores += torch.einsum("rhl,rel->hre", q_rope[span].float(), turned)
        scores = (scores * scale).masked_fill(missing, -torch.inf)
        out[span] = torch.einsum("hre,rel->rhl", scores.softmax(-1), latent).to(q.dtype)
    return out


def _index_scores(q: Tensor, weights: Tensor, keys: Tensor, positions: Tensor, every: int) -> Tensor:
    """float32 [rows, entries]: the scores of entries that the rows may see, -inf for the others."""
    scores = torch.einsum("rhd,ed->rhe", q.float(), keys.float()).relu_()
    scores = torch.einsum("rhe,rh->re", scores, weights.float())
    entries = torch.arange(len(keys), device=keys.device)
    return scores.masked_fill((entries + 1) * every > positions[:, None] + 1, -torch.inf)


def _best(scores: Tensor, top_k: int) -> Tensor:
    """int32 [rows, top_k]: the largest scores' indices in ascending order, -1 where there are fewer above -inf."""
    out = torch.full((scores.shape[0], top_k), -1, dtype=torch.int32, device=scores.device)
    length = scores.shape[1]
    count = min(top_k, length)
    best = scores.sort(dim=-1, descending=True, stable=True)
    chosen = best.indices[:, :count].masked_fill(best.values[:, :count] == -torch.inf, length).sort(-1).values
    out[:, :count] = chosen.masked_fill(chosen == length, -1).int()
    return out


def select(
    q: Tensor,
    weights: Tensor,
    k_pages: Tensor,
    batch: Batch,
    top_k: int,
    every: int = 1,
    within: Tensor | None = None,
    block: int = 1,
) -> Tensor:
    out = torch.empty(q.shape[0], top_k, dtype=torch.int32, device=q.device)
    for s, span, length in _sequences(batch):
        keys = _entries(k_pages, batch, s, length // every)
        scores = _index_scores(q[span], weights[span], keys, batch.positions[span], every)
        if within is not None:
            blocks = torch.arange(len(keys), device=q.device) // block
            scores = scores.masked_fill(~(within[span, :, None] == blocks).any(1), -torch.inf)
        out[span] = _best(scores, top_k)
    return out


def select_blocks(q: Tensor, weights: Tensor, k_pages: Tensor, batch: Batch, top_k: int, every: int, block: int) -> Tensor:
    out = torch.empty(q.shape[0], top_k, dtype=torch.int32, device=q.device)
    for s, span, length in _sequences(batch):
        keys = _entries(k_pages, batch, s, length // every)
        positions = batch.positions[span]
        scores = _index_scores(q[span], weights[span], keys, positions, every)
        scores = F.pad(scores, (0, -len(keys) % block), value=-torch.inf).unflatten(-1, (-1, block)).amax(-1)
        newest = ((positions + 1) // every - 1).div(block, rounding_mode="floor")
        scores = scores.masked_fill(torch.arange(scores.shape[1], device=q.device) == newest[:, None], torch.inf)
        out[span] = _best(scores, top_k)
    return out


def attend_selected(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, batch: Batch, scale: float, selected: Tensor, every: int
) -> Tensor:
    num_groups = q.shape[1] // k_pages.shape[2]
    out = q.new_empty(*q.shape[:2], v_pages.shape[-1])
    offsets = torch.arange(every, device=q.device)
    for s, span, length in _sequences(batch):
        positions = batch.positions[span].long()
        groups = selected[span].long()
        whole = (groups[..., None] * every + offsets).flatten(1).masked_fill((groups < 0).repeat_interleave(every, 1), -1)
        rest = ((positions + 1) // every * every)[:, None] + offsets[: every - 1]
        tokens = torch.cat([whole, rest], dim=1)
        missing = (tokens < 0) | (tokens > positions[:, None])
        k, v = (_entries(pages, batch, s, length)[tokens.clamp(0, length - 1)].float() for pages in (k_pages, v_pages))
        k, v = k.repeat_interleave(num_groups, dim=2), v.repeat_interleave(num_groups, dim=2)
        scores = torch.einsum("rhd,rehd->hre", q[span].float(), k) * scale
        weights = scores.masked_fill(missing, -torch.inf).softmax(-1)
        out[span] = torch.einsum("hre,rehd->rhd", weights, v).to(q.dtype)
    return out


# --- pooled entries ---------------------------------------------------------------------------------------------------------


def pool(
    values: Tensor,
    gates: Tensor | None,
    bias: Tensor | None,
    tail: Tensor,
    batch: Batch,
    every: int,
    overlap: bool = False,
) -> Tensor:
    width, channels = tail.shape[1], values.shape[1]
    inputs = values if gates is None else torch.cat([values, gates], dim=-1)
    out = values.new_zeros(len(values), channels // 2 if overlap else channels)
    for s, span, length in _sequences(batch):
        slot, first = int(batch.slots[s]), length - (span.stop - span.start)
        before = torch.arange(first - width, first, device=values.device)
        known = torch.cat([tail[slot, before % width].to(inputs.dtype), inputs[span]])
        latest = torch.arange(length - width, length, device=values.device)
        tail[slot, latest % width] = known[-width:].to(tail.dtype)
        end = first // every * every + every - 1
        ends = torch.arange(end, max(length, end), every, device=values.device)
        positions = ends[:, None] + torch.arange(1 - width, 1, device=values.device)
        window = known[positions - (first - width)].float()
        value, gate = window[..., :channels], window[..., channels:]
        if gates is None:
            gate = torch.zeros_like(value)
        if bias is not None:
            gate = gate + bias.float()[positions % every]
        gate = gate.masked_fill(positions[..., None] < 0, -torch.inf)
        if overlap:
            value, gate = (torch.cat([x[:, :every, : channels // 2], x[:, every:, channels // 2 :]], 1) for x in (value, gate))
        out[span.start + ends - first] = (value * gate.softmax(1)).sum(1).to(values.dtype)
    return out


def write_pooled(pages: Tensor, values: Tensor, batch: Batch, every: int) -> None:
    size = pages.shape[1]
    for s, span, _ in _sequences(batch):
        positions = batch.positions[span].long()
        ends = (positions + 1) % every == 0
        entries = positions[ends] // every
        pages[batch.pages[s].long()[entries // size], entries % size] = values[span][ends].to(pages.dtype)


def attend_pooled(
    q: Tensor,
    pages: Tensor,
    pooled: Tensor | None,
    batch: Batch,
    scale: float,
    window: int,
    every: int,
    selected: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    out = torch.empty_like(q)
    for s, span, length in _sequences(batch):
        positions, rows = batch.positions[span].long(), q[span].float()
        near = positions[:, None] + torch.arange(1 - window, 1, device=q.device)
        keys = _entries(pages, batch, s, length)[near.clamp(min=0)].float()
        missing = near < 0
        count = 0 if pooled is None else length // every
        if pooled is not None and count:
            entries = _entries(pooled, batch, s, count).float()
            chosen = torch.arange(count, device=q.device).expand(len(rows), -1) if selected is None else selected[span].long()
            keys = torch.cat([keys, entries[chosen.clamp(0, count - 1)]], dim=1)
            unseen = (chosen < 0) | ((chosen + 1) * every > positions[:, None] + 1)
            missing = torch.cat([missing, unseen], dim=1)
        scores = torch.einsum("rhd,red->hre", rows, keys) * scale
        out[span] = torch.einsum("hre,red->rhd", _softmax(scores.masked_fill(missing, -torch.inf), sinks), keys).to(q.dtype)
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


def route_to(logits: Tensor, experts: Tensor, routing: Routing) -> Tensor:
    return _weights(_SCORES[routing.score](logits.float()).gather(-1, experts.long()), routing)


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
    for s, span, _ in _sequences(batch):
        slot = int(batch.slots[s])
        inputs = torch.cat([state[slot].to(x.dtype).T, x[span]])
        windows = inputs.unfold(0, width, 1).float()
        y = (windows * weight.float()).sum(-1)
        if bias is not None:
            y = y + bias.float()
        out[span] = (_GATES[activation](y) if activation else y).to(x.dtype)
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
    for s, span, _ in _sequences(batch):
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


# --- several residual streams -----------------------------------------------------------------------------------------------


def hyper_weights(
    streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor, norm_eps: float, eps: float, iterations: int
) -> tuple[Tensor, ...]:
    count = streams.shape[1]
    mixed = F.linear(_normalized(streams.flatten(1), norm_eps), fn.float())
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
    return rms_norm(streams, weight, eps, zero_centred)


def activate(x: Tensor, kind: str, scale: float = 1.0) -> Tensor:
    return _GATES[kind](x.float() * scale).to(x.dtype)


def gated_mean(streams: Tensor, gates: Tensor) -> Tensor:
    return (streams.float() * torch.sigmoid(gates.float())).mean(1).to(streams.dtype)


def stream_gate(queries: Tensor, keys: Tensor) -> Tensor:
    score = (queries.float() * keys.float()).sum(-1) * queries.shape[-1] ** -0.5
    return torch.sigmoid(score.sign() * score.abs().clamp(min=1e-6).sqrt())


def token_windows(tokens: Tensor, history: Tensor, batch: Batch) -> Tensor:
    width = history.shape[1] + 1
    out = torch.empty(len(tokens), width, dtype=torch.int64, device=tokens.device)
    for s, span, _ in _sequences(batch):
        slot = int(batch.slots[s])
        known = torch.cat([history[slot].long().flip(0), tokens[span].long() + 1])
        out[span] = known.unfold(0, width, 1).flip(1) - 1
        history[slot] = known[len(known) - width + 1 :].flip(0).to(history.dtype)
    return out


# --- choosing a token -------------------------------------------------------------------------------------------------------


def sample(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    # argmax does not promise the first of equals; the first true value of a comparison does.
    greedy = (logits == logits.amax(-1, keepdim=True)).int().argmax(-1)
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
    return torch.where(temperature > 0, reached.int().argmax(-1), greedy)


OPS = Ops(
    embed=embed,
    linear=linear,
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
    hyper_weights=hyper_weights,
    hyper_read=hyper_read,
    hyper_write=hyper_write,
    stream_norm=stream_norm,
    activate=activate,
    gated_mean=gated_mean,
    stream_gate=stream_gate,
    token_windows=token_windows,
    sample=sample,
)
