"""Cases of the dense ops, the rotations, the experts and the choice of a token."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...core.weights import Packed, Rows
from ..ops import Activation, Routing
from .case import Args, Case, Make
from .tolerance import Tolerance
from .weights import by_rows, weights

_F32 = torch.float32


def embed(make: Make) -> Iterator[Case]:
    tokens = torch.tensor([3, 0, 3, 96, 7], dtype=torch.int32)
    plain = make.normal(97, 40)
    yield Case("plain", {"tokens": tokens, "weight": plain, "dtype": make.dtype}, equal=True, rows=("tokens",))
    yield Case("one row", {"tokens": tokens[:1], "weight": plain, "dtype": make.dtype}, equal=True)
    yield Case("int64 tokens", {"tokens": tokens.long(), "weight": plain, "dtype": make.dtype}, equal=True)
    yield Case("no rows", {"tokens": tokens[:0], "weight": plain, "dtype": make.dtype}, equal=True)
    for label, weight in weights(make, 97, 96):
        if by_rows(label.split()[0]):
            yield Case(label, {"tokens": tokens, "weight": weight, "dtype": make.dtype}, rows=("tokens",))


def linear(make: Make) -> Iterator[Case]:
    args: Args
    for t, i, o in ((1, 64, 48), (5, 64, 48), (3, 33, 7), (1, 1, 1), (17, 130, 65), (40, 256, 96), (0, 64, 48)):
        args = {"x": make.normal(t, i), "weight": make.normal(o, i, std=i**-0.5)}
        yield Case(f"{t} x {i} -> {o}", args, tolerance=Tolerance(i, 2), rows=("x",))
        yield Case(f"{t} x {i} -> {o}, bias", args | {"bias": make.normal(o)}, tolerance=Tolerance(i, 2), rows=("x",))
    x, weight = make.normal(5, 64), make.normal(48, 64, std=0.125)
    yield Case("float32 bias", {"x": x, "weight": weight, "bias": make.normal(48, dtype=_F32)}, tolerance=Tolerance(64, 3))
    yield Case("strided", {"x": make.strided(x), "weight": make.strided(weight)}, tolerance=Tolerance(64, 2))
    poisoned = x.clone()
    poisoned[2] = torch.nan
    yield Case("a row of NaN", {"x": poisoned, "weight": weight}, tolerance=Tolerance(64, 2))
    parts = Rows((make.normal(9, 64), make.normal(32, 64), make.normal(7, 64)))
    yield Case("rows", {"x": x, "weight": parts, "bias": make.normal(48)}, tolerance=Tolerance(64, 2), rows=("x",))
    for height, width in ((48, 64), (131, 256)):
        mixed: list[torch.Tensor | Packed] = [make.normal(3, 256)]
        for label, weight_ in weights(make, height, width):
            rule = Tolerance(width, 2, eight_bit=1)
            for t in (0, 1, 2, 33):
                args = {"x": make.normal(t, weight_.shape[1]), "weight": weight_}
                yield Case(f"{label}, {t} x {width} -> {height}", args, tolerance=rule, rows=("x",))
            args["bias"] = make.normal(weight_.shape[0])
            yield Case(f"{label}, bias", args, tolerance=rule, rows=("x",))
            if weight_.shape[1] == 256:
                mixed.append(weight_)
        if len(mixed) > 1:
            args = {"x": make.normal(4, 256), "weight": Rows(tuple(mixed[:4]))}
            yield Case("rows of several formats", args, tolerance=Tolerance(256, 2, eight_bit=1), rows=("x",))


def gated_linear(make: Make) -> Iterator[Case]:
    rows = ("x",)
    for t, d, i in ((1, 64, 48), (5, 64, 48), (3, 33, 7), (17, 130, 65), (0, 64, 48)):
        for activation in _ACTIVATIONS[: 1 if t > 5 else 3]:
            label = f"{t} x {d} -> {i}, {activation.kind}{'' if activation.limit is None else ' limited'}"
            args: Args = {"x": make.normal(t, d), "weight": make.normal(2 * i, d, std=2 * d**-0.5)}
            rule = Tolerance(2 * d, 4)
            for bias in (None, make.normal(2 * i)):
                name = label if bias is None else f"{label}, bias"
                yield Case(name, args | {"bias": bias, "activation": activation}, tolerance=rule, rows=rows)
    args = {"x": make.strided(make.normal(5, 64)), "weight": make.normal(32, 64, std=0.25), "bias": None}
    yield Case("strided", args | {"activation": Activation()}, tolerance=Tolerance(128, 4))
    for one, two in zip(weights(make, 37, 256), weights(make, 37, 256), strict=True):
        both = Rows((one[1], two[1]))
        for t in (1, 2, 18):
            args = {"x": make.normal(t, 256), "weight": both, "bias": make.normal(both.shape[0]), "activation": Activation()}
            yield Case(f"{one[0]}, {t} rows", args, tolerance=Tolerance(512, 4, eight_bit=2), rows=rows)


def head_linear(make: Make) -> Iterator[Case]:
    for t, h, i, o in ((1, 2, 32, 16), (7, 3, 20, 33), (19, 4, 128, 64)):
        args = {"x": make.normal(t, h, i), "weight": make.normal(h, o, i, std=i**-0.5)}
        yield Case(f"{t} x {h} heads x {i} -> {o}", args, tolerance=Tolerance(i, 2), rows=("x",))
    args = {"x": make.strided(make.normal(5, 3, 32)), "weight": make.normal(3, 16, 32, std=0.2)}
    yield Case("strided", args, tolerance=Tolerance(32, 2))


def rms_norm(make: Make) -> Iterator[Case]:
    for shape in ((1, 8), (5, 896), (3, 2, 128), (2, 3, 5, 33), (4, 1), (0, 64)):
        x, weight = make.normal(*shape), make.normal(shape[-1], dtype=_F32)
        rule = Tolerance(shape[-1], 2)
        yield Case(f"{shape}", {"x": x, "weight": weight, "eps": 1e-6}, tolerance=rule, rows=("x",))
        zero = {"zero_centred": True}
        yield Case(f"{shape}, zero-centred", {"x": x, "weight": weight, "eps": 1e-5}, zero, rule, rows=("x",))
        yield Case(f"{shape}, no weight", {"x": x, "weight": None, "eps": 1e-6}, tolerance=rule, rows=("x",))
    x, weight = make.normal(4, 3, 64), make.normal(64)
    rule = Tolerance(64, 2)
    yield Case("weight in the compute dtype", {"x": x, "weight": weight, "eps": 1e-6}, tolerance=rule)
    yield Case("strided", {"x": make.strided(x), "weight": weight, "eps": 1e-6}, tolerance=rule)
    yield Case("zeros", {"x": torch.zeros_like(x), "weight": weight, "eps": 1e-6}, tolerance=rule)
    yield Case("large", {"x": make.normal(3, 64, std=3000.0), "weight": weight, "eps": 1e-6}, tolerance=rule)
    yield Case("small", {"x": make.normal(3, 64, std=1e-4), "weight": weight, "eps": 1e-6}, tolerance=rule)
    poisoned = x.clone()
    poisoned[2, 1] = torch.nan
    yield Case("a row of NaN", {"x": poisoned, "weight": weight, "eps": 1e-6}, tolerance=rule)


def add_rms_norm(make: Make) -> Iterator[Case]:
    args: Args
    for t, d in ((1, 8), (5, 896), (3, 33)):
        args = {"x": make.normal(t, d), "residual": make.normal(t, d, std=4.0), "weight": make.normal(d, dtype=_F32)}
        # The sum is rounded to the dtype before it is normed: an error of that rounding is passed on.
        rule, rows = Tolerance(d, 3), ("x", "residual")
        yield Case(f"{t} x {d}", args | {"eps": 1e-6}, tolerance=rule, rows=rows)
        yield Case(f"{t} x {d}, zero-centred", args | {"eps": 1e-5}, {"zero_centred": True}, rule, rows=rows)
    args = {"x": make.normal(4, 32), "residual": make.strided(make.normal(4, 32)), "weight": make.normal(32), "eps": 1e-6}
    yield Case("strided", args, tolerance=Tolerance(32, 3))


def layer_norm(make: Make) -> Iterator[Case]:
    for shape in ((1, 8), (5, 128), (3, 2, 33)):
        args = {"x": make.normal(*shape) + 1, "weight": make.normal(shape[-1]), "bias": make.normal(shape[-1]), "eps": 1e-6}
        yield Case(f"{shape}", args, tolerance=Tolerance(shape[-1], 2), rows=("x",))


def gated_rms_norm(make: Make) -> Iterator[Case]:
    args: Args
    for shape in ((1, 8), (5, 4, 128), (3, 2, 33)):
        for activation in ("silu", "sigmoid"):
            args = {"x": make.normal(*shape), "gate": make.normal(*shape, std=3.0)}
            args |= {"weight": make.normal(shape[-1], dtype=_F32), "eps": 1e-6, "activation": activation}
            yield Case(f"{shape}, {activation}", args, tolerance=Tolerance(shape[-1], 2), rows=("x", "gate"))
    args = {"x": make.strided(make.normal(3, 4, 16)), "gate": make.strided(make.normal(3, 4, 16)), "weight": make.normal(16)}
    yield Case("strided", args | {"eps": 1e-6, "activation": "silu"}, tolerance=Tolerance(16, 2))


_ACTIVATIONS = (Activation(), Activation(limit=7.0), Activation("situ", beta=4.0, linear=25.0))


def gated_activation(make: Make) -> Iterator[Case]:
    for activation in _ACTIVATIONS:
        label = activation.kind if activation.limit is None else f"{activation.kind} to {activation.limit}"
        for shape in ((1, 2), (5, 96), (3, 2, 66), (0, 16)):
            x = make.normal(*shape, std=6.0)
            # float32's exp and tanh cost a few ulps more than a product.
            rule = Tolerance(16, 1)
            yield Case(f"{label}, {shape}", {"gate_up": x, "activation": activation}, tolerance=rule, rows=("gate_up",))
        extreme = torch.tensor([[-200.0, -90.0, 0.0, 90.0, 200.0, 1.0, -3.0, 0.0, 9.0, -40.0]]).to(make.dtype)
        yield Case(f"{label}, extremes", {"gate_up": extreme, "activation": activation}, tolerance=Tolerance(16, 1))
        args = {"gate_up": make.strided(make.normal(3, 32)), "activation": activation}
        yield Case(f"{label}, strided", args, tolerance=Tolerance(16, 1))


def add(make: Make) -> Iterator[Case]:
    for shape in ((1, 1), (5, 96), (3, 2, 33), (0, 8)):
        args = {"a": make.normal(*shape), "b": make.normal(*shape, std=3.0)}
        # Two terms that may cancel: exact but for the one rounding.
        yield Case(f"{shape}", args, tolerance=Tolerance(1, 1), rows=("a", "b"))
    args = {"a": make.normal(4, 3, 16), "b": make.strided(make.normal(4, 3, 16))}
    yield Case("strided", args, tolerance=Tolerance(1, 1))


def delta_gates(make: Make) -> Iterator[Case]:
    for shape in ((1, 2), (9, 5), (1, 2, 8), (9, 3, 33)):
        for bound in (None, -5.0):
            args = {"a": make.normal(*shape, std=3.0), "b": make.normal(*shape[:2], std=3.0)}
            args |= {"a_log": make.normal(shape[1], dtype=_F32), "dt_bias": make.normal(*shape[1:], dtype=_F32)}
            label, options = f"{shape}, lower bound {bound}", {} if bound is None else {"lower_bound": bound}
            yield Case(label, args, options, Tolerance(64, 1), rows=("a", "b"), result=_F32)
    args["a"] = torch.tensor([-80.0, -30.0, 0.0, 30.0, 80.0, 200.0]).to(make.dtype)[:, None, None].expand(6, 3, 33)
    args["b"] = torch.tensor([-90.0, -20.0, 0.0, 20.0, 90.0, 200.0]).to(make.dtype)[:, None].expand(6, 3)
    yield Case("extremes", args, tolerance=Tolerance(64, 1), result=_F32)


def sigmoid_gate(make: Make) -> Iterator[Case]:
    for shape in ((1, 1), (5, 96), (3, 2, 33)):
        args = {"x": make.normal(*shape), "gate": make.normal(*shape, std=5.0)}
        yield Case(f"{shape}", args, tolerance=Tolerance(16, 1), rows=("x", "gate"))
    args = {"x": make.normal(4, 3, 16), "gate": make.normal(4, 3, 1)}
    yield Case("one gate a row", args, tolerance=Tolerance(16, 1), rows=("x", "gate"))
    gate = torch.tensor([[-300.0, -60.0, 0.0, 60.0, 300.0]]).to(make.dtype)
    yield Case("extremes", {"x": make.normal(1, 5), "gate": gate}, tolerance=Tolerance(16, 1))
    args = {"x": make.normal(4, 3, 16), "gate": make.strided(make.normal(4, 3, 16))}
    yield Case("strided", args, tolerance=Tolerance(16, 1))


def rope_angles(make: Make) -> Iterator[Case]:
    for width, top in ((2, 10), (64, 60), (128, 4000), (64, 200_000)):
        positions = make.integers(0, top, 9)
        inv_freq = 10000.0 ** (-torch.arange(0, width, 2) / width)
        # The angle is a float32 product: its error, and so the cosine's, grows with it.
        rule = Tolerance(1 + top * top, 1)
        args = {"positions": positions, "inv_freq": inv_freq}
        yield Case(f"{width} dims to {top}", args, tolerance=rule, rows=("positions",), result=_F32)
        yield Case(f"{width} dims to {top}, scaled", args, {"scale": 1.25}, rule, rows=("positions",), result=_F32)
        yield Case(f"{width} dims to {top}, shifted", args, {"shift": -3}, rule, rows=("positions",), result=_F32)


def angles(make: Make, positions: torch.Tensor, width: int) -> torch.Tensor:
    """Cosines and sines float32 [T, 2, width / 2], as `rope_angles` makes them."""
    turns = positions.float()[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([turns.cos(), turns.sin()], dim=1)


def rope(make: Make) -> Iterator[Case]:
    shapes = ((1, 1, 8, 8, 0), (5, 3, 64, 64, 0), (4, 2, 96, 32, 0), (4, 2, 96, 32, 64), (3, 1, 20, 6, 8))
    for t, h, d, width, offset in shapes:
        for interleaved in (False, True):
            for inverse in (False, True):
                turns = angles(make, make.integers(0, 5000, t), width)
                options = {"interleaved": interleaved, "offset": offset, "inverse": inverse}
                label = f"{t} x {h} x {d}, {width} from {offset}{', interleaved' * interleaved}{', inverse' * inverse}"
                args = {"x": make.normal(t, h, d), "angles": turns}
                yield Case(label, args, options, Tolerance(2, 1), rows=("x", "angles"))
    args = {"x": make.strided(make.normal(4, 3, 32)), "angles": angles(make, make.integers(0, 99, 4), 32)}
    yield Case("strided", args, tolerance=Tolerance(2, 1))


ROUTINGS = {
    "softmax": Routing(3),
    "softmax, raw": Routing(2, renormalize=False),
    "sigmoid, groups": Routing(4, "sigmoid", scale=2.5, num_groups=4, top_groups=2),
    "softmax, groups by max": Routing(3, "softmax", False, 16.0, 4, 1, "max"),
    "sqrtsoftplus": Routing(4, "sqrtsoftplus", scale=1.5),
    "one": Routing(1),
}


def route(make: Make) -> Iterator[Case]:
    for label, routing in ROUTINGS.items():
        for t, e in ((1, 16), (7, 64), (3, 24)):
            # Distinct, well apart, so that no rounding changes the choice.
            order = torch.rand(t, e, generator=make.generator).argsort(-1)
            logits = ((order - e // 2) * (8 / e)).to(make.dtype)
            args = {"logits": logits, "routing": routing}
            rule = Tolerance(e, 1)
            yield Case(f"{label}, {t} x {e}", args, tolerance=rule, rows=("logits",), result=_F32)
            bias = {"bias": torch.arange(e).roll(5) * 0.25}
            yield Case(f"{label}, {t} x {e}, bias", args | bias, tolerance=rule, rows=("logits",), result=_F32)
        ties = {"logits": torch.zeros(2, 16, dtype=make.dtype), "routing": routing}
        yield Case(f"{label}, all equal", ties, tolerance=Tolerance(16, 1), result=_F32)
        pairs = torch.arange(16).div(4, rounding_mode="floor").to(make.dtype)[None]
        yield Case(f"{label}, equal in fours", {"logits": pairs, "routing": routing}, tolerance=Tolerance(16, 1), result=_F32)
    extreme = torch.tensor([[-150.0, 150.0, 0.0, 40.0, -40.0, 149.0, 1.0, 2.0]]).to(make.dtype)
    for score in ("softmax", "sigmoid", "sqrtsoftplus"):
        args = {"logits": extreme, "routing": Routing(2, score)}
        if score != "sigmoid":  # sigmoids of 149 and 150 are both 1
            yield Case(f"{score}, extremes", args, tolerance=Tolerance(16, 1), result=_F32)


def route_to(make: Make) -> Iterator[Case]:
    for label, routing in ROUTINGS.items():
        for t, e in ((1, 16), (7, 64)):
            table = torch.rand(11, e, generator=make.generator).argsort(-1)[:, : routing.top_k].int().contiguous()
            args = {"logits": make.normal(t, e, std=2.0), "tokens": make.integers(0, 11, t), "table": table, "routing": routing}
            yield Case(f"{label}, {t} x {e}", args, tolerance=Tolerance(e, 1), rows=("logits", "tokens"), result=_F32)


def routed(make: Make, t: int, e: int, k: int) -> Args:
    order = torch.rand(t, e, generator=make.generator).argsort(-1)[:, :k].int()
    return {"weights": make.uniform(t, k), "experts": order}


def experts(make: Make) -> Iterator[Case]:
    args: Args
    for t, d, i, e, k in ((1, 32, 16, 4, 2), (9, 48, 40, 6, 3), (33, 64, 32, 3, 1), (5, 32, 33, 16, 8)):
        for activation in _ACTIVATIONS[: 1 if t > 9 else 3]:
            args = {"x": make.normal(t, d), "gate_up": make.normal(e, 2 * i, d, std=2 * d**-0.5)}
            args |= {"down": make.normal(e, d, i, std=i**-0.5)} | routed(make, t, e, k)
            label = f"{t} rows, {k} of {e}, {activation.kind}{'' if activation.limit is None else ' limited'}"
            rule = Tolerance(d + i, 4)
            yield Case(label, args | {"activation": activation}, tolerance=rule, rows=("x", "weights", "experts"))
    args["experts"] = torch.full_like(args["experts"], 2).scatter_(1, torch.tensor([[0]]), 1)[:, :2].contiguous()
    args["weights"] = args["weights"][:, :2].contiguous()
    yield Case("all to the same", args | {"activation": Activation()}, tolerance=Tolerance(65, 4))
    yield from _packed_experts(make)


def _packed_experts(make: Make) -> Iterator[Case]:
    for name in sorted(make.formats):
        inner = 256 if name.endswith("_k") else 128  # the super-blocks of GGUF's K types are 256 wide
        one = Make(make.dtype, frozenset({name}))
        ups, downs = weights(one, 2 * inner, 256, 4), weights(one, 256, inner, 4)
        for (label, gate_up), (_, down) in zip(ups, downs, strict=True):
            yield from _some_rows(make, label, gate_up, down)


def _some_rows(make: Make, label: str, gate_up: torch.Tensor | Packed, down: torch.Tensor | Packed) -> Iterator[Case]:
    for t in (1, 20):
        args: Args = {"x": make.normal(t, 256), "gate_up": gate_up, "down": down}
        args |= routed(make, t, 4, 2) | {"activation": Activation()}
        rule = Tolerance(512, 4, eight_bit=2)
        yield Case(f"{label}, {t} rows", args, tolerance=rule, rows=("x", "weights", "experts"))
