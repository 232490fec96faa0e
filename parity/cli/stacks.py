"""`parity stacks`: where models can run, and the origin of each stack's kernels."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .terminal import print_table, say

if TYPE_CHECKING:
    from ..stacks.base import Stack

_REFERENCE = "parity.stacks.reference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("stack", nargs="?", metavar="STACK", help="only this one, such as cpu or cpu:reference")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--check", metavar="STACK", help="run the conformance suite on it: every op against the reference")
    parser.add_argument("--ops", nargs="+", metavar="OP", help="check only these")


def run(arguments: argparse.Namespace) -> int:
    """Prints the stacks, or checks one; 1 if an op fails.

    Raises:
        ParityError: the stack named does not exist, or does not work here.
    """
    from ..core.errors import UsageError
    from ..stacks.registry import open_stack

    if arguments.check:
        return _check(arguments.check, arguments.ops)
    if arguments.ops:
        raise UsageError("--ops says what is checked: add --check STACK")
    if arguments.stack:
        opened, _ = open_stack(arguments.stack)
        found = [describe(opened)]
    else:
        found = survey()
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    for one in found:
        _print(one)
    return 0


def _check(spec: str, ops: list[str] | None) -> int:
    from ..stacks.check import check
    from ..stacks.registry import open_stack

    stack, dtype = open_stack(spec)
    report = check(stack, ops=ops, dtypes=None if dtype is None else [dtype], progress=_say_op)
    alone = {True: "same bits", False: "differs", None: ""}
    rows = [
        (
            "FAIL" if row.failures else "ok",
            row.op,
            row.origin.removeprefix("parity.stacks."),
            f"{row.num_cases - len(row.failures)}/{row.num_cases}",
            f"{row.worst:.2g}",
            alone[row.invariant],
            row.note,
        )
        for row in report.rows
    ]
    print_table(("", "OP", "FROM", "CASES", "WORST/TOLERANCE", "ROW ALONE", "NOTE"), rows)
    for failure in report.failures:
        print(f"{failure.op} [{failure.case}, {failure.dtype}]: {failure.what}")
    print(f"{report.stack}: {'every op keeps its contract' if report.ok else f'{len(report.failures)} cases failed'}")
    return 0 if report.ok else 1


def _say_op(op: str, done: int, total: int) -> None:
    say(f"{done + 1}/{total} {op}")


def survey() -> list[dict[str, Any]]:
    """Every registered stack: what it is, or why it does not work on this machine."""
    from ..core.errors import ParityError
    from ..stacks.registry import names, open_stack

    found = []
    for name in sorted(names()):
        try:
            found.append(describe(open_stack(name)[0]))
        except ParityError as error:
            found.append({"name": name, "works": False, "why": str(error)})
    return found


def describe(stack: Stack) -> dict[str, Any]:
    """A stack's device, dtypes, formats, tables, and where each op comes from."""
    return {
        "name": stack.name,
        "works": True,
        "device": dict(stack.device.describe()),
        "memory": {"total": stack.device.memory().total, "free": stack.device.memory().free},
        "dtypes": [str(dtype).removeprefix("torch.") for dtype in stack.dtypes],
        "formats": sorted(stack.formats),
        "tables": ["reference", *stack.tables],
        "ops": {name: {"origin": stack.ops.origin(name), "why": stack.notes.get(name, "")} for name in stack.ops.names()},
    }


def _print(stack: dict[str, Any]) -> None:
    if not stack["works"]:
        print(f"{stack['name']}: does not work here: {stack['why']}\n")
        return
    device = ", ".join(f"{name} {value}" for name, value in stack["device"].items())
    own = sum(op["origin"] != _REFERENCE for op in stack["ops"].values())
    formats = ", ".join(stack["formats"]) or "none (expanded at load)"
    print(f"{stack['name']}: {device}")
    print(f"  computes in {', '.join(stack['dtypes'])}; packed formats: {formats}")
    print(f"  tables: {', '.join(stack['tables'])}; {own} of {len(stack['ops'])} ops are its own")
    rows = [(f"  {name}", op["origin"].removeprefix("parity.stacks."), op["why"]) for name, op in stack["ops"].items()]
    print_table(("  OP", "FROM", "WHY NOT ITS OWN"), rows)
    print()
