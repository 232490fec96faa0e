"""Several residual streams."""

from __future__ import annotations

from torch import Tensor

from .. import reference_streams as reference
from .arena import empty
from .dense import linear, plain, rms_norm
from .fallback import told, usable
from .native import native


def hyper_weights(
    streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor, norm_eps: float, eps: float, iterations: int
) -> tuple[Tensor, ...]:
    if not plain(streams, fn, base, scale):
        told("hyper_weights", streams, fn)
        return reference.hyper_weights(streams, fn, base, scale, norm_eps, eps, iterations)
    tokens, count, _ = streams.shape
    mixed = linear(rms_norm(streams.flatten(1), None, norm_eps), fn)
    pre = empty(tokens, count)
    if len(fn) == count:
        native().hyper_weights(
            mixed.data_ptr(), base.data_ptr(), scale.data_ptr(), pre.data_ptr(), 0, 0, tokens, count, iterations, eps
        )
        return (pre,)
    post, comb = empty(tokens, count), empty(tokens, count, count)
    native().hyper_weights(
        mixed.data_ptr(), base.data_ptr(), scale.data_ptr(), pre.data_ptr(), post.data_ptr(), comb.data_ptr(), tokens, count,
        iterations, eps,
    )  # fmt: skip
    return pre, post, comb


def spread(x: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    if not (usable(x) and plain(weights)):
        told("spread", x)
        return reference.spread(x, count, weights)
    tokens, columns = x.shape
    out = empty(tokens, count, columns)
    factors = 0 if weights is None else weights.data_ptr()
    native().copy((x.data_ptr(), x.stride(0), count, 0), factors, out.data_ptr(), tokens * count, columns)
    return out


def hyper_read(streams: Tensor, pre: Tensor) -> Tensor:
    if not plain(streams, pre):
        told("hyper_read", streams, pre)
        return reference.hyper_read(streams, pre)
    tokens, count, columns = streams.shape
    out = empty(tokens, columns)
    native().hyper_read(streams.data_ptr(), pre.data_ptr(), out.data_ptr(), tokens, count, columns)
    return out


def hyper_write(streams: Tensor, y: Tensor, post: Tensor, comb: Tensor | None) -> Tensor:
    if not plain(streams, y, post, comb):
        told("hyper_write", streams, y)
        return reference.hyper_write(streams, y, post, comb)
    out = empty(*streams.shape)
    mixing = 0 if comb is None else comb.data_ptr()
    native().hyper_write(streams.data_ptr(), y.data_ptr(), post.data_ptr(), mixing, out.data_ptr(), *streams.shape)
    return out


def gated_mean(streams: Tensor, gates: Tensor) -> Tensor:
    if not plain(streams, gates):
        told("gated_mean", streams, gates)
        return reference.gated_mean(streams, gates)
    out = empty(streams.shape[0], streams.shape[2])
    native().gated_mean(streams.data_ptr(), gates.data_ptr(), out.data_ptr(), *streams.shape)
    return out


def stream_gate(queries: Tensor, keys: Tensor) -> Tensor:
    if not plain(queries, keys):
        told("stream_gate", queries, keys)
        return reference.stream_gate(queries, keys)
    out = empty(*queries.shape[:2])
    native().stream_gate(queries.data_ptr(), keys.data_ptr(), out.data_ptr(), *queries.shape)
    return out


def mix(values: tuple[Tensor, ...], norm: Tensor, proj: Tensor, eps: float) -> Tensor:
    if not plain(*values, norm, proj) or len(values) > native().MAX_MIXED:
        told("mix", *values)
        return reference.mix(values, norm, proj, eps)
    out = empty(*values[0].shape)
    addresses = [value.data_ptr() for value in values]
    native().mix(addresses, norm.data_ptr(), proj.data_ptr(), out.data_ptr(), *out.shape, eps)
    return out
