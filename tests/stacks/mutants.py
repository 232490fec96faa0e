"""Each op broken in the ways that one breaks it: what a conformance suite has to catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from parity.core.batch import Batch
from parity.stacks import reference

REF = reference.OPS


def off_by_a_page(pages: Tensor, values: Tensor, batch: Batch) -> None:
    shifted = replace(batch, positions=(batch.positions + 1).clamp(max=int(batch.lengths.max()) - 1))
    REF.write(pages, values, shifted)


def writes_beyond(pages: Tensor, values: Tensor, batch: Batch) -> None:
    REF.write(pages, values, batch)
    pages[0] = 0.0


def in_place(x: Tensor, gate: Tensor) -> Tensor:
    return x.mul_(torch.sigmoid(gate))


def without_window(*args: Any, window: int | None = None, sinks: Tensor | None = None) -> Tensor:
    return REF.attend(*args, None, sinks)


def window_one_wider(
    q: Tensor, k: Tensor, v: Tensor, batch: Batch, scale: float, window: int | None = None, sinks: Any = None
) -> Tensor:
    return REF.attend(q, k, v, batch, scale, None if window is None else window + 1, sinks)


def without_sinks(*args: Any, window: int | None = None, sinks: Tensor | None = None) -> Tensor:
    return REF.attend(*args, window)


def heads_interleaved(q: Tensor, k: Tensor, v: Tensor, batch: Batch, scale: float, *rest: Any, **options: Any) -> Tensor:
    """Head h reads k/v head h % K."""
    groups = q.shape[1] // k.shape[2]
    order = torch.arange(q.shape[1]).view(groups, -1).T.flatten()
    if "sinks" in options:
        options["sinks"] = options["sinks"][order]
    out = REF.attend(q[:, order], k, v, batch, scale, *rest, **options)
    return out[:, order.argsort()]


def not_causal_in_a_chunk(q: Tensor, k: Tensor, v: Tensor, batch: Batch, scale: float, *rest: Any, **options: Any) -> Tensor:
    last = torch.repeat_interleave(batch.lengths - 1, batch.starts.diff())
    return REF.attend(q, k, v, replace(batch, positions=last), scale, *rest, **options)


def selection_ignored(*args: Any, selected: Tensor | None = None) -> Tensor:
    return REF.attend_latent(*args[:6])


def selection_sees_ahead(
    q: Tensor, q_rope: Tensor, latent: Tensor, rope: Tensor, batch: Batch, scale: float, selected: Tensor | None = None
) -> Tensor:
    if selected is not None:
        last = torch.repeat_interleave(batch.lengths - 1, batch.starts.diff())
        batch = replace(batch, positions=last)
    return REF.attend_latent(q, q_rope, latent, rope, batch, scale, selected)


def selects_by_score(*args: Any, **options: Any) -> Tensor:
    return REF.select(*args, **options).flip(-1)


def selects_last_of_ties(q: Tensor, weights: Tensor, k_pages: Tensor, *rest: Any, **options: Any) -> Tensor:
    later = torch.linspace(0, 1e-3, k_pages.shape[1])[:, None].to(k_pages.dtype)
    return REF.select(q, weights, k_pages + later, *rest, **options)


def blocks_ignored(*args: Any, within: Tensor | None = None, block: int = 1, **options: Any) -> Tensor:
    return REF.select(*args, **options)


def bias_in_the_weights(logits: Tensor, routing: Any, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    weights, chosen = REF.route(logits, routing, bias)
    return (weights if bias is None else weights + bias[chosen.long()]), chosen


def no_groups(logits: Tensor, routing: Any, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return REF.route(logits, replace(routing, num_groups=1), bias)


def last_of_ties(logits: Tensor, routing: Any, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    weights, chosen = REF.route(logits.flip(-1), routing, None if bias is None else bias.flip(-1))
    return weights, logits.shape[-1] - 1 - chosen


def up_is_first(x: Tensor, activation: Any) -> Tensor:
    return REF.gated_activation(torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1), activation)


def weight_dropped(x: Tensor, gate_up: Any, down: Any, weights: Tensor, *rest: Any) -> Tensor:
    return REF.experts(x, gate_up, down, torch.ones_like(weights), *rest)


def wrong_slot(x: Tensor, weight: Tensor, state: Tensor, batch: Batch, **options: Any) -> Tensor:
    return REF.causal_conv(x, weight, state, replace(batch, slots=batch.slots.roll(1)), **options)


def state_not_left(x: Tensor, weight: Tensor, state: Tensor, batch: Batch, **options: Any) -> Tensor:
    return REF.causal_conv(x, weight, state.clone(), batch, **options)


def newest_first(x: Tensor, weight: Tensor, state: Tensor, batch: Batch, **options: Any) -> Tensor:
    mine = state.flip(-1).contiguous()
    out = REF.causal_conv(x, weight, mine, batch, **options)
    state.copy_(mine.flip(-1))
    return out


def decay_after_update(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, *rest: Any) -> Tensor:
    return REF.gated_delta(q, k, v, decay.roll(1, 0), *rest)


def without_norm(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return REF.gated_delta(q * 0.5 + 0.01, k, v, *rest)


def heads_tiled(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    repeats = v.shape[1] // q.shape[1]
    return REF.gated_delta(q.repeat(1, repeats, 1), k.repeat(1, repeats, 1), v, *rest)


def top_k_keeps_ties(logits: Tensor, temperature: Tensor, top_k: Tensor, *rest: Tensor) -> Tensor:
    ordered = logits.sort(-1, descending=True).values
    last = ordered.gather(1, (top_k.long() - 1).clamp(0, logits.shape[1] - 1)[:, None])
    cut = logits.masked_fill((logits < last) & (top_k > 0)[:, None], -torch.inf)
    return REF.sample(cut, temperature, torch.zeros_like(top_k), *rest)


def top_p_before_top_k(logits: Tensor, t: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    ranked = (logits / t.where(t > 0, 1.0)[:, None]).softmax(-1).sort(dim=-1, descending=True, stable=True)
    kept = ranked.values.cumsum(-1) - ranked.values < top_p[:, None]
    allowed = torch.zeros_like(kept).scatter_(1, ranked.indices, kept)
    return REF.sample(logits.masked_fill(~allowed, -torch.inf), t, top_k, torch.ones_like(top_p), min_p, uniform)


def greedy_ignored(logits: Tensor, temperature: Tensor, *rest: Tensor) -> Tensor:
    return REF.sample(logits, temperature.clamp(min=1.0), *rest)


def neighbours_leak(x: Tensor, weight: Any, bias: Tensor | None = None) -> Tensor:
    return REF.linear(x, weight, bias) + 0.02 * x.float().mean()


def packed_wrong(x: Tensor, weight: Any, bias: Tensor | None = None) -> Tensor:
    """A zero point off by one step of a four-bit format."""
    out = REF.linear(x, weight, bias)
    return out if isinstance(weight, Tensor) else out + 0.1 * x.sum(-1, keepdim=True)


def with_sum_rounded(x: Tensor, residual: Tensor, weight: Tensor, eps: float, **options: Any) -> tuple[Tensor, Tensor]:
    norm, _ = REF.add_rms_norm(x, residual, weight, eps, **options)
    return norm, residual


def off_by_one_slot(batch: Batch) -> Batch:
    return replace(batch, slots=batch.slots.roll(1))


def without(options: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}


def newest_not_kept(q: Tensor, weights: Tensor, k_pages: Tensor, batch: Batch, top_k: int, every: int, block: int) -> Tensor:
    return REF.select_blocks(
        q, weights, k_pages, replace(batch, positions=(batch.positions - 8).clamp(min=0)), top_k, every, block
    )


MUTANTS: dict[str, list[Callable[..., Any]]] = {
    "embed": [
        lambda tokens, weight, dtype: REF.embed(tokens.clamp(max=95), weight, dtype),
        lambda tokens, weight, dtype: REF.embed(tokens, weight, dtype).half(),
    ],
    "linear": [
        neighbours_leak,
        lambda x, weight, bias=None: REF.linear(x, weight),
        lambda x, weight, bias=None: REF.linear(x.nan_to_num(), weight, bias),
        lambda x, weight, bias=None: REF.linear(x.contiguous(), weight, bias).bfloat16().to(x.dtype),
    ],
    "gated_linear": [
        lambda x, weight, bias, activation: up_is_first(REF.linear(x, weight, bias), activation),
        lambda x, weight, bias, activation: REF.gated_linear(x, weight, None, activation),
        lambda x, weight, bias, activation: REF.gated_linear(x, weight, bias, replace(activation, limit=None)),
    ],
    "head_linear": [lambda x, weight: REF.head_linear(x, weight.roll(1, 0))],
    "rms_norm": [
        lambda x, weight, eps, zero_centred=False: REF.rms_norm(x, weight, eps),
        lambda x, weight, eps, zero_centred=False: REF.rms_norm(x, weight, 0.0, zero_centred),
        lambda x, weight, eps, zero_centred=False: REF.rms_norm(x, weight, 1e-5, zero_centred),
    ],
    "add_rms_norm": [
        with_sum_rounded,
        lambda x, r, weight, eps, **o: (REF.rms_norm(x, weight, eps, **o), x + r),
    ],
    "layer_norm": [lambda x, weight, bias, eps: REF.layer_norm(x - 1, weight, bias * 0, eps)],
    "gated_rms_norm": [
        lambda x, gate, weight, eps, activation: REF.gated_rms_norm(x, gate, weight, eps, "silu"),
        lambda x, gate, weight, eps, activation: REF.rms_norm(x, weight, eps) * torch.sigmoid(gate),
    ],
    "gated_activation": [
        up_is_first,
        lambda x, activation: REF.gated_activation(x, replace(activation, limit=None)),
        lambda x, activation: REF.gated_activation(x, replace(activation, kind="silu")),
    ],
    "add": [lambda a, b: a, lambda a, b: a.add_(b), lambda a, b: a + b.bfloat16().to(a.dtype)],
    "sigmoid_gate": [lambda x, gate: x * torch.sigmoid(gate.mean(-1, keepdim=True)), in_place, lambda x, gate: x * gate],
    "rope_angles": [
        lambda positions, inv_freq, scale=1.0, shift=0: REF.rope_angles(positions, inv_freq, 1.0, shift),
        lambda positions, inv_freq, scale=1.0, shift=0: REF.rope_angles(positions, inv_freq, scale),
        lambda positions, inv_freq, scale=1.0, shift=0: REF.rope_angles(positions, inv_freq.half().float(), scale, shift),
        lambda positions, inv_freq, scale=1.0, shift=0: REF.rope_angles(positions, inv_freq, scale, shift).flip(1),
    ],
    "rope": [
        lambda x, a, interleaved=False, offset=0, inverse=False: REF.rope(x, a, False, offset, inverse),
        lambda x, a, interleaved=False, offset=0, inverse=False: REF.rope(x, a, interleaved, 0, inverse),
        lambda x, a, interleaved=False, offset=0, inverse=False: REF.rope(x, a, interleaved, offset),
    ],
    "write": [off_by_a_page, writes_beyond, lambda pages, values, batch: None],
    "rope_write": [
        lambda q, k, v, a, kp, vp, b, interleaved=False, offset=0: REF.rope_write(q, k, v, a, kp, vp, b, False, offset),
        lambda q, k, v, a, kp, vp, b, **o: (REF.rope_write(q, k, v, a, kp, vp, b, **o), kp[0].zero_())[0],
        lambda q, k, v, a, kp, vp, b, **o: (REF.write(kp, k, b), REF.write(vp, v, b), REF.rope(q, a, **o))[2],
    ],
    "norm_rope_write": [
        lambda q, k, v, qw, kw, eps, z, *rest: REF.rope_write(q, k, v, *rest),
        lambda q, k, v, qw, kw, eps, z, *rest: REF.norm_rope_write(q, k, v, qw, qw, eps, z, *rest),
        lambda q, k, v, qw, kw, eps, z, *rest: REF.norm_rope_write(q, k, v, qw, kw, eps, False, *rest),
        lambda q, k, v, qw, kw, eps, z, *rest: REF.norm_rope_write(q, REF.rms_norm(k, None, eps) * 2, v, qw, kw, 1.0, z, *rest),
        lambda q, k, v, qw, kw, eps, z, *rest: REF.norm_rope_write(q, k, REF.rms_norm(v, None, eps), qw, kw, eps, z, *rest),
    ],
    "attend": [without_window, window_one_wider, without_sinks, heads_interleaved, not_causal_in_a_chunk],
    "attend_latent": [
        selection_ignored,
        selection_sees_ahead,
        lambda q, q_rope, *rest, **o: REF.attend_latent(q, torch.zeros_like(q_rope), *rest, **o),
    ],
    "select": [selects_by_score, selects_last_of_ties, blocks_ignored],
    "select_blocks": [
        newest_not_kept,
        lambda q, w, k, b, top_k, every, block: REF.select_blocks(q, w, k, b, top_k, every, block + 1),
    ],
    "attend_selected": [
        lambda q, k, v, b, scale, selected, every: REF.attend_selected(q, k, v, b, scale, selected.roll(1, 0), every),
        lambda q, k, v, b, scale, selected, every: REF.attend(q, k, v, b, scale),
    ],
    "pool": [
        lambda v, g, bias, tail, b, every, overlap=False: REF.pool(v, g, None, tail, b, every, overlap),
        lambda v, g, bias, tail, b, every, overlap=False: REF.pool(v, g, bias, tail.clone(), b, every, overlap),
        lambda v, g, bias, tail, b, every, overlap=False: REF.pool(v, g, bias, tail, off_by_one_slot(b), every, overlap),
    ],
    "write_pooled": [
        lambda pages, values, b, every: REF.write_pooled(pages, values.roll(1, 0), b, every),
        lambda pages, values, b, every: (REF.write_pooled(pages, values, b, every), pages[0].zero_())[0],
    ],
    "attend_pooled": [
        lambda q, p, pooled, b, scale, w, every, **o: REF.attend_pooled(q, p, pooled, b, scale, w + 1, every, **o),
        lambda q, p, pooled, b, scale, w, every, **o: REF.attend_pooled(
            q, p, None, b, scale, w, every, **without(o, "selected")
        ),
        lambda q, p, pooled, b, scale, w, every, **o: REF.attend_pooled(
            q, p, pooled, b, scale, w, every, **without(o, "sinks")
        ),
    ],
    "route": [
        bias_in_the_weights,
        no_groups,
        last_of_ties,
        lambda logits, routing, bias=None: REF.route(logits, replace(routing, renormalize=True), bias),
        lambda logits, routing, bias=None: REF.route(logits, replace(routing, scale=1.0), bias),
    ],
    "route_to": [
        lambda logits, tokens, table, routing: REF.route_to(logits, tokens, table.flip(-1), routing),
        lambda logits, tokens, table, routing: REF.route_to(logits, tokens, table, replace(routing, renormalize=True)),
    ],
    "experts": [weight_dropped, lambda x, g, d, w, e, a: REF.experts(x, g, d, w, e.flip(-1), a)],
    "causal_conv": [wrong_slot, state_not_left, newest_first, lambda *a, **o: REF.causal_conv(*a)],
    "delta_gates": [
        lambda a, b, a_log, dt_bias, lower_bound=None: REF.delta_gates(a, b, a_log, dt_bias),
        lambda a, b, a_log, dt_bias, lower_bound=None: REF.delta_gates(a, b, a_log, dt_bias * 0, lower_bound),
        lambda a, b, *rest, **o: (REF.delta_gates(a, b, *rest, **o)[0], b.float()),
        lambda a, b, *rest, **o: tuple(x.to(a.dtype) for x in REF.delta_gates(a.bfloat16(), b, *rest, **o)),
    ],
    "gated_delta": [
        decay_after_update,
        heads_tiled,
        without_norm,
        lambda q, k, v, d, b, s, batch, scale: REF.gated_delta(q, k, v, d, b, s.clone(), batch, scale),
    ],
    "spread": [
        lambda x, count, weights=None: REF.spread(x, count),
        lambda x, count, weights=None: REF.spread(x, count, None if weights is None else weights.flip(-1)),
    ],
    "hyper_weights": [
        lambda x, fn, base, scale, norm, eps, n: REF.hyper_weights(x, fn, base, scale, norm, eps, n + 1),
        lambda x, fn, base, scale, norm, eps, n: REF.hyper_weights(x * 2, fn, base * 0, scale, norm, eps, n),
    ],
    "hyper_read": [lambda streams, pre: REF.hyper_read(streams, pre.flip(-1)), lambda streams, pre: streams.mean(1)],
    "hyper_write": [
        lambda x, y, post, comb: REF.hyper_write(x, y, post, None if comb is None else comb.transpose(1, 2)),
        lambda x, y, post, comb: REF.hyper_write(x, y, post * 0, comb),
    ],
    "stream_norm": [lambda x, weight, eps, zero_centred=False: REF.stream_norm(x, weight[0], eps, zero_centred)],
    "activate": [
        lambda x, kind, scale=1.0, factor=1.0: REF.activate(x, kind, 1.0, factor),
        lambda x, kind, scale=1.0, factor=1.0: REF.activate(x, kind, scale),
        lambda x, kind, scale=1.0, factor=1.0: REF.activate(x, "silu", scale, factor),
    ],
    "gated_mean": [lambda x, gates: REF.gated_mean(x, gates) * x.shape[1], lambda x, gates: x.mean(1)],
    "stream_gate": [lambda q, k: torch.sigmoid((q.float() * k.float()).sum(-1) * q.shape[-1] ** -0.5)],
    "mix": [
        lambda values, norm, proj, eps: REF.mix(values[::-1], norm, proj, eps) * 0.5 + values[0] * 0.5,
        lambda values, norm, proj, eps: REF.mix(values, norm * 0 + 1, proj, eps),
    ],
    "token_windows": [
        lambda tokens, history, b, ids=None: REF.token_windows(tokens, history.clone(), b, ids),
        lambda tokens, history, b, ids=None: REF.token_windows(tokens, history, off_by_one_slot(b), ids),
        lambda tokens, history, b, ids=None: REF.token_windows(tokens, history, b),
    ],
    "hash_windows": [
        lambda w, m, p, o, fill, stop=None: REF.hash_windows(w, m, p, o, fill),
        lambda w, m, p, o, fill, stop=None: REF.hash_windows(w, m, p, o, fill + 1, stop),
        lambda w, m, p, o, fill, stop=None: REF.hash_windows(w, m, p, o.flip(-1), fill, stop),
    ],
    "gather": [
        lambda rows, parts, part_rows, dtype: REF.gather(rows.flip(-1), parts, part_rows, dtype),
        lambda rows, parts, part_rows, dtype: REF.gather(rows % part_rows, parts, part_rows, dtype),
    ],
    "sample": [
        top_k_keeps_ties,
        top_p_before_top_k,
        greedy_ignored,
        lambda logits, t, k, p, m, u: REF.sample(logits, t, k, p, torch.zeros_like(m), u),
        lambda logits, t, k, p, m, u: logits.argmax(-1),
        lambda logits, t, k, p, m, u: REF.sample(logits, t, k, p, m, 1 - u),
    ],
}
