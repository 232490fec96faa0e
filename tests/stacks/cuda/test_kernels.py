"""Every Triton kernel under the interpreter, held to the conformance suite on a selection of its cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parity.stacks import reference
from parity.stacks.base import Stack
from parity.stacks.check import check
from parity.stacks.cuda import table

from .interpreted import DETERMINISTIC, FAST

# A case is run whose name begins with one of these, in bfloat16, and the first of them in float32 too: the whole suite takes
# many minutes under the interpreter.
CASES: dict[str, tuple[str, ...]] = {
    "embed": ("fp8_block", "int4_group group_size 32", "int4_zero group_size 32", "mxfp4", "plain"),
    "linear": (
        *("1 x 64", "rows", "fp8_block, 1 ", "mxfp4, 33", "int8_group group_size 32, 2", "int4_group group_size 128, 33"),
        *("awq group_size 32, 2", "gptq group_size 32, 33", "gptq group_size 128 in_order 1, 2"),
    ),
    "gated_linear": ("5 x 64 -> 48, silu", "3 x 33 -> 7, situ, bias", "mxfp4, 2"),
    "rms_norm": ("(5, 896)", "(2, 3, 5, 33), zero", "(3, 2, 128), no weight", "strided", "a row of NaN", "(0, 64)", "large"),
    "add_rms_norm": ("5 x 896", "strided"),
    "layer_norm": ("(3, 2, 33)",),
    "gated_rms_norm": ("(3, 2, 33)", "strided"),
    "gated_activation": ("silu, (3", "silu to 7.0, (3", "situ, (3", "silu, ex", "silu to 7.0, ex", "situ, ex", "situ, strided"),
    "sigmoid_gate": ("(3, 2, 33)", "extremes", "strided", "one gate"),
    "rope": ("4 x 2 x 96, 32 from 64", "3 x 1 x 20", "strided"),
    "write": ("mixed, pages of 8, (33,)", "strided", "pages of another dtype"),
    "rope_write": ("decodes, pages of 16, 7/1", "beside", "pages of another"),
    "norm_rope_write": ("decodes, pages of 16, 7/1", "mixed, pages of 8, 4/2", "beside", "pages of another"),
    "attend": (
        "decodes, pages of 16, 3/1",
        "decodes, pages of 16, window and sinks",
        "a prompt, pages of 64, 6/2",
        "one token",
        "strided",
        "large scores",
        "pages of another dtype",
    ),
    "attend_latent": ("decodes, pages of 16, 5 heads", "long, pages of 16, 2 heads", "strided", "all selected"),
    "select": (
        "decodes, pages of 16, 4 heads of 64, best 8",
        "zeros of both",
        "an entry every 4",
    ),
    "select_blocks": ("mixed, best 3", "decodes, best 5", "a prompt, best 64"),
    "attend_selected": ("decodes, 4/2", "a prompt, 3/1"),
    "pool": ("decodes, 16 channels by 4", "a prompt, 33 channels by 2, overlapping", "mixed, 8 channels by 8, gates and bias"),
    "write_pooled": ("mixed, (33,) every 4", "decodes, (2, 16) every 2"),
    "attend_pooled": ("decodes, 4 heads of 32, window 8", "a prompt, 3 heads of 24, window 1, every 2, selected"),
    "route": ("softmax, 7", "sigmoid, groups, 7", "softmax, groups by max, 3", "sqrtsoftplus, 3", "sigmoid, groups, all"),
    "route_to": ("softmax", "sigmoid", "sqrtsoftplus"),
    "experts": ("9 rows, 3 of 6, silu", "33 rows", "5 rows, 8 of 16", "all to the same", "mxfp4, ", "awq group_size 32, 1 "),
    "causal_conv": ("mixed, pages of 8", "decodes", "strided"),
    "delta_gates": ("(9, 3, 33)", "(9, 5)", "extremes"),
    "gated_delta": ("a prompt, pages of 64, 1/1", "decodes, pages of 16, 1/2"),
    "hyper_weights": ("7 x 4 x 65", "one iteration"),
    "hyper_read": ("7 x 4 x 65",),
    "hyper_write": ("3 x 2 x 16",),
    "stream_norm": ("7 x 4 x 65",),
    "activate": ("silu, (3", "sigmoid, (3", "silu, ex"),
    "gated_mean": ("7 x 4 x 65",),
    "stream_gate": ("7 x 4 x 65", "zeros"),
    "mix": ("4 of 7 x 65", "1 of 2 x 8", "9 of 5 x 64"),
    "token_windows": ("mixed, 4", "decodes, 2"),
    "sample": ("mixed rows, 5", "all three, 5", "masked, 5", "only one allowed, 1", "ties", "zeros", "a row", "the ends"),
}
COPIES = ("sample", "select", "select_blocks", "write", "write_pooled", "route", "route_to", "rope_write", "token_windows")
"""Ops that round nothing, or whose kernels do not depend on the dtype."""

INVARIANT = {
    "linear": ("17 x 130 -> 65", "int4_group group_size 32, 33 x 64"),
    "head_linear": ("7 x 3 heads",),
    "rms_norm": ("(5, 896)",),
    "add_rms_norm": ("5 x 896",),
    "attend": ("mixed, pages of 8, 2/2", "decodes, pages of 16, window 4"),
    "attend_latent": ("mixed, pages of 8, 2 heads",),
    "attend_selected": ("decodes, 4/2",),
    "attend_pooled": ("decodes, 4 heads of 32, window 8, every 4, sinks",),
    "hyper_weights": ("7 x 4 x 65, 24",),
    "experts": ("9 rows, 3 of 6, silu",),
    "causal_conv": ("mixed, pages of 8, 8 x 4",),
    "gated_delta": ("mixed, pages of 16, 1/1",),
    "route": ("softmax, 7 x 64",),
    "sample": ("all three, 1", "ties at the last of top-p"),
}


def run(stack: Stack, op: str, begins: tuple[str, ...], dtype: torch.dtype, rows_alone: bool = False) -> bool | None:
    report = check(stack, ops=[op], dtypes=[dtype], only=lambda _, name: name.startswith(begins), rows_alone=rows_alone)
    assert report.ok, report.failures
    assert report.rows[0].num_cases >= len(begins)
    return report.rows[0].invariant


def test_every_kernel_of_the_table_has_cases() -> None:
    own = {op for op in table.OPS.names() if table.OPS.origin(op).startswith("parity.stacks.cuda")}
    assert own == set(CASES)
    noted = {op for op in table.OPS.names() if op not in own}
    assert noted <= set(table.NOTES) <= set(table.OPS.names())
    own = {op for op in table.OPS.names() if getattr(table.DETERMINISTIC, op) is not getattr(table.OPS, op)}
    assert own <= set(table.DETERMINISTIC_NOTES)


@pytest.mark.parametrize("op", CASES)
def test_in_bfloat16(op: str) -> None:
    run(FAST, op, CASES[op], torch.bfloat16)


@pytest.mark.parametrize("op", [op for op in CASES if op not in COPIES])
def test_in_float32(op: str) -> None:
    run(FAST, op, CASES[op][:1], torch.float32)


@pytest.mark.parametrize("op", INVARIANT)
def test_deterministic_rows_do_not_depend_on_their_batch(op: str) -> None:
    assert run(DETERMINISTIC, op, INVARIANT[op], torch.bfloat16, rows_alone=True) is True


def test_deterministic_attention_does_not_depend_on_how_a_prompt_is_cut() -> None:
    """A prompt at once and its last token alone give that token the same bits; so does the delta rule."""
    from parity.stacks.check.case import Make, alone

    make = Make(torch.bfloat16)
    whole = make.batch(((0, 21),), 8)
    last = replace(
        alone(whole, 0),
        tokens=whole.tokens[-1:],
        positions=whole.positions[-1:],
        starts=torch.tensor([0, 1], dtype=torch.int32),
        host_starts=(0, 1),
    )
    k, v = (make.pages(whole, make.normal(21, 1, 2, 32)) for _ in range(2))
    q = make.normal(21, 4, 32)
    together = table.DETERMINISTIC.attend(q, k, v, whole, 0.2)[-1:]
    assert torch.equal(table.DETERMINISTIC.attend(q[-1:], k, v, last, 0.2), together)
    x, weight = make.normal(21, 24), make.normal(24, 4)
    states = [torch.zeros(4, 24, 3, dtype=torch.bfloat16) for _ in range(2)]
    together = table.DETERMINISTIC.causal_conv(x, weight, states[0], whole)[-1:]
    states[1][whole.slots.long()] = x[17:20].T[None]
    assert torch.equal(table.DETERMINISTIC.causal_conv(x[-1:], weight, states[1], last), together)
    assert torch.equal(*states)


def test_pairs_are_ordered_by_expert_and_then_as_they_came() -> None:
    from parity.stacks.cuda.kernels import experts

    chosen = torch.randint(0, 9, (40, 4), generator=torch.Generator().manual_seed(0)).int()
    for repeats in (1, 8):  # in one step of the kernel, and in several
        order, starts = experts._ordered(chosen.repeat(repeats, 1), 10)
        assert torch.equal(order, chosen.repeat(repeats, 1).flatten().sort(stable=True).indices.int())
        assert starts.diff().tolist() == [repeats * count for count in torch.bincount(chosen.flatten(), minlength=10).tolist()]


def test_sampling_over_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of four programs, one row at a time; some rows have more candidates than are gathered and are searched whole."""
    from parity.stacks.cuda.kernels import sample

    monkeypatch.setattr(sample, "_PIECE", 16)
    monkeypatch.setattr(sample, "_CANDIDATES", 16)
    monkeypatch.setattr(sample, "_WORKSPACE", 8 * 16)
    run(FAST, "sample", ("all, 5", "top-p, 5", "all three, 5", "masked, 5"), torch.bfloat16)


@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"top_k": 300, "top_p": 0.95, "min_p": 0.01}, {}])
def test_a_large_vocabulary_is_sampled_as_the_reference_does(options: dict[str, float]) -> None:
    """From cold, where most tokens weigh nothing, to hot; tokens at -inf among them."""
    from parity.stacks.check.sampling import arguments

    dice = torch.Generator().manual_seed(7)
    logits = 3.0 * torch.randn(4, 12_000, generator=dice)
    logits[:, ::3] = -torch.inf
    heat = torch.tensor([0.05, 0.6, 1.0, 1.7])
    args = arguments(logits, (torch.arange(4) + 0.37) / 4, temperature=heat, **options).values()
    assert torch.equal(table.OPS.sample(*args), reference.OPS.sample(*args))
