"""The kernel table: every computation that a stack may do its own way, and the contract of each.

The reference table (`reference.py`) is the definition: an op computes what the reference computes, up to rounding. Rules
that hold for all of them:

* T is the number of rows in the batch, S of its sequences; a dimension written `...` may be any.
* A result has the dtype of the op's first tensor unless said; sums, norms, softmax and rotations are done in float32.
* Nothing is changed in place except the state arrays (`pages`, `state`), and those only at the batch's own places.
* Ties go to the lowest index.
* A row's result should not depend on the other rows in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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
    # (positions int [T], inv_freq float32 [R / 2], scale=1.0) -> float32 [T, 2, R / 2]: scaled cosines and sines
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
    # (q [T, H, D], k_pages [N, P, K, D], v_pages [N, P, K, E], batch, scale, window=None, sinks=None) -> [T, H, E]: a row at
    # position p attends to entries max(0, p - window + 1) .. p of its sequence; head h reads k/v head h // (H / K);
    # sinks [H] are logits that take part in the softmax and have no value
    attend: Callable[..., Tensor]
    # (q [T, H, L], q_rope [T, H, R], latent_pages [N, P, L], rope_pages [N, P, R], batch, scale, selected=None) -> [T, H, L]:
    # scores q . latent + q_rope . rope, values are the latents; `selected` int32 [T, M] restricts a row to those entries
    # (-1 is none) among the ones that it may see
    attend_latent: Callable[..., Tensor]
    # (q [T, H, D], weights float32 [T, H], k_pages [N, P, D], batch, top_k) -> int32 [T, top_k]: the entries e <= position
    # with the largest sum_h weights_h * relu(q_h . k_e), in ascending order of e, -1 where there are fewer
    select: Callable[..., Tensor]

    # --- experts ---------------------------------------------------------------------------------------------------------
    # (logits [T, E], routing: Routing, bias float32 [E] | None = None) -> (weights float32 [T, k], experts int32 [T, k])
    route: Callable[..., tuple[Tensor, Tensor]]
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

    # --- choosing a token ------------------------------------------------------------------------------------------------
    # (logits float32 [R, V], temperature [R], top_k int [R], top_p [R], min_p [R], uniform float32 [R]) -> int64 [R]:
    # temperature 0 takes the largest logit. Else softmax(logits / temperature), restricted by top_k, then top_p, then
    # min_p, and the first token in id order whose cumulated probability exceeds uniform * total
    sample: Callable[..., Tensor]

    def origin(self, name: str) -> str:
        """The module that an op comes from, such as `parity.stacks.reference`."""
        return str(getattr(self, name).__module__)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All ops, in the table's order."""
        return tuple(field.name for field in fields(cls))
