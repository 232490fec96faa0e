"""Runs the cases: the kernel on its device against the oracle, then what it left in place, then each row alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.batch import Batch
from ...core.errors import UsageError
from ...core.weights import Packed, Rows
from ..base import Stack
from ..paged import numbers
from . import dense, pooled, sampling, stateful, streams
from .case import Case, Make, alone
from .device import check_device
from .oracle import exact, on_device, upcast
from .report import Failure, OpReport, Report
from .tolerance import error, one_step

CASES: Mapping[str, Callable[[Make], Iterator[Case]]] = {
    "embed": dense.embed,
    "linear": dense.linear,
    "gated_linear": dense.gated_linear,
    "head_linear": dense.head_linear,
    "rms_norm": dense.rms_norm,
    "add_rms_norm": dense.add_rms_norm,
    "layer_norm": dense.layer_norm,
    "gated_rms_norm": dense.gated_rms_norm,
    "gated_activation": dense.gated_activation,
    "add": dense.add,
    "sigmoid_gate": dense.sigmoid_gate,
    "rope_angles": dense.rope_angles,
    "rope": dense.rope,
    "write": stateful.write,
    "rope_write": stateful.rope_write,
    "norm_rope_write": stateful.norm_rope_write,
    "attend": stateful.attend,
    "attend_latent": stateful.attend_latent,
    "select": stateful.select,
    "select_blocks": pooled.select_blocks,
    "attend_selected": pooled.attend_selected,
    "pool": pooled.pool,
    "write_pooled": pooled.write_pooled,
    "attend_pooled": pooled.attend_pooled,
    "route": dense.route,
    "route_to": dense.route_to,
    "experts": dense.experts,
    "causal_conv": stateful.causal_conv,
    "delta_gates": dense.delta_gates,
    "gated_delta": stateful.gated_delta,
    "spread": streams.spread,
    "hyper_weights": streams.hyper_weights,
    "hyper_read": streams.hyper_read,
    "hyper_write": streams.hyper_write,
    "stream_norm": streams.stream_norm,
    "activate": streams.activate,
    "gated_mean": streams.gated_mean,
    "stream_gate": streams.stream_gate,
    "mix": streams.mix,
    "token_windows": streams.token_windows,
    "hash_windows": streams.hash_windows,
    "gather": streams.gather,
    "sample": sampling.sample,
}
"""Op to the function that builds its cases."""

_IN_FLOAT32 = frozenset({"rope_angles", "sample"})
_MAX_ALONE = 8

Progress = Callable[[str, int, int], None]
"""(the op that comes next, ops done, ops in all)."""


def check(
    stack: Stack,
    *,
    ops: Iterable[str] | None = None,
    dtypes: Iterable[torch.dtype] | None = None,
    progress: Progress | None = None,
    only: Callable[[str, str], bool] | None = None,
    rows_alone: bool = True,
) -> Report:
    """Holds a stack's kernels to the contract of `parity.stacks.ops`, and its device to that of `parity.stacks.base`.

    Args:
        stack: whose table is checked.
        ops: the ops to check; None is all of them, and the device.
        dtypes: the compute dtypes, or the stack's own.
        progress: called before each op.
        only: (op, case's name) -> whether it is run; all are by default.
        rows_alone: also compute each row without its batch, and report whether the bits are the same.

    Raises:
        UsageError: an op's name is unknown.
    """
    chosen = list(stack.ops.names() if ops is None else ops)
    for name in chosen:
        if name not in CASES:
            raise UsageError(f"no op is called {name!r}: there are {', '.join(CASES)}")
    used = list(stack.dtypes if dtypes is None else dtypes)
    rows = []
    for done, name in enumerate(chosen):
        if progress is not None:
            progress(name, done, len(chosen))
        rows.append(_check_op(stack, name, used[:1] if name in _IN_FLOAT32 else used, only, rows_alone))
    if ops is None:
        rows.append(check_device(stack))
    return Report(stack.name, tuple(rows))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """`what` went wrong, if anything; the worst error; whether rows alone had the same bits, if tried."""

    what: str | None
    worst: float = 0.0
    invariant: bool | None = None


def _check_op(
    stack: Stack, name: str, dtypes: list[torch.dtype], only: Callable[[str, str], bool] | None, rows_alone: bool
) -> OpReport:
    failures, worst, number = [], 0.0, 0
    invariant: bool | None = None
    for dtype in dtypes:
        for case in CASES[name](Make(dtype, stack.formats, int8_pages=stack.int8_pages)):
            if only is not None and not only(name, case.name):
                continue
            if not stack.rounded:
                case = replace(case, tolerance=replace(case.tolerance, eight_bit=0))
            outcome = _run(stack, name, case, dtype, rows_alone)
            number += 1
            worst = max(worst, outcome.worst)
            if outcome.invariant is not None:
                invariant = outcome.invariant and invariant is not False
            if outcome.what is not None:
                failures.append(Failure(name, case.name, str(dtype).removeprefix("torch."), outcome.what))
    note = stack.notes.get(name, "")
    return OpReport(name, stack.ops.origin(name), number, tuple(failures), worst, invariant, note)


def _run(stack: Stack, name: str, case: Case, dtype: torch.dtype, rows_alone: bool) -> _Outcome:
    kernel = getattr(stack.ops, name)
    try:
        args, options = given(case, stack)
        before = {key: _copies(value) for key, value in {**args, **options}.items()}
        with torch.inference_mode():
            result = kernel(*args.values(), **options)
            stack.device.synchronize()
    except Exception as problem:  # a kernel is others' code: whatever it raises is its failure
        return _Outcome(_raised(problem), math.inf)
    doubled = {key: upcast(value) for key, value in case.args.items()}
    expected = exact(name, list(doubled.values()), {key: upcast(value) for key, value in case.options.items()})
    problems, worst = [], 0.0
    for found in (
        *_compare_results(case, result, expected, dtype),
        *_compare_states(case, args, before, doubled, dtype),
    ):
        worst = max(worst, found.worst)
        if found.what:
            problems.append(found.what)
    for key, value in {**args, **options}.items():
        if key not in case.state and not _same(_tensors(value), before[key]):
            problems.append(f"changed its argument {key} in place")
    if problems or not rows_alone:
        return _Outcome("; ".join(problems) or None, worst)
    try:
        return _Outcome(None, worst, _alone(kernel, case, args, options, before, result))
    except Exception as problem:  # as above
        return _Outcome(f"{_raised(problem)}, of a row without its batch", math.inf)


def _raised(problem: Exception) -> str:
    return f"raised {type(problem).__name__}: {problem}"


def given(case: Case, stack: Stack) -> tuple[dict[str, object], dict[str, object]]:
    """(arguments, options) of a case as the stack takes them."""

    def each(values: Mapping[str, object]) -> dict[str, object]:
        return {key: value if key in case.as_read else placed(value, stack) for key, value in values.items()}

    return each(case.args), each(case.options)


def placed(value: object, stack: Stack) -> object:
    """The argument on the stack's device, weights in the order of its kernels."""
    device = stack.device.torch_device
    if isinstance(value, Packed):
        return stack.prepare(_moved(value, device))
    if isinstance(value, Rows):
        return stack.prepare(value.each(lambda part: _moved(part, device)))
    if isinstance(value, Tensor):
        return _like(value, device)
    if isinstance(value, tuple):
        return tuple(placed(part, stack) for part in value)
    return on_device(value, device) if isinstance(value, Batch) else value


def _moved(value: Tensor | Packed, device: torch.device) -> Tensor | Packed:
    if isinstance(value, Tensor):
        return value.to(device)
    return Packed(value.format, value.shape, {role: array.to(device) for role, array in value.arrays.items()}, value.meta)


def _like(x: Tensor, device: torch.device) -> Tensor:
    """A copy on the device with the same strides."""
    if x.is_contiguous():
        return x.to(device, copy=True)
    base = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0).to(device, copy=True)
    return base.as_strided(x.shape, x.stride(), x.storage_offset())


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Packed):
        return list(value.arrays.values())
    if isinstance(value, Rows | tuple):
        return [array for part in (value.parts if isinstance(value, Rows) else value) for array in _tensors(part)]
    if isinstance(value, Batch):
        return [value.tokens, value.positions, value.starts, value.lengths, value.pages, value.slots]
    return []


