"""The cpu stack's pages of every type, and attention over long contexts, for each instruction set of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from parity.core.batch import Batch
from parity.stacks import reference
from parity.stacks.cpu.native import missing
from parity.stacks.paged import numbers, stored

from .cpu_batches import ragged

if missing() is not None:
    pytest.skip(f"the cpu stack's kernels: {missing()}", allow_module_level=True)

from parity.stacks.cpu import open_stack
from parity.stacks.cpu.native import native

OPS = open_stack().ops
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)
CHUNKS = [(3, 1), (0, 5), (130, 1), (60, 9)]


@pytest.fixture(autouse=True, params=native().isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native().isa()
    native().set_isa(request.param)
    yield request.param
    native().set_isa(before)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [1, 16, 40])
def test_what_is_written_is_what_the_reference_writes(dtype: torch.dtype, dim: int) -> None:
    batch, num_pages = ragged(CHUNKS)
    values = normal(batch.num_tokens, 3, dim) * 10.0 ** torch.arange(-6, batch.num_tokens - 6)[:, None, None]
    values[2], values[3, 1, 0], values[4, 0, 0] = 0.0, torch.nan, torch.inf
    pages = [stored(normal(num_pages, 8, 3, dim, seed=1), dtype) for _ in range(2)]
    OPS.write(pages[0], values, batch)
    reference.write(pages[1], values, batch)
    found, expected = (numbers(one).float() for one in pages)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_rotated_key_is_kept_as_it_is_written_alone(dtype: torch.dtype) -> None:
    batch, num_pages = ragged(CHUNKS)
    q, k, v = normal(batch.num_tokens, 4, 24), normal(batch.num_tokens, 2, 24, seed=1), normal(batch.num_tokens, 2, 40, seed=2)
    angles = reference.rope_angles(batch.positions, 10000.0 ** -(torch.arange(8) / 8))
    pages = [[stored(torch.zeros(num_pages, 8, 2, dim), dtype) for dim in (24, 40)] for _ in range(2)]
    turned = OPS.rope_write(q, k, v, angles, *pages[0], batch, False, 4)
    OPS.write(pages[1][0], OPS.rope(k, angles, False, 4), batch)
    OPS.write(pages[1][1], v, batch)
    assert torch.equal(turned, OPS.rope(q, angles, False, 4))
    for together, alone in zip(*pages, strict=True):
        assert torch.equal(together.view(torch.uint8), alone.view(torch.uint8))


def kept(batch: Batch, num_pages: int, heads: int, dim: int, dtype: torch.dtype, seed: int) -> Tensor:
    return stored(normal(num_pages, batch.page_size, heads, dim, seed=seed), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_over_pages_of_a_type(dtype: torch.dtype) -> None:
    batch, num_pages = ragged(CHUNKS)
    q = normal(batch.num_tokens, 6, 40, seed=3)
    pages = kept(batch, num_pages, 2, 40, dtype, 1), kept(batch, num_pages, 2, 24, dtype, 2)
    for window, sinks in ((None, None), (5, normal(6, seed=4))):
        got = OPS.attend(q, *pages, batch, 0.2, window, sinks)
        expected = reference.attend(q, *pages, batch, 0.2, window, sinks)
        torch.testing.assert_close(got, expected, rtol=3e-6, atol=3e-6)
    q_rope = normal(batch.num_tokens, 6, 16, seed=5)
    latent = kept(batch, num_pages, 1, 40, dtype, 6).squeeze(2), kept(batch, num_pages, 1, 16, dtype, 7).squeeze(2)
    selected = torch.stack([torch.arange(0, 60, 3)] * batch.num_tokens).int()
    for chosen in (None, selected):
        got = OPS.attend_latent(q, q_rope, *latent, batch, 0.2, chosen)
        expected = reference.attend_latent(q, q_rope, *latent, batch, 0.2, chosen)
        torch.testing.assert_close(got, expected, rtol=3e-6, atol=3e-6)


LONG = 1337  # three segments of entries


@pytest.fixture
def threads() -> Iterator[None]:
    before = native().threads()
    yield
    native().set_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("window", [None, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8], ids=str)
def test_threads_and_batches_share_a_long_context_without_a_trace(window: int | None, dtype: torch.dtype) -> None:
    whole, num_pages = ragged([(0, LONG)])
    pages = kept(whole, num_pages, 1, 16, dtype, 0), kept(whole, num_pages, 1, 24, dtype, 1)
    q, sinks = normal(LONG, 3, 16, seed=2), normal(3, seed=3)
    native().set_threads(1)
    alone = OPS.attend(q, *pages, whole, 0.25, window, sinks)
    torch.testing.assert_close(alone, reference.attend(q, *pages, whole, 0.25, window, sinks), rtol=5e-6, atol=5e-6)
    native().set_threads(3)
    for start, count in ((LONG - 1, 1), (1024, 1), (1023, 1), (511, 2), (LONG - 4, 4), (500, 40)):
        part, _ = ragged([(start, count)])
        part = replace(part, pages=whole.pages)
        rows = slice(start, start + count)
        assert torch.equal(OPS.attend(q[rows], *pages, part, 0.25, window, sinks), alone[rows])


@pytest.mark.usefixtures("threads")
def test_threads_share_a_long_selection_without_a_trace() -> None:
    batch, num_pages = ragged([(1500, 1), (900, 2)])
    latent, rope = normal(num_pages, 8, 32, seed=1), normal(num_pages, 8, 8, seed=2)
    q, q_rope = normal(3, 5, 32, seed=3), normal(3, 5, 8, seed=4)
    selected = torch.arange(700).repeat(3, 1).int()
    selected[1, 100:640] = -1  # nothing in one whole segment
    results = []
    for count in (1, 3):
        native().set_threads(count)
        results.append(OPS.attend_latent(q, q_rope, latent, rope, batch, 0.2, selected))
    assert torch.equal(*results)
    expected = reference.attend_latent(q, q_rope, latent, rope, batch, 0.2, selected)
    torch.testing.assert_close(results[0], expected, rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pooled_and_chosen_entries_of_a_type(dtype: torch.dtype) -> None:
    batch, num_pages = ragged(CHUNKS)
    rows, every = batch.num_tokens, 4
    entries = [stored(torch.zeros(num_pages, 2, 24), dtype) for _ in range(2)]
    values = normal(rows, 24)
    OPS.write_pooled(entries[0], values, batch, every)
    reference.OPS.write_pooled(entries[1], values, batch, every)
    assert torch.equal(entries[0].view(torch.uint8), entries[1].view(torch.uint8))
    tokens, pooled = kept(batch, num_pages, 1, 24, dtype, 1).squeeze(2), stored(normal(num_pages, 2, 24, seed=2), dtype)
    q, weights, sinks = normal(rows, 3, 24, seed=3), normal(rows, 3, seed=4), normal(3, seed=5)
    chosen = OPS.select(q, weights, pooled, batch, 5, every)
    assert torch.equal(chosen, reference.OPS.select(q, weights, pooled, batch, 5, every))
    close = {"rtol": 3e-6, "atol": 3e-6}
    args = (q, tokens, pooled, batch, 0.2, 6, every, chosen, sinks)
    torch.testing.assert_close(OPS.attend_pooled(*args), reference.OPS.attend_pooled(*args), **close)
    pages = kept(batch, num_pages, 1, 24, dtype, 1), kept(batch, num_pages, 1, 40, dtype, 6)
    got = OPS.attend_selected(q, *pages, batch, 0.2, chosen, every)
    torch.testing.assert_close(got, reference.OPS.attend_selected(q, *pages, batch, 0.2, chosen, every), **close)
