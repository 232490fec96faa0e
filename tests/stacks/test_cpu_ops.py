"""The cpu stack's kernels against the reference, for each instruction set that this machine runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from parity.core.weights import Packed, Rows
from parity.formats import expand, pack
from parity.stacks import reference
from parity.stacks.cpu.native import missing
from parity.stacks.ops import Activation

from .cpu_batches import ragged

if missing() is not None:
    pytest.skip(f"the cpu stack's kernels: {missing()}", allow_module_level=True)

from parity.stacks.cpu import open_stack
from parity.stacks.cpu.native import native
from parity.stacks.cpu.weights import BLOCKS, LAYOUTS

PACKED = sorted(BLOCKS)
STACK = open_stack()
OPS = STACK.ops


@pytest.fixture(autouse=True, params=native().isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native().isa()
    native().set_isa(request.param)
    yield request.param
    native().set_isa(before)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


# Where the two-byte scales of a block of 256 columns stand.
_SCALES = {"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}


def blocks(name: str, rows: int, columns: int, seed: int = 0) -> Packed:
    """A matrix of random numbers in the format; where it cannot be made from numbers, of random bytes with small scales."""
    if name not in _SCALES:
        return pack(normal(rows, columns, seed=seed, scale=0.05), name)
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (rows * columns // 256, LAYOUTS[name].bytes), generator=generator).to(torch.uint8)
    for at in _SCALES[name]:
        scales = (torch.rand(len(data), generator=generator) * 0.01).half()
        data[:, at : at + 2] = scales.view(torch.uint8).view(-1, 2)
    return Packed(name, (rows, columns), {"data": data.view(rows, -1)})


def rounding(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """How far a product may be off when each 32 activations are rounded to 127ths of their largest: [T, O].

    Each activation is off by at most half a step, so a block adds at most half a step times the sum of its weights' sizes.
    """
    steps = x.unflatten(-1, (-1, 32)).abs().amax(-1) / 127
    return steps / 2 @ weight.abs().unflatten(-1, (-1, 32)).sum(-1).T


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_packed_linear_is_the_products_of_rounded_activations(name: str, rows: int) -> None:
    weight = blocks(name, rows, 512)
    x, bias = normal(23, 512, seed=1), normal(rows, seed=2)
    plain = expand(weight)
    expected = torch.nn.functional.linear(x, plain, bias)
    got = OPS.linear(x, STACK.prepare(weight), bias)
    assert ((got - expected).abs() <= 1.001 * rounding(x, plain) + 1e-5).all()
    assert (got - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("name", PACKED)
def test_packed_linear_is_exact_where_activations_are(name: str) -> None:
    """Activations that are whole multiples of their step lose nothing: what is left is the order of float sums."""
    weight = blocks(name, 33, 256)
    x = torch.randint(-127, 128, (9, 256), generator=torch.Generator().manual_seed(3)).float()
    x[:, ::32] = 127.0
    expected = x.double() @ expand(weight).double().T
    got = OPS.linear(x, STACK.prepare(weight))
    size = x.abs().double() @ expand(weight).abs().double().T
    # A sum of n terms in float32 is off by at most n units of the sum of sizes: 8 blocks, each with a few products.
    assert ((got - expected).abs() <= 40 * 2**-24 * size + 1e-6).all()


@pytest.mark.parametrize("name", [*PACKED, "f32", "f16", "bf16"])
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    weight: Any = blocks(name, 50, 512) if name in PACKED else normal(50, 512).to(_DTYPES[name])
    weight = STACK.prepare(weight)
    x = normal(70, 512, seed=5)
    whole = OPS.linear(x, weight)
    for count in (1, 2, 3, 4, 5, 6, 7, 11, 17, 64):
        assert torch.equal(OPS.linear(x[:count], weight), whole[:count])
        assert torch.equal(OPS.linear(x[-count:], weight), whole[-count:])


_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("name", list(_DTYPES))
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 33), (16, 64), (35, 1100)])
def test_plain_linear(name: str, rows: int, columns: int) -> None:
    weight, x = normal(rows, columns).to(_DTYPES[name]), normal(70, columns, seed=1)
    expected = x.double() @ weight.double().T
    size = x.abs().double() @ weight.abs().double().T
    assert ((OPS.linear(x, weight) - expected).abs() <= (columns + 2) * 2**-24 * size).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_stays_visible(bad: float) -> None:
    weight, x = STACK.prepare(blocks("q5_0", 20, 64)), normal(9, 64)
    clean = OPS.linear(x, weight)
    x[4, 37] = bad
    got = OPS.linear(x, weight)
    assert not got[4].isfinite().any()
    assert torch.equal(got[:4], clean[:4])
    assert torch.equal(got[5:], clean[5:])


def test_rows_of_several_formats_are_one_product() -> None:
    parts = (blocks("q5_0", 24, 256), blocks("q8_0", 7, 256, seed=1), normal(5, 256, seed=2), blocks("q6_k", 20, 256, seed=3))
    x, bias = normal(8, 256, seed=4), normal(56, seed=5)
    got = OPS.linear(x, STACK.prepare(Rows(parts)), bias)
    each = torch.cat([OPS.linear(x, STACK.prepare(part)) for part in parts], dim=1) + bias
    assert torch.equal(got, each)


@pytest.mark.parametrize("name", [*PACKED, *_DTYPES])
def test_gate_up_and_activation_at_once_have_the_bits_of_one_after_the_other(name: str) -> None:
    def half(rows: int, seed: int) -> Any:
        return blocks(name, rows, 256, seed) if name in PACKED else normal(rows, 256, seed=seed).to(_DTYPES[name])

    # Two matrices, of which the last panel is not full; one that can be cut into its halves; and one that cannot, if packed.
    for weight in (Rows((half(37, 1), half(37, 2))), half(64, 3), half(74, 4)):
        prepared, bias = STACK.prepare(weight), normal(weight.shape[0], seed=5)
        for activation in (Activation(), Activation(limit=0.7), Activation("situ", beta=1.5, linear=3.0)):
            for tokens in (1, 2, 3, 4, 5, 13, 40):
                x = normal(tokens, 300, seed=6)[:, :256]
                apart = OPS.gated_activation(OPS.linear(x, prepared, bias), activation)
                assert torch.equal(OPS.gated_linear(x, prepared, bias, activation), apart)


@pytest.mark.parametrize("name", PACKED)
def test_embed_reads_rows_of_panels(name: str) -> None:
    weight = blocks(name, 45, 256)
    tokens = torch.tensor([44, 0, 17, 16, 15], dtype=torch.int32)
    got = OPS.embed(tokens, STACK.prepare(weight), torch.float32)
    torch.testing.assert_close(got, expand(weight)[tokens.long()], rtol=2**-22, atol=1e-7)


@pytest.mark.parametrize("dtype", list(_DTYPES.values()))
def test_embed_of_a_plain_weight(dtype: torch.dtype) -> None:
    weight, tokens = normal(9, 37).to(dtype), torch.tensor([8, 3, 3], dtype=torch.int32)
    assert torch.equal(OPS.embed(tokens, weight, torch.float32), weight[tokens.long()].float())


@pytest.mark.parametrize("columns", [1, 16, 40, 896])
@pytest.mark.parametrize("zero_centred", [False, True])
def test_norms(columns: int, zero_centred: bool) -> None:
    x, residual, gate = (normal(5, columns, seed=seed) for seed in range(3))
    weight, bias = normal(columns, seed=3), normal(columns, seed=4)
    close = {"rtol": 2e-6, "atol": 2e-6}
    for w in (weight, None):
        torch.testing.assert_close(
            OPS.rms_norm(x, w, 1e-6, zero_centred), reference.rms_norm(x, w, 1e-6, zero_centred), **close
        )
    got, total = OPS.add_rms_norm(x, residual, weight, 1e-6, zero_centred)
    expected, expected_total = reference.add_rms_norm(x, residual, weight, 1e-6, zero_centred)
    assert torch.equal(total, expected_total)
    torch.testing.assert_close(got, expected, **close)
    if columns > 1:
        torch.testing.assert_close(OPS.layer_norm(x, weight, bias, 1e-6), reference.layer_norm(x, weight, bias, 1e-6), **close)
    for activation in ("silu", "sigmoid"):
        torch.testing.assert_close(
            OPS.gated_rms_norm(x, gate, weight, 1e-6, activation),
            reference.gated_rms_norm(x, gate, weight, 1e-6, activation),
            **close,
        )


@pytest.mark.parametrize(
    "activation", [Activation(), Activation(limit=0.7), Activation("situ", beta=1.5, linear=3.0)], ids=["silu", "limit", "situ"]
)
@pytest.mark.parametrize("columns", [3, 16, 50])
def test_gates(activation: Activation, columns: int) -> None:
    gate_up = normal(7, 2 * columns, scale=4)
    expected = reference.gated_activation(gate_up, activation)
    torch.testing.assert_close(OPS.gated_activation(gate_up, activation), expected, rtol=4e-6, atol=4e-6)
    x, gate = gate_up.chunk(2, dim=-1)
    torch.testing.assert_close(OPS.sigmoid_gate(x, gate), reference.sigmoid_gate(x, gate), rtol=4e-6, atol=4e-6)


def test_exponentials_at_the_ends() -> None:
    """Gates of any size give finite numbers, and a NaN stays one."""
    gate_up = torch.tensor([[-1e30, -200.0, -80.0, 80.0, 200.0, 1e30, torch.nan, 0.0] + [1.0] * 8])
    got = OPS.gated_activation(gate_up, Activation())
    expected = reference.gated_activation(gate_up, Activation())
    torch.testing.assert_close(got, expected, rtol=4e-6, atol=1e-30, equal_nan=True)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("dim", "half", "offset"), [(64, 32, 0), (24, 4, 8), (10, 3, 2)])
def test_rope(interleaved: bool, inverse: bool, dim: int, half: int, offset: int) -> None:
    positions = torch.tensor([0, 1, 77, 4095], dtype=torch.int32)
    inv_freq = 10000.0 ** -(torch.arange(half) / half)
    angles = OPS.rope_angles(positions, inv_freq, 1.25)
    torch.testing.assert_close(angles, reference.rope_angles(positions, inv_freq, 1.25), rtol=0, atol=2e-7)
    x = normal(4, 3, dim)
    torch.testing.assert_close(
        OPS.rope(x, angles, interleaved, offset, inverse),
        reference.rope(x, angles, interleaved, offset, inverse),
        rtol=1e-6,
        atol=1e-6,
    )


CHUNKS = [[(0, 1)], [(0, 70)], [(3, 1), (0, 5), (130, 1), (60, 9)], [(200, 1), (63, 1), (64, 1)]]


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "k_dim", "v_dim"), [(14, 2, 64, 64), (4, 4, 24, 40), (3, 1, 16, 128)])
def test_rope_write_and_attend(chunks: list[tuple[int, int]], heads: int, kv_heads: int, k_dim: int, v_dim: int) -> None:
    batch, num_pages = ragged(chunks)
    tokens = batch.num_tokens
    qkv = normal(tokens, heads * k_dim + kv_heads * (k_dim + v_dim))
    q, k, v = qkv.split([heads * k_dim, kv_heads * k_dim, kv_heads * v_dim], dim=1)
    q, k, v = q.unflatten(1, (heads, k_dim)), k.unflatten(1, (kv_heads, k_dim)), v.unflatten(1, (kv_heads, v_dim))
    angles = reference.rope_angles(batch.positions, 10000.0 ** -(torch.arange(k_dim // 2) / (k_dim // 2)))
    pages = [(normal(num_pages, 8, kv_heads, k_dim, seed=1), normal(num_pages, 8, kv_heads, v_dim, seed=2)) for _ in range(2)]
    turned = OPS.rope_write(q, k, v, angles, *pages[0], batch)
    expected = reference.rope_write(q, k, v, angles, *pages[1], batch)
    torch.testing.assert_close(turned, expected, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(*pages, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    sinks = normal(heads, seed=3)
    for window, sink in ((None, None), (5, None), (70, sinks), (None, sinks)):
        torch.testing.assert_close(
            OPS.attend(turned, *pages[0], batch, k_dim**-0.5, window, sink),
            reference.attend(turned, *pages[0], batch, k_dim**-0.5, window, sink),
            rtol=3e-6,
            atol=3e-6,
        )


def test_attention_does_not_depend_on_chunking() -> None:
    heads, kv_heads, dim = 14, 2, 64
    whole, num_pages = ragged([(0, 150)])
    pages = normal(num_pages, 8, kv_heads, dim), normal(num_pages, 8, kv_heads, dim, seed=1)
    q = normal(150, heads, dim, seed=2)
    expected = OPS.attend(q, *pages, whole, 0.125, None, None)
    for start, count in ((0, 1), (0, 64), (63, 2), (100, 50), (149, 1)):
        part, _ = ragged([(start, count)])
        part = replace(part, pages=whole.pages)
        got = OPS.attend(q[start : start + count], *pages, part, 0.125, None, None)
        assert torch.equal(got, expected[start : start + count])


def test_unspecified_pages_are_not_read() -> None:
    """Entries past a sequence's pages may be anything, and memory outside of its length may hold NaN."""
    batch, num_pages = ragged([(5, 1), (60, 1)])
    batch.pages[0, 1:] = 2**30
    k, v = normal(num_pages, 8, 2, 16), normal(num_pages, 8, 2, 16, seed=1)
    used = {int(batch.pages[0, 0]) * 8 + e for e in range(6)} | {int(batch.pages[1, e // 8]) * 8 + e % 8 for e in range(61)}
    for entry in set(range(num_pages * 8)) - used:
        k[entry // 8, entry % 8] = v[entry // 8, entry % 8] = torch.nan
    assert OPS.attend(normal(2, 4, 16), k, v, batch, 0.25).isfinite().all()


def test_write_moves_rows_of_any_type() -> None:
    batch, num_pages = ragged([(3, 4), (0, 9)])
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        values = (normal(13, 3, 5) * 40).to(dtype)
        mine, theirs = torch.zeros(num_pages, 8, 3, 5, dtype=dtype), torch.zeros(num_pages, 8, 3, 5, dtype=dtype)
        OPS.write(mine, values, batch)
        reference.write(theirs, values, batch)
        assert torch.equal(mine, theirs)


def test_latent_attention_and_selections() -> None:
    batch, num_pages = ragged([(3, 1), (0, 5), (130, 1), (60, 9)])
    tokens, heads, latent, rope = batch.num_tokens, 40, 48, 16
    q, q_rope = normal(tokens, heads, latent), normal(tokens, heads, rope, seed=1)
    pages = normal(num_pages, 8, latent, seed=2), normal(num_pages, 8, rope, seed=3)
    generator = torch.Generator().manual_seed(4)
    selected = torch.stack([torch.randperm(200, generator=generator)[:70] - 1 for _ in range(tokens)])
    selected[:, 0] = 0  # at least one that every row may see
    for chosen in (None, selected.sort(-1).values.unique(dim=-1).int()):
        torch.testing.assert_close(
            OPS.attend_latent(q, q_rope, *pages, batch, 0.125, chosen),
            reference.attend_latent(q, q_rope, *pages, batch, 0.125, chosen),
            rtol=3e-6,
            atol=3e-6,
        )


@pytest.mark.parametrize("name", ["f32", "bf16", "q5_0", "q4_k"])
def test_experts(name: str) -> None:
    count, width, inner, rows = 6, 256, 256, 11

    def stack(out: int, columns: int, seed: int) -> Any:
        if name in _DTYPES:
            return normal(count, out, columns, seed=seed, scale=0.05).to(_DTYPES[name])
        parts = [blocks(name, out, columns, seed=seed + e) for e in range(count)]
        return Packed(name, (count, out, columns), {"data": torch.stack([part.arrays["data"] for part in parts])})

    gate_up, down = stack(2 * inner, width, 10), stack(width, inner, 20)
    x, weights = normal(rows, width), normal(rows, 3, seed=1).softmax(-1)
    chosen = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(r))[:3] for r in range(rows)]).int()
    expected = reference.experts(x, gate_up, down, weights, chosen, Activation())
    prepared = STACK.prepare(gate_up), STACK.prepare(down)
    got = OPS.experts(x, *prepared, weights, chosen, Activation())
    assert (got - expected).norm() < (1e-6 if name in _DTYPES else 0.02) * expected.norm()
    alone = OPS.experts(x[4:5], *prepared, weights[4:5], chosen[4:5], Activation())
    assert torch.equal(alone, got[4:5])


def test_recurrences() -> None:
    batch, _ = ragged([(3, 1), (0, 5), (130, 1), (60, 9)])
    tokens = batch.num_tokens
    x, weight, bias = normal(tokens, 70), normal(70, 4, seed=1), normal(70, seed=2)
    states = [normal(4, 70, 3, seed=3) for _ in range(2)]
    torch.testing.assert_close(
        OPS.causal_conv(x, weight, states[0], batch, bias), reference.causal_conv(x, weight, states[1], batch, bias)
    )
    assert torch.equal(*states)
    for width in (1, 24):
        q, k, v = normal(tokens, 2, 24), normal(tokens, 2, 24, seed=1), normal(tokens, 4, 40, seed=2)
        decay = -normal(tokens, 4, width, seed=3).abs().squeeze(-1)
        beta, memories = normal(tokens, 4, seed=4).sigmoid(), [normal(4, 4, 24, 40, seed=5) for _ in range(2)]
        got = OPS.gated_delta(q, k, v, decay, beta, memories[0], batch, 0.2)
        expected = reference.gated_delta(q, k, v, decay, beta, memories[1], batch, 0.2)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(*memories, rtol=1e-5, atol=1e-5)


def test_sampling_follows_the_reference() -> None:
    rows = 40
    logits = (normal(rows, 3000) * 3).round(decimals=1)  # with many ties
    logits[0, :] = -torch.inf
    logits[0, 77] = 1.0
    generator = torch.Generator().manual_seed(9)
    temperature = torch.rand(rows, generator=generator) * 2
    temperature[5:8] = 0
    top_k = torch.randint(-1, 60, (rows,), generator=generator).int()
    top_p, min_p, uniform = torch.rand(3, rows, generator=generator)
    top_p[::3], min_p[::2] = 1.0, 0.0
    got = OPS.sample(logits, temperature, top_k, top_p, min_p * 0.2, uniform)
    assert got.tolist() == reference.sample(logits, temperature, top_k, top_p, min_p * 0.2, uniform).tolist()
