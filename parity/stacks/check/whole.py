"""Cases whose results are known to the last bit: whole numbers and powers of two, on which every correct kernel agrees.

Every partial sum is representable in float32, so the order of a sum does not matter. Where an op has a function that libraries
round differently, the numbers stand where it is exact: norms see rows of one size, a power of two; softmax sees equal scores,
a power of two of them, or one that is far ahead; sigmoid and its kin see 0, or so much that they are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from ..ops import Activation, Routing
from . import dense, pooled, sampling, stateful, streams, whole_state
from .case import Args, Case, Make
from .whole_make import GATES, Whole, quarters


def _norms(make: Whole) -> Iterator[Case]:
    for shape in ((3, 8), (5, 2, 64), (2, 256)):
        for options in ({}, {"zero_centred": True}):
            args: Args = {"x": make.even(*shape), "weight": make.grid(shape[-1]), "eps": 1e-30}
            yield Case(f"{shape}, {options}", args, options)
        yield Case(f"{shape}, no weight", {"x": make.even(*shape), "weight": None, "eps": 1e-30})


def _add_norms(make: Whole) -> Iterator[Case]:
    for t, d in ((3, 8), (5, 256)):
        x = make.grid(t, d)
        args = {"x": x, "residual": make.even(t, d) - x, "weight": make.grid(d), "eps": 1e-30}
        yield Case(f"{t} x {d}", args)
        yield Case(f"{t} x {d}, zero-centred", args, {"zero_centred": True})


def _gated_norms(make: Whole) -> Iterator[Case]:
    for activation in ("silu", "sigmoid"):
        for shape in ((3, 8), (5, 4, 64)):
            args: Args = {"x": make.even(*shape), "gate": make.one_of(GATES, *shape), "weight": make.grid(shape[-1])}
            yield Case(f"{shape}, {activation}", args | {"eps": 1e-30, "activation": activation})


def _gated_activations(make: Whole) -> Iterator[Case]:
    kinds = (
        (Activation(), GATES),
        (Activation(limit=128.0), GATES),
        (Activation("situ", beta=4.0, linear=25.0), (0.0, -1e4, 1e4)),
    )
    for activation, gates in kinds:
        up = make.one_of((0.0, 1e4, -1e4), 5, 32) if activation.kind == "situ" else make.grid(5, 32)
        args = {"gate_up": torch.cat([make.one_of(gates, 5, 32), up], dim=-1), "activation": activation}
        yield Case(f"{activation}", args)


def _gated_linear(make: Whole) -> Iterator[Case]:
    unit = (-1.0, 0.0, 1.0)
    for t, d, i in ((1, 32, 16), (9, 64, 40)):
        x = make.one_of(unit, t, d)
        x[:, 0] = 1.0
        gate = torch.zeros(i, d)
        gate[:, 0] = make.one_of((0.0, 128.0, -256.0), i)
        weight = torch.cat([gate, make.one_of(unit, i, d)])
        for bias in (None, torch.cat([torch.zeros(i), make.grid(i)])):
            label = f"{t} x {d} -> {i}{'' if bias is None else ', bias'}"
            yield Case(label, {"x": x, "weight": weight, "bias": bias, "activation": Activation()})


def _sigmoid_gates(make: Whole) -> Iterator[Case]:
    for gate in ((5, 3, 32), (5, 3, 1)):
        yield Case(f"{gate}", {"x": make.grid(5, 3, 32), "gate": make.one_of(GATES, *gate)})


def _rope_angles(make: Whole) -> Iterator[Case]:
    for options in ({}, {"scale": 2.0}, {"shift": -3}):
        args = {"positions": make.integers(0, 4000, 9), "inv_freq": torch.zeros(8)}
        yield Case(f"no turn, {options}", args, options)
    yield Case("position 0", {"positions": torch.zeros(3, dtype=torch.int32), "inv_freq": make.grid(8)})


def _rope(make: Whole) -> Iterator[Case]:
    for t, h, d, width, offset in ((5, 3, 64, 64, 0), (4, 2, 96, 32, 64), (3, 1, 20, 6, 8)):
        for interleaved in (False, True):
            for inverse in (False, True):
                options = {"interleaved": interleaved, "offset": offset, "inverse": inverse}
                yield Case(f"{width} of {d}, {options}", {"x": make.grid(t, h, d), "angles": quarters(make, t, width)}, options)


def _route(make: Whole) -> Iterator[Case]:
    far = make.generator
    order = torch.rand(6, 16, generator=far).argsort(-1).float()
    yield Case("one", {"logits": order * 1024, "routing": Routing(1)})
    yield Case("softmax, raw", {"logits": order * 1024, "routing": Routing(2, renormalize=False, scale=2.5)})
    yield Case("softmax, equal", {"logits": torch.zeros(3, 16), "routing": Routing(4)})
    yield Case("sigmoid, bias", {"logits": torch.full((3, 16), 128.0), "routing": Routing(4, "sigmoid"), "bias": order[0]})
    halves = Routing(4, "sigmoid", renormalize=False, scale=2.5, num_groups=4, top_groups=2)
    yield Case("sigmoid, groups", {"logits": make.one_of(GATES, 6, 16), "routing": halves})
    roots = make.one_of((64.0, 256.0, 1024.0), 6, 16)
    yield Case("sqrtsoftplus", {"logits": roots, "routing": Routing(4, "sqrtsoftplus", renormalize=False)})


def _route_to(make: Whole) -> Iterator[Case]:
    table = torch.rand(11, 16, generator=make.generator).argsort(-1)[:, :4].int().contiguous()
    for routing, logits in (
        (Routing(4), torch.zeros(7, 16)),
        (Routing(4, "sigmoid", renormalize=False), make.one_of(GATES, 7, 16)),
    ):
        yield Case(routing.score, {"logits": logits, "tokens": make.integers(0, 11, 7), "table": table, "routing": routing})


def _experts(make: Whole) -> Iterator[Case]:
    unit = (-1.0, 0.0, 1.0)
    for t, d, i, e, k in ((1, 32, 16, 4, 2), (9, 48, 40, 6, 3)):
        x = make.one_of(unit, t, d)
        x[:, 0] = 1.0
        gate = torch.zeros(e, i, d)
        gate[..., 0] = make.one_of((0.0, 128.0, -256.0), e, i)
        args: Args = {
            "x": x,
            "gate_up": torch.cat([gate, make.one_of(unit, e, i, d)], dim=1),
            "down": make.one_of(unit, e, d, i),
        }
        yield Case(f"{t} rows, {k} of {e}", args | dense.routed(make, t, e, k) | {"activation": Activation()})


def _delta_gates(make: Whole) -> Iterator[Case]:
    for shape in ((9, 5), (9, 3, 16)):
        args = {"a": make.one_of((256.0, -256.0), *shape), "b": make.one_of(GATES, *shape[:2])}
        args |= {"a_log": torch.zeros(shape[1]), "dt_bias": make.one_of((0.0, 128.0), *shape[1:])}
        yield Case(f"{shape}", args)
        yield Case(f"{shape}, lower bound", args | {"a": make.one_of((0.0, 512.0, -512.0), *shape)}, {"lower_bound": -4.0})


def _hyper_weights(make: Whole) -> Iterator[Case]:
    for t, n, d in ((3, 4, 32), (5, 2, 16)):
        rows = n * (2 + n)
        fn = make.one_hot(256.0, rows, n * d)
        fn[2 * n :] = 0.0
        base = torch.cat([make.one_of((0.0, 1024.0, -1024.0), 2 * n), torch.zeros(n * n)])
        streams_ = make.one_of((-1.0, 1.0), t, n, d) * make.one_of((0.5, 4.0), t, 1, 1)
        args: Args = {"streams": streams_, "fn": fn, "base": base, "scale": torch.ones(3)}
        yield Case(f"{t} x {n} x {d}", args | {"norm_eps": 1e-30, "eps": 0.0, "iterations": 20})


def _stream_norm(make: Whole) -> Iterator[Case]:
    for options in ({}, {"zero_centred": True}):
        yield Case(f"{options}", {"streams": make.even(7, 4, 64), "weight": make.grid(4, 64), "eps": 1e-30}, options)


def _activate(make: Whole) -> Iterator[Case]:
    for kind in ("silu", "sigmoid"):
        for options in ({}, {"scale": 0.5, "factor": 2.0}):
            yield Case(f"{kind}, {options}", {"x": make.one_of((0.0, 256.0, 1024.0, -1024.0), 5, 96), "kind": kind}, options)


def _gated_mean(make: Whole) -> Iterator[Case]:
    for n in (2, 4):
        yield Case(f"{n} streams", {"streams": make.grid(5, n, 32), "gates": make.one_of(GATES, 5, n, 32)})


def _stream_gate(make: Whole) -> Iterator[Case]:
    keys = make.one_of((-64.0, 64.0), 5, 4, 16)
    yield Case("full", {"queries": keys * make.one_of((-1.0, 0.0, 1.0), 5, 4, 1), "keys": keys})


def _mix(make: Whole) -> Iterator[Case]:
    proj = torch.zeros(1, 16)
    proj[0, 0] = 256.0
    for n in (1, 4, 9):
        values = torch.stack([make.even(5, 16) for _ in range(n)])
        values[..., 0] = -values[..., 0].abs()
        values[make.integers(0, n, 5).long(), torch.arange(5), 0] *= -1
        yield Case(f"one of {n}", {"values": tuple(values), "norm": make.one_of((1.0,), 16), "proj": proj, "eps": 1e-30})
    args = {"values": tuple(make.grid(5, 16) for _ in range(4)), "norm": torch.zeros(16), "proj": proj, "eps": 1e-6}
    yield Case("all alike", args)


def _sample(make: Whole) -> Iterator[Case]:
    uniform = (make.integers(0, 8, 5).float() + 0.5) / 8
    equal, four = torch.zeros(5, 32), make.integers(0, 4, 5, 40).float() * 512
    yield Case("greedy", sampling.arguments(four, uniform, temperature=0.0))
    yield Case("equal", sampling.arguments(equal, uniform, temperature=2.0))
    yield Case("equal, top-k", sampling.arguments(equal, uniform, top_k=8))
    yield Case("masked", sampling.arguments(equal.masked_fill(torch.arange(32) % 4 != 1, -torch.inf), uniform))


def _as_random(cases: Callable[[Make], Iterator[Case]]) -> Callable[[Whole], Iterator[Case]]:
    """The cases of the suite with whole numbers, for ops that only move, add and multiply."""
    return lambda make: cases(make)


WHOLE: Mapping[str, Callable[[Whole], Iterator[Case]]] = {
    "embed": _as_random(dense.embed),
    "linear": _as_random(dense.linear),
    "gated_linear": _gated_linear,
    "head_linear": _as_random(dense.head_linear),
    "rms_norm": _norms,
    "add_rms_norm": _add_norms,
    "gated_rms_norm": _gated_norms,
    "gated_activation": _gated_activations,
    "add": _as_random(dense.add),
    "sigmoid_gate": _sigmoid_gates,
    "rope_angles": _rope_angles,
    "rope": _rope,
    "write": _as_random(stateful.write),
    "rope_write": whole_state.rope_write,
    "norm_rope_write": whole_state.norm_rope_write,
    "attend": whole_state.attend,
    "attend_latent": whole_state.attend_latent,
    "select": _as_random(stateful.select),
    "select_blocks": _as_random(pooled.select_blocks),
    "attend_selected": whole_state.attend_selected,
    "pool": whole_state.pool,
    "write_pooled": _as_random(pooled.write_pooled),
    "attend_pooled": whole_state.attend_pooled,
    "route": _route,
    "route_to": _route_to,
    "experts": _experts,
    "causal_conv": whole_state.causal_conv,
    "delta_gates": _delta_gates,
    "gated_delta": whole_state.gated_delta,
    "spread": _as_random(streams.spread),
    "hyper_weights": _hyper_weights,
    "hyper_read": _as_random(streams.hyper_read),
    "hyper_write": _as_random(streams.hyper_write),
    "stream_norm": _stream_norm,
    "activate": _activate,
    "gated_mean": _gated_mean,
    "stream_gate": _stream_gate,
    "mix": _mix,
    "token_windows": _as_random(streams.token_windows),
    "hash_windows": _as_random(streams.hash_windows),
    "gather": _as_random(streams.gather),
    "sample": _sample,
}
"""Op to the function that builds its cases of whole numbers."""

NOT_WHOLE: Mapping[str, str] = {
    "layer_norm": "libraries take the mean and the variance by running updates, which divide by every count on the way",
}
"""The ops on which correct kernels need not agree to the last bit, whatever the numbers, and why."""