def _copies(value: object) -> list[Tensor]:
    return [tensor.clone() for tensor in _tensors(value)]


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8) if x.ndim else x.reshape(1).view(torch.uint8)


def _same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(_bytes(a), _bytes(b)) for a, b in zip(found, expected, strict=True))


def _results(value: object) -> tuple[Tensor, ...]:
    """What an op gave, one tensor or several; nothing of anything else."""
    parts = tuple(value) if isinstance(value, tuple | list) else (value,)
    return parts if all(isinstance(part, Tensor) for part in parts) else ()


def _compare_results(case: Case, result: object, expected: object, dtype: torch.dtype) -> Iterator[_Outcome]:
    if expected is None:
        return
    found, wanted = _results(result), _results(expected)
    names = ["result"] if isinstance(expected, Tensor) else [f"result {i}" for i in range(len(wanted))]
    if len(found) != len(wanted):
        yield _Outcome(f"gave {type(result).__name__}, not {len(wanted)} tensor(s)", math.inf)
        return
    for name, a, b in zip(names, found, wanted, strict=True):
        if case.judged is not None and a.shape == b.shape:
            a, b = a[list(case.judged)], b[list(case.judged)]
        yield _compare(case, name, a.cpu(), b, dtype)


def _compare(case: Case, name: str, found: Tensor, expected: Tensor, dtype: torch.dtype) -> _Outcome:
    if found.shape != expected.shape:
        return _Outcome(f"{name} has shape {tuple(found.shape)}, not {tuple(expected.shape)}", math.inf)
    if not expected.is_floating_point():
        if found.dtype != expected.dtype:
            return _Outcome(f"{name} is {found.dtype}, not {expected.dtype}", math.inf)
        wrong = int((found != expected).sum())
        return _Outcome(f"{name} has {wrong} of {found.numel()} numbers wrong", math.inf) if wrong else _Outcome(None)
    wanted = case.result or dtype
    if found.dtype != wanted:
        return _Outcome(f"{name} is {found.dtype}, not {wanted}", math.inf)
    if case.equal:
        equal = torch.equal(found.double().nan_to_num(7e77), expected.nan_to_num(7e77))
        return _Outcome(None) if equal else _Outcome(f"{name} is not an exact copy", math.inf)
    worst = error(found, expected, case.tolerance.allowed(expected, found.dtype, dtype))
    return _Outcome(None if worst <= 1 else f"{name} is off by {worst:.3g} tolerances", worst)


