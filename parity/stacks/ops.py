"""The kernel table: every computation that a stack may do its own way, and the contract of each.

The reference table (`reference.py`) is the definition: an op computes what the reference computes, up to rounding. Rules
that hold for all of them:

* T is the number of rows in the batch, S of its sequences; a dimension written `...` may be any.
* A result has the dtype of the op's first tensor unless said; sums, norms, softmax and rotations are done in float32.
* Nothing is changed in place except the state arrays (`pages`, `state`), and those only at the batch's own places.
* Ties go to the lowest index.
* A row's result should not depend on the other rows in the batch.
* Pages keep numbers in a dtype of their own. In pages of int8, where a stack says that it reads them, a row of D numbers is D
  signed bytes and then a bfloat16 scale, D + 2 long; `paged.py` defines it. The shapes below count numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


_REFERENCE = "parity.stacks.reference"


@dataclass(frozen=True, slots=True)
class Activation:
    """How a gated MLP joins gate and up.

    kind `silu`: silu(g) * u; with `limit` both are clamped first: g to at most limit, u to +-limit (DeepSeek-V4).
    kind `situ`: beta * tanh(g / beta) * sigmoid(g) * linear * tanh(u / linear) (Kimi K3).
    """

    kind: str = "silu"
    limit: float | None = None
    beta: float = 0.0
    linear: float = 0.0


@dataclass(frozen=True, slots=True)
class Routing:
    """How a router turns scores into experts.

    score: `softmax`, `sigmoid` or `sqrtsoftplus`, in float32.
    num_groups, top_groups: choose experts only inside the best groups; group_score `max` or `top2` (sum of the best two).
    renormalize: divide the chosen weights by (their sum + 1e-20); then all are multiplied by `scale`.
    A bias, if given, is added for choosing only, never to the weights.
    """

    top_k: int
    score: str = "softmax"
    renormalize: bool = True
    scale: float = 1.0
    num_groups: int = 1
    top_groups: int = 1
    group_score: str = "top2"


@dataclass(frozen=True)
class Ops:
    """One stack's kernels. Make one with `dataclasses.replace(reference.OPS, rms_norm=..., attend=...)`."""

    # --- dense ---------------------------------------------------------------------------------------------------------
    # (tokens int [T], weight [V, D], dtype) -> [T, D] in dtype
    embed: Callable[..., Tensor]
    # (x [T, I], weight [O, I], bias [O] | None = None) -> [T, O]; the weight may be packed or `Rows`
    linear: Callable[..., Tensor]
    # (x [T, D], weight [2 I, D], bias [2 I] | None, activation: Activation) -> [T, I]: `gated_activation` of `linear`
    gated_linear: Callable[..., Tensor]
    # (x [T, H, I], weight [H, O, I]) -> [T, H, O]: one matrix per head
    head_linear: Callable[..., Tensor]
    # (x [..., D], weight [D] | None, eps, zero_centred=False) -> [..., D]: x / rms(x) * (weight, or 1 + weight)
    rms_norm: Callable[..., Tensor]
    # (x [T, D], residual [T, D], weight, eps, zero_centred=False) -> (norm of the sum, the sum x + residual)
    add_rms_norm: Callable[..., tuple[Tensor, Tensor]]
    # (x [..., D], weight [D], bias [D], eps) -> [..., D]
    layer_norm: Callable[..., Tensor]
    # (x [..., D], gate [..., D], weight [D], eps, activation "silu" | "sigmoid") -> x / rms(x) * weight * activation(gate)
    gated_rms_norm: Callable[..., Tensor]
    # (gate_up [..., 2 I], activation: Activation) -> [..., I]; the first half is the gate
    gated_activation: Callable[..., Tensor]
    # (a, b) of one shape -> a + b
    add: Callable[..., Tensor]
    # (x [..., D], gate [..., D] or [..., 1]) -> x * sigmoid(gate)
    sigmoid_gate: Callable[..., Tensor]

    # --- rotation ------------------------------------------------------------------------------------------------------
    # (positions int [T], inv_freq float32 [R / 2], scale=1.0, shift=0) -> float32 [T, 2, R / 2]: scaled cosines and sines of
    # positions + shift
    rope_angles: Callable[..., Tensor]
    # (x [T, H, D], angles [T, 2, R / 2], interleaved=False, offset=0, inverse=False) -> [T, H, D]: dimensions
    # offset .. offset + R rotated, pairs (i, i + R / 2), or (2 i, 2 i + 1) if interleaved; the others copied
    rope: Callable[..., Tensor]

    # --- paged state and attention ---------------------------------------------------------------------------------------
    # (pages [N, P, ...], values [T, ...], batch) -> None: row r of sequence s goes to its position in the pages of s
    write: Callable[..., None]
    # (q [T, H, D], k [T, K, D], v [T, K, E], angles, k_pages, v_pages, batch, interleaved=False, offset=0) -> rotated q
    # [T, H, D]; the rotated k and v are written to the pages
    rope_write: Callable[..., Tensor]
    # (q, k, v, q_weight [D], k_weight [D], eps, zero_centred, angles, k_pages, v_pages, batch) -> rotated q [T, H, D]:
    # `rope_write` of the `rms_norm` of each head of q and k
    norm_rope_write: Callable[..., Tensor]
    # (q [T, H, D], k_pages [N, P, K, D], v_pages [N, P, K, E], batch, scale, window=None, sinks=None) -> [T, H, E]: a row at
    # position p attends to entries max(0, p - window + 1) .. p of its sequence; head h reads k/v head h // (H / K);
    # sinks [H] are logits that take part in the softmax and have no value
    attend: Callable[..., Tensor]
    # (q [T, H, L], q_rope [T, H, R], latent_pages [N, P, L], rope_pages [N, P, R], batch, scale, selected=None) -> [T, H, L]:
    # scores q . latent + q_rope . rope, values are the latents; `selected` int32 [T, M] restricts a row to those entries
    # (-1 is none) among the ones that it may see
    attend_latent: Callable[..., Tensor]
    # (q [T, H, D], weights float32 [T, H] | None, k_pages [N, P, D], batch, top_k, every=1, within=None, block=1) -> int32
    # [T, top_k]: the entries e <= position with the largest sum_h weights_h * relu(q_h . k_e), in ascending order of e, -1
    # where there are fewer; without weights each is 1. With `every` above 1 the pages hold an entry for each group of `every`
    # tokens, and those of the groups that end at or before the position are chosen from; `within` int32 [T, B] (-1 is none)
    # restricts the choice to those blocks of `block` entries
    select: Callable[..., Tensor]
    # (q, weights, k_pages, batch, top_k, every, block) -> int32 [T, top_k]: the blocks of `block` entries whose best entry
    # scores highest, as `select` scores them, and always the newest; ascending, -1 where there are fewer
    select_blocks: Callable[..., Tensor]
    # (q [T, H, D], k_pages [N, P, K, D], v_pages [N, P, K, E], batch, scale, selected int32 [T, M], every) -> [T, H, E]: as
    # `attend`, but a row attends only to the tokens of its selected groups of `every` (-1 is none) and to those that come
    # after the last group that ends at or before its position
    attend_selected: Callable[..., Tensor]

    # --- pooled entries: one for each group of `every` tokens --------------------------------------------------------------
    # (values [T, C], gates [T, C] | None, bias float32 [every, C] | None, tail [slots, W, C or 2 C], batch, every,
    #  overlap=False) -> [T, C], or [T, C / 2] if overlapping: for a row whose position ends a group, the sum of the group's
    # values weighted, channel by channel, by the softmax of gates + bias over the group (their mean without gates); other
    # rows are unspecified. Overlapping, the first half of the channels is pooled from the group before (nothing before the
    # first) and the second half from the group itself, in one softmax over both. The tail holds values and gates of the
    # latest W = every (2 every if overlapping) tokens at their positions modulo W
    pool: Callable[..., Tensor]
    # (pages [N, P / every, ...], values [T, ...], batch, every) -> None: a row whose position p ends a group of `every` tokens
    # is written as entry p // every
    write_pooled: Callable[..., None]
    # (q [T, H, D], pages [N, P, D], pooled [N, P / every, D] | None, batch, scale, window, every, selected=None, sinks=None)
    # -> [T, H, D]: one key for all heads, which is the value too. A row attends to the latest `window` tokens up to its own,
    # and to the pooled entries of the groups that end at or before it, or to those among them in `selected` int32 [T, M]
    # (-1 is none); sinks as in `attend`
    attend_pooled: Callable[..., Tensor]

    # --- experts ---------------------------------------------------------------------------------------------------------
    # (logits [T, E], routing: Routing, bias float32 [E] | None = None) -> (weights float32 [T, k], experts int32 [T, k])
    route: Callable[..., tuple[Tensor, Tensor]]
    # (logits [T, E], tokens int32 [T], table int32 [V, k], routing) -> as `route`: the experts that stand in the table for each
    # token, in its order, with the weights that `route` would give them
    route_to: Callable[..., tuple[Tensor, Tensor]]
    # (x [T, D], gate_up [E, 2 I, D], down [E, D, I], weights [T, k], experts [T, k], activation) -> [T, D]:
    # sum over a row's experts of weight * down_e(activation(gate_up_e x)), added in order of k
    experts: Callable[..., Tensor]

    # --- recurrence (per-request state [slots, ...], read and left at the batch's slots) ------------------------------------
    # (x [T, C], weight [C, K], state [slots, C, K - 1], batch, bias=None, activation="silu" | None) -> [T, C]: depthwise causal
    # convolution; the state holds the last K - 1 inputs, oldest first
    causal_conv: Callable[..., Tensor]
    # (a [T, H] or [T, H, D], b [T, H], a_log float32 [H], dt_bias float32 like a's row, lower_bound=None) -> float32
    # (decay like a, beta like b): decay = -exp(a_log) * softplus(a + dt_bias), or with a lower bound
    # lower_bound * sigmoid(exp(a_log) * (a + dt_bias)); beta = sigmoid(b)
    delta_gates: Callable[..., tuple[Tensor, Tensor]]
    # (q [T, Hk, D], k [T, Hk, D], v [T, Hv, E], decay float32 [T, Hv] or [T, Hv, D], beta float32 [T, Hv],
    #  state float32 [slots, Hv, D, E], batch, scale) -> [T, Hv, E]: per row, with q and k divided by their L2 norms
    # (x * rsqrt(sum x^2 + 1e-6)), heads of q and k repeated to Hv:
    #  S = exp(decay) S;  S = S + k (beta (v - S^T k))^T;  out = S^T q * scale
    gated_delta: Callable[..., Tensor]

    # --- several residual streams (streams [T, N, D]) -----------------------------------------------------------------------
    # (x [T, D], count, weights [T, count] | None = None) -> [T, count, D]: each row so many times, times its weights
    spread: Callable[..., Tensor]
    # (streams, fn float32 [N (2 + N), N D] or [N, N D], base float32 [rows of fn], scale float32 [3] or [1], norm_eps, eps,
    #  iterations) -> float32 (pre [T, N], post [T, N], comb [T, N, N]), or (pre,): with m = fn (streams / rms over N D), in
    # three parts of N, N and N N: pre = sigmoid(m scale + base) + eps, post = 2 sigmoid(m scale + base), and comb =
    # softmax(m scale + base) + eps by rows, divided by its column sums + eps, then iterations - 1 times by its row sums + eps
    # and its column sums + eps
    hyper_weights: Callable[..., tuple[Tensor, ...]]
    # (streams, pre [T, N]) -> [T, D]: sum_i pre_i stream_i
    hyper_read: Callable[..., Tensor]
    # (streams, y [T, D], post [T, N], comb [T, N, N] | None) -> streams: stream_k = post_k y + sum_j comb_jk stream_j, the
    # last sum stream_k itself without comb
    hyper_write: Callable[..., Tensor]
    # (streams, weight [N, D], eps, zero_centred=False) -> [T, N, D]: `rms_norm` of each stream with its own weight
    stream_norm: Callable[..., Tensor]
    # (x [..., D], kind "silu" | "sigmoid", scale=1.0, factor=1.0) -> factor * kind(scale * x)
    activate: Callable[..., Tensor]
    # (streams, gates [T, N, D]) -> [T, D]: mean_i sigmoid(gate_i) stream_i
    gated_mean: Callable[..., Tensor]
    # (queries [T, N, D], keys [T, N, D]) -> float32 [T, N]: sigmoid(sign(s) sqrt(max(|s|, 1e-6))), s = q . k / sqrt(D)
    stream_gate: Callable[..., Tensor]
    # (values: a tuple of [T, D], norm float32 [D], proj float32 [1, D], eps) -> [T, D]: sum_i p_i values_i, p the softmax over
    # i of proj . rms_norm(values_i, norm, eps)
    mix: Callable[..., Tensor]
    # (tokens int [T], history int32 [slots, W - 1], batch, ids int32 [V] | None = None) -> int64 [T, W]: each row's token (or
    # what stands for it in ids) and the W - 1 before it, newest first, -1 where the sequence begins; the history holds a
    # sequence's latest ones + 1, newest first
    token_windows: Callable[..., Tensor]
    # (windows int64 [T, W], multipliers int64 [W], primes int64 [W - 1, n], offsets int64 [W - 1, n], fill, stop=None) -> int64
    # [T, (W - 1) n]: for i = 1 .. W - 1 the exclusive or of the latest i + 1 tokens times their multipliers, modulo primes_i,
    # plus offsets_i; a token below 0, or equal to stop and not the newest, and all before it are taken as fill
    hash_windows: Callable[..., Tensor]
    # (rows int64 [T, n], parts: a tuple of weights [R, D] on the host, part_rows, dtype) -> [T, n D]: rows of a table cut
    # into parts of part_rows each, the last one shorter
    gather: Callable[..., Tensor]

    # --- choosing a token ------------------------------------------------------------------------------------------------
    # (logits float32 [R, V], temperature [R], top_k int [R], top_p [R], min_p [R], uniform float32 [R]) -> int64 [R]:
    # temperature 0 takes the largest logit. Else softmax(logits / temperature), restricted by top_k, then top_p, then
    # min_p, and the first token in id order whose cumulated probability exceeds uniform * total. -1 where a logit is NaN or
    # +inf, or none is above -inf
    sample: Callable[..., Tensor]

    def origin(self, name: str) -> str:
        """The module that an op comes from; the plain definitions, in several files, are all `parity.stacks.reference`."""
        module = str(getattr(self, name).__module__)
        return _REFERENCE if module.startswith(_REFERENCE) else module

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All ops, in the table's order."""
        return tuple(field.name for field in fields(cls))
