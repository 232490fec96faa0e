"""The plain definitions of the ops that choose entries, pool them from groups of tokens, and attend to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.batch import Batch
from .paged import entries_at, entries_of, row_size, sequences, softmax, stored


def _index_scores(q: Tensor, weights: Tensor | None, keys: Tensor, positions: Tensor, every: int) -> Tensor:
    """float32 [rows, entries]: the scores of entries that the rows may see, -inf for the others."""
    scores = torch.einsum("rhd,ed->rhe", q.float(), keys.float()).relu_()
    scores = scores.sum(1) if weights is None else torch.einsum("rhe,rh->re", scores, weights.float())
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
    weights: Tensor | None,
    k_pages: Tensor,
    batch: Batch,
    top_k: int,
    every: int = 1,
    within: Tensor | None = None,
    block: int = 1,
) -> Tensor:
    out = torch.empty(q.shape[0], top_k, dtype=torch.int32, device=q.device)
    for s, span, length in sequences(batch):
        keys = entries_of(k_pages, batch, s, length // every)
        scores = _index_scores(q[span], _rows(weights, span), keys, batch.positions[span], every)
        if within is not None:
            blocks = torch.arange(len(keys), device=q.device) // block
            scores = scores.masked_fill(~(within[span, :, None] == blocks).any(1), -torch.inf)
        out[span] = _best(scores, top_k)
    return out


def _rows(x: Tensor | None, span: slice) -> Tensor | None:
    return None if x is None else x[span]


def select_blocks(
    q: Tensor, weights: Tensor | None, k_pages: Tensor, batch: Batch, top_k: int, every: int, block: int
) -> Tensor:
    out = torch.empty(q.shape[0], top_k, dtype=torch.int32, device=q.device)
    for s, span, length in sequences(batch):
        keys = entries_of(k_pages, batch, s, length // every)
        positions = batch.positions[span]
        scores = _index_scores(q[span], _rows(weights, span), keys, positions, every)
        scores = F.pad(scores, (0, -len(keys) % block), value=-torch.inf).unflatten(-1, (-1, block)).amax(-1)
        newest = ((positions + 1) // every - 1).div(block, rounding_mode="floor")
        scores = scores.masked_fill(torch.arange(scores.shape[1], device=q.device) == newest[:, None], torch.inf)
        out[span] = _best(scores, top_k)
    return out


def attend_selected(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, batch: Batch, scale: float, selected: Tensor, every: int
) -> Tensor:
    num_groups = q.shape[1] // k_pages.shape[2]
    out = q.new_empty(*q.shape[:2], row_size(v_pages))
    offsets = torch.arange(every, device=q.device)
    for s, span, length in sequences(batch):
        positions = batch.positions[span].long()
        groups = selected[span].long()
        whole = (groups[..., None] * every + offsets).flatten(1).masked_fill((groups < 0).repeat_interleave(every, 1), -1)
        rest = ((positions + 1) // every * every)[:, None] + offsets[: every - 1]
        tokens = torch.cat([whole, rest], dim=1)
        missing = (tokens < 0) | (tokens > positions[:, None])
        k, v = (entries_at(pages, batch, s, tokens.clamp(0, length - 1)).float() for pages in (k_pages, v_pages))
        k, v = k.repeat_interleave(num_groups, dim=2), v.repeat_interleave(num_groups, dim=2)
        scores = torch.einsum("rhd,rehd->hre", q[span].float(), k) * scale
        weights = scores.masked_fill(missing, -torch.inf).softmax(-1)
        out[span] = torch.einsum("hre,rehd->rhd", weights, v).to(q.dtype)
    return out


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
    for s, span, length in sequences(batch):
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
    for s, span, _ in sequences(batch):
        positions = batch.positions[span].long()
        ends = (positions + 1) % every == 0
        entries = positions[ends] // every
        pages[batch.pages[s].long()[entries // size], entries % size] = stored(values[span][ends], pages.dtype)


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
    for s, span, length in sequences(batch):
        positions, rows = batch.positions[span].long(), q[span].float()
        near = positions[:, None] + torch.arange(1 - window, 1, device=q.device)
        keys = entries_at(pages, batch, s, near.clamp(min=0)).float()
        missing = near < 0
        count = 0 if pooled is None else length // every
        if pooled is not None and count:
            chosen = torch.arange(count, device=q.device).expand(len(rows), -1) if selected is None else selected[span].long()
            keys = torch.cat([keys, entries_at(pooled, batch, s, chosen.clamp(0, count - 1)).float()], dim=1)
            unseen = (chosen < 0) | ((chosen + 1) * every > positions[:, None] + 1)
            missing = torch.cat([missing, unseen], dim=1)
        scores = torch.einsum("rhd,red->hre", rows, keys) * scale
        out[span] = torch.einsum("hre,red->rhd", softmax(scores.masked_fill(missing, -torch.inf), sinks), keys).to(q.dtype)
    return out