def _compare_states(
    case: Case,
    args: Mapping[str, object],
    before: Mapping[str, list[Tensor]],
    doubled: Mapping[str, object],
    dtype: torch.dtype,
) -> Iterator[_Outcome]:
    """The places that the oracle wrote hold its values; all others hold the bits that they held."""
    for key in case.state:
        found, was, wanted, start = args[key], before[key][0], doubled[key], case.args[key]
        assert isinstance(found, Tensor)
        assert isinstance(wanted, Tensor)
        assert isinstance(start, Tensor)
        written = (wanted != start.double()) & ~(wanted.isnan() & start.isnan())
        stray = int(((_bits(found) != _bits(was)).cpu() & ~written).sum())
        if stray:
            yield _Outcome(f"{stray} numbers of {key} changed that belong to nobody in the batch", math.inf)
        now = found.cpu()
        if case.equal:
            equal = torch.equal(now[written].double(), wanted[written].double())
            yield _Outcome(None) if equal else _Outcome(f"{key} does not hold the values", math.inf)
            continue
        if now.dtype == torch.int8:
            now, wanted, written = numbers(now), numbers(wanted), written.any(-1)
            allowed = one_step(wanted)
        else:
            allowed = case.tolerance.allowed(wanted, now.dtype, dtype)
        worst = error(now[written], wanted[written], allowed[written])
        yield _Outcome(None if worst <= 1 else f"{key} is off by {worst:.3g} tolerances", worst)


def _bits(x: Tensor) -> Tensor:
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def _alone(
    kernel: Callable[..., object],
    case: Case,
    args: Mapping[str, object],
    options: Mapping[str, object],
    before: Mapping[str, list[Tensor]],
    result: object,
) -> bool | None:
    """Whether the rows of a sequence (or single rows, without a batch) computed alone have the bits they had together."""
    if not case.rows or not isinstance(result, Tensor | tuple):
        return None
    together = _results(result)
    batch = args.get("batch")
    spans = _spans(batch, together[0].shape[0])
    if len(spans) < 2:
        return None
    for s, rows in spans[:_MAX_ALONE]:
        cut = dict(args)
        for key, value in args.items():
            if key in case.rows:
                own = tuple(part[rows] for part in _results(value))
                cut[key] = own if isinstance(value, tuple) else own[0]
            elif key in case.state:
                cut[key] = before[key][0].clone()
        if isinstance(batch, Batch):
            cut["batch"] = alone(batch, s)
        with torch.inference_mode():
            found = kernel(*cut.values(), **options)
        if not _same(list(_results(found)), [whole[rows] for whole in together]):
            return False
    return True


def _spans(batch: object, num_rows: int) -> list[tuple[int, slice]]:
    if isinstance(batch, Batch):
        return [(s, slice(batch.host_starts[s], batch.host_starts[s + 1])) for s in range(batch.num_sequences)]
    return [(row, slice(row, row + 1)) for row in range(num_rows)]
