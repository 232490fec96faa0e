"""`parity stacks`: where models can run, and the origin of each stack's kernels."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .terminal import print_table

if TYPE_CHECKING:
    from ..stacks.base import Stack

_REFERENCE = "parity.stacks.reference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("stack", nargs="?", metavar="STACK", help="only this one, such as cpu or cpu:reference")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the stacks.

    Raises:
        ParityError: the stack named does not exist, or does not work here.
    """
    from ..stacks.registry import open_stack

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
