"""Rows, pages, slots and experts farther apart than 32 bits can count: offsets have to be computed in 64 before they overflow.

The numbers of a case are moved into a file with holes, so far apart that the last row is past 2^31 elements while the stride
itself still fits 32 bits. An offset that wraps around reads zeros before the first row, which the file has too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

from parity.core.weights import Packed
from parity.stacks.base import Stack
from parity.stacks.check import check

from .interpreted import FAST

_LIMIT = 2**31
_ROOM = 1 << 26  # bytes for one argument's first row
_MOST_ARGUMENTS = 16


class Holes:
    """A file of zeros with holes, and the arguments of one call in it."""

    def __init__(self, path: Path) -> None:
        self._bytes = torch.from_numpy(np.memmap(path, np.uint8, "w+", shape=(8 * _LIMIT + _MOST_ARGUMENTS * _ROOM,)))
        self.moved = 0

    def far(self, x: Tensor) -> Tensor:
        """The same numbers with rows far apart."""
        if x.ndim < 2 or len(x) < 3 or x.dtype.itemsize > 4:
            return x
        stride = (_LIMIT // (len(x) - 1) + 16) // 16 * 16
        assert stride < _LIMIT < (len(x) - 1) * stride
        begin = (_LIMIT * x.dtype.itemsize + self.moved * _ROOM) // x.dtype.itemsize
        far = self._bytes.view(x.dtype).as_strided(x.shape, (stride, *x[0].contiguous().stride()), begin)
        far.copy_(x)
        self.moved += 1
        assert self.moved <= _MOST_ARGUMENTS
        return far

    def op(self, op: Callable[..., Any]) -> Callable[..., Any]:
        """The op on far arguments; what it left in them is brought back."""

        def move(value: Any, pairs: list[tuple[Tensor, Tensor]]) -> Any:
            if isinstance(value, Packed):
                arrays = {role: move(array, pairs) for role, array in value.arrays.items()}
                return Packed(value.format, value.shape, arrays, value.meta)
            if isinstance(value, list | tuple):
                return tuple(move(one, pairs) for one in value)
            if not isinstance(value, Tensor):
                return value
            pairs.append((value, self.far(value)))
            return pairs[-1][1]

        def run(*args: Any, **options: Any) -> Any:
            pairs: list[tuple[Tensor, Tensor]] = []
            self.moved = 0
            moved = {name: move(value, pairs) for name, value in options.items()}
            result = op(*[move(value, pairs) for value in args], **moved)
            assert self.moved, "no argument has rows to be moved apart"
            for value, far in pairs:
                value.copy_(far)
            return result

        return run


@pytest.fixture(scope="module")
def holes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holes]:
    path = tmp_path_factory.mktemp("far") / "holes"
    yield Holes(path)
    path.unlink()


CASES = {
    "linear": ("fp8_block, 33", "int4_group group_size 32, 33"),
    "rms_norm": ("(5, 896)",),
    "add_rms_norm": ("5 x 896",),
    "gated_activation": ("silu, (3",),
    "rope": ("4 x 2 x 96, 32 from 64",),
    "write": ("mixed, pages of 8, (33,)",),
    "rope_write": ("decodes, pages of 16, 7/1",),
    "norm_rope_write": ("decodes, pages of 16, 7/1",),
    "attend": ("decodes, pages of 16, 3/1",),
    "attend_latent": ("decodes, pages of 16, 5 heads", "all selected"),
    "select": ("decodes, pages of 16, 4 heads of 64, best 8",),
    "select_blocks": ("decodes, best 5",),
    "attend_selected": ("decodes, 4/2",),
    "pool": ("a prompt, 33 channels by 2, overlapping", "mixed, 8 channels by 8, gates and bias"),
    "attend_pooled": ("decodes, 4 heads of 32, window 8, every 4, selected",),
    "route": ("sigmoid, groups, 7",),
    "experts": ("9 rows, 3 of 6, silu", "mxfp4, 20"),
    "causal_conv": ("mixed, pages of 8", "decodes"),
    "delta_gates": ("(9, 3, 33)",),
    "gated_delta": ("mixed, pages of 16, 1/1", "decodes, pages of 16, 1/2"),
    "hyper_weights": ("7 x 4 x 65, 24",),
    "hyper_write": ("7 x 4 x 65",),
    "mix": ("4 of 7 x 65",),
    "token_windows": ("mixed, 4",),
    "sample": ("all three, 5",),
}


@pytest.mark.parametrize("op", CASES)
def test_offsets_do_not_overflow(op: str, holes: Holes, monkeypatch: pytest.MonkeyPatch) -> None:
    # The interpreter copies each argument's memory back to where it already is.
    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *_: None)
    stack: Stack = replace(FAST, ops=replace(FAST.ops, **{op: holes.op(getattr(FAST.ops, op))}))
    report = check(
        stack, ops=[op], dtypes=[torch.bfloat16], only=lambda _, name: name.startswith(CASES[op]), rows_alone=False
    )  # fmt: skip
    assert report.ok, report.failures
    assert report.rows[0].num_cases
