"""The short causal convolution before linear attention, with its tail of earlier inputs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.batch import Batch
from .common import inner, kernel, power, sigmoid, take_turn

_ACTIVATIONS = {None: 0, "sigmoid": 1, "silu": 2}


@triton.jit
def _finish(y, bias, c, has, BIAS: tl.constexpr, ACTIVATION: tl.constexpr):
    if BIAS:
        y += tl.load(bias + c, mask=has, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == 1:
        y = sigmoid(y)
    if ACTIVATION == 2:
        y = y * sigmoid(y)
    return y


@kernel
def _convolve(
    x, weight, state, bias, out, starts, slots, num_rows, num_sequences, channels, x_s, w_c, s_slot, s_c, s_k,
    WIDTH: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Rows of a prompt: inputs before the chunk come from the state, which stays as it is."""
    take_turn()
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    valid, has = row < num_rows, c < channels
    s = tl.arange(0, BLOCK_S)
    ends = tl.load(starts + 1 + s, mask=s < num_sequences, other=2147483647)
    sequence = tl.minimum(tl.sum((ends[None, :] <= row[:, None]).to(tl.int32), axis=1), num_sequences - 1)
    offset = row - tl.load(starts + sequence)
    slot = tl.load(slots + sequence).to(tl.int64)
    mask = valid[:, None] & has[None, :]
    y = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for tap in tl.static_range(WIDTH):
        back = WIDTH - 1 - tap
        in_chunk = (offset >= back)[:, None]
        at = (row - back).to(tl.int64)[:, None] * x_s + c[None, :]
        value = tl.load(x + at, mask=mask & in_chunk, other=0.0)
        at = slot[:, None] * s_slot + c[None, :].to(tl.int64) * s_c + (offset + tap)[:, None] * s_k
        before = tl.load(state + at, mask=mask & ~in_chunk, other=0.0).to(x.dtype.element_ty)
        value = tl.where(in_chunk, value, before).to(tl.float32)
        y += value * tl.load(weight + c * w_c + tap, mask=has, other=0.0).to(tl.float32)[None, :]
    y = _finish(y, bias, c, has, BIAS, ACTIVATION)
    tl.store(out + row[:, None].to(tl.int64) * channels + c[None, :], y.to(out.dtype.element_ty), mask=mask)


@kernel
def _leave(
    x, state, starts, slots, channels, x_s, s_slot, s_c, s_k,
    WIDTH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The last inputs of each sequence into its state."""
    take_turn()
    s = tl.program_id(0)
    c = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)[:, None]
    k = tl.arange(0, BLOCK_K)[None, :]
    start = tl.load(starts + s)
    count = tl.load(starts + s + 1) - start
    here = state + tl.load(slots + s).to(tl.int64) * s_slot + c * s_c
    if count > 0:
        mask = (c < channels) & (k < WIDTH - 1)
        index = count - (WIDTH - 1) + k
        new = tl.load(x + (start + index).to(tl.int64) * x_s + c, mask=mask & (index >= 0), other=0.0)
        old = tl.load(here + (k + count) * s_k, mask=mask & (index < 0), other=0.0)
        value = tl.where(index >= 0, new.to(old.dtype), old)
        tl.debug_barrier()  # a neighbour may still read what is written here
        tl.store(here + k * s_k, value, mask=mask)


@kernel
def _step(
    x, weight, state, bias, out, slots, channels, x_s, w_c, s_slot, s_c, s_k,
    WIDTH: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One row of each sequence: its output, and the state moved on by one."""
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    has = channel < channels
    c, k = channel.to(tl.int64)[:, None], tl.arange(0, BLOCK_K)[None, :]
    here = state + tl.load(slots + row).to(tl.int64) * s_slot + c * s_c
    new = tl.load(x + row * x_s + c, mask=c < channels, other=0.0)
    old = tl.load(here + k * s_k, mask=(c < channels) & (k < WIDTH - 1), other=0.0)
    window = tl.where(k == WIDTH - 1, new, old.to(new.dtype))
    # Tap by tap, in the order of `_convolve`: the same sum to the last bit.
    y = tl.zeros([1, BLOCK_C], tl.float32)
    for tap in tl.static_range(WIDTH):
        value = tl.sum(tl.where(k == tap, window.to(tl.float32), 0.0), axis=1)
        y += (value * tl.load(weight + channel * w_c + tap, mask=has, other=0.0).to(tl.float32))[None, :]
    y = _finish(y, bias, channel, has, BIAS, ACTIVATION)
    tl.store(out + row * channels + channel[None, :], y.to(out.dtype.element_ty), mask=has[None, :])
    tl.debug_barrier()  # a neighbour may still read what is written here
    tl.store(here + (k - 1) * s_k, window.to(old.dtype), mask=(c < channels) & (k > 0) & (k < WIDTH))


def causal_conv(
    x: Tensor, weight: Tensor, state: Tensor, batch: Batch, bias: Tensor | None = None, activation: str | None = "silu"
) -> Tensor:
    (num_rows, channels), width = x.shape, weight.shape[-1]
    out = torch.empty(num_rows, channels, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    x, weight, kind = inner(x), weight.contiguous(), _ACTIVATIONS[activation]
    sequences, block_k = batch.lengths.shape[0], power(width)
    block_c = min(power(channels), 256)
    columns = triton.cdiv(channels, block_c)
    shared = (x.stride(0), weight.stride(0), *state.stride())
    some = x if bias is None else bias
    if num_rows == sequences:
        _step[(num_rows, columns)](
            x, weight, state, some, out, batch.slots, channels, *shared, width, bias is not None, kind, block_c, block_k
        )
        return out
    block_r, block_c = 16, min(block_c, 64)
    _convolve[(triton.cdiv(num_rows, block_r), triton.cdiv(channels, block_c))](
        x, weight, state, some, out, batch.starts, batch.slots, num_rows, sequences, channels, *shared,
        width, bias is not None, kind, block_r, block_c, power(sequences, 16),
    )  # fmt: skip
    _leave[(sequences, triton.cdiv(channels, block_c))](
        x, state, batch.starts, batch.slots, channels, x.stride(0), *state.stride(), width, block_c, block_k
    )
    return out
