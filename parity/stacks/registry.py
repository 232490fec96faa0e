"""Finding stacks: every one, ours too, is an entry point in the group `parity.stacks`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

import torch

from ..core.errors import ModelNotFound, ParityError, Unsupported, UsageError
from .base import Device, Stack, as_is

log = logging.getLogger("parity")

GROUP = "parity.stacks"
_ORDER = ("cuda", "ascend", "cpu")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def names() -> dict[str, EntryPoint]:
    """The registered stacks by name; imports none of them."""
    return {point.name: point for point in entry_points(group=GROUP)}


def parse(spec: str) -> tuple[str, str | None, torch.dtype | None]:
    """`name[:table][:dtype]`, as in `cpu`, `cpu:reference` or `cpu:reference:float32`.

    Raises:
        UsageError: not of that form.
    """
    name, *rest = spec.split(":")
    dtype = dtype_of(rest.pop()) if rest and rest[-1] in _DTYPES else None
    if not name or len(rest) > 1:
        raise UsageError(f"{spec!r} is not a stack: write NAME, NAME:TABLE or NAME:TABLE:DTYPE, such as cpu:reference:float32")
    return name, rest[0] if rest else None, dtype


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of a name such as `bfloat16`.

    Raises:
        Unsupported: not a dtype that we compute in.
    """
    if name not in _DTYPES:
        raise Unsupported(f"dtype {name!r} is not one that Parity computes in: use {', '.join(_DTYPES)}")
    return _DTYPES[name]


def open_stack(spec: str | None = None) -> tuple[Stack, torch.dtype | None]:
    """A stack, and the dtype if the spec names one; None takes the first of cuda, ascend and cpu that opens.

    The table `reference` exists on every stack: its device with the reference ops and no packed formats.

    Raises:
        ModelNotFound: no stack of that name is registered.
        UsageError: not a stack's spec, or the stack does not work on this machine; the text says why.
    """
    if spec is None:
        return _first(), None
    name, table, dtype = parse(spec)
    stack = _open(name, names())
    if table is None and dtype is not None and spec.rpartition(":")[2] in stack.tables:
        table = spec.rpartition(":")[2]
    if table is not None:
        stack = with_table(stack, table)
    return stack, dtype


def with_table(stack: Stack, table: str) -> Stack:
    """The same device with another table.

    Raises:
        Unsupported: the stack has no such table.
    """
    if table == "reference":
        from . import reference

        ops = stack.reference or reference.OPS
        plain = (name for name in ops.names() if ops.origin(name) == reference.OPS.origin(name))
        return replace(
            stack,
            name=f"{stack.name}:reference",
            ops=ops,
            train_ops=reference.OPS,
            formats=frozenset(),
            rounded=frozenset(),
            prepare=as_is,
            int8_pages=True,
            notes=dict.fromkeys(plain, "the reference table was asked for"),
        )
    if table in stack.tables:
        return stack.tables[table]()
    known = ", ".join(["reference", *stack.tables])
    raise Unsupported(f"stack {stack.name!r} has no table {table!r}: it has {known}")


def _open(name: str, known: Mapping[str, EntryPoint]) -> Stack:
    if name not in known:
        raise ModelNotFound(f"no stack is called {name!r}: there are {', '.join(sorted(known)) or 'none'}; see `parity stacks`")
    try:
        stack = known[name].load()()
    except ParityError:
        raise
    except Exception as error:  # a stack is others' code: one that fails must not take the others with it
        log.debug("stack %r cannot be opened", name, exc_info=error)
        raise UsageError(f"stack {name!r} cannot be opened: {type(error).__name__}: {error}") from error
    if not isinstance(stack, Stack):
        raise UsageError(f"stack {name!r} is opened by {known[name].value}, which gave {type(stack).__name__} and not a Stack")
    lacking = [member for member in vars(Device) if not member.startswith("_") and not hasattr(stack.device, member)]
    if lacking:
        raise UsageError(f"stack {name!r}: its device lacks {', '.join(lacking)} of parity.stacks.base.Device")
    return stack


def _first() -> Stack:
    known = names()
    reasons = []
    for name in (name for name in _ORDER if name in known):
        try:
            return _open(name, known)
        except UsageError as error:
            reasons.append(f"{name}: {error}")
            if error.__cause__ is not None:  # not merely absent
                log.warning("%s; the next stack is taken", error)
    raise UsageError("no stack works on this machine: " + "; ".join(reasons or ["none is registered"]))
