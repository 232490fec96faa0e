"""`parity models`: what is here, what can be pulled, and what a model is."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from .parser import Parser
from .terminal import human_bytes, print_table

if TYPE_CHECKING:
    from ..hub import ModelRow
    from ..models.architecture import Architecture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--architectures", action="store_true", help="print the model types that Parity computes")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", parser_class=Parser)
    listed = actions.add_parser("list", help="the models here and in the catalogue (the default)")
    listed.add_argument("--json", action="store_true", help="as JSON")
    shown = actions.add_parser("show", help="a model's files, architecture, size and content root")
    shown.add_argument("model", metavar="MODEL")
    shown.add_argument("--json", action="store_true", help="as JSON")
    removed = actions.add_parser("rm", help="delete a pulled model")
    removed.add_argument("model", metavar="MODEL")
    removed.add_argument("--yes", "-y", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    """Lists, shows or removes.

    Raises:
        ParityError: there is no such model.
    """
    if arguments.architectures:
        return _architectures()
    if arguments.action == "show":
        return _show(arguments.model, as_json=arguments.json)
    if arguments.action == "rm":
        return _remove(arguments.model, sure=arguments.yes)
    return _list(as_json=getattr(arguments, "json", False))


def _list(*, as_json: bool) -> int:
    from ..hub import list_models

    rows = list_models()
    if as_json:
        print(json.dumps([_row(row) for row in rows], indent=1))
        return 0
    print_table(
        ("MODEL", "HERE", "SIZE", "LICENCE", "WHAT"),
        [
            (row.name, "yes" if row.path else "", _size(row.size), row.licence, row.summary)
            for row in sorted(rows, key=lambda row: row.path is None)
        ],
    )
    return 0


def _size(count: int | None) -> str:
    return "" if count is None else human_bytes(count)


def _row(row: ModelRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "path": str(row.path) if row.path else None,
        "size": row.size,
        "licence": row.licence,
        "summary": row.summary,
        "pinned": row.pinned,
    }


def _show(name: str, *, as_json: bool) -> int:
    from ..hub import show

    found = show(name)
    if found["path"] is not None:
        found |= _contents(str(found["path"]))
    if as_json:
        print(json.dumps(found, indent=1, default=str))
        return 0
    for key, value in found.items():
        if key == "files":
            for file in value:
                size = human_bytes(file["size"]) if file.get("size") is not None else "size not known"
                print(f"{'file':<13} {file['name']}, {size}, SHA-256 {file.get('sha256') or 'not pinned'}")
        elif value not in ("", None):
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{key.replace('_', ' '):<13} {text}")
    if found["path"] is None:
        print(f"{'here':<13} no; `parity pull {name}` brings it")
    return 0


def _contents(path: str) -> dict[str, Any]:
    """What the files say: the architecture, the number of weights, and the hash that names them."""
    from ..hub import content_root, open_checkpoint

    checkpoint = open_checkpoint(path)
    weights = sum(_product(info.shape) for info in checkpoint.tensors.values())
    formats = sorted({info.format for info in checkpoint.tensors.values()})
    return {
        "architecture": checkpoint.config["model_type"],
        "context": checkpoint.config.get("max_position_embeddings"),
        "weights": f"{_count(weights)} in {len(checkpoint.tensors)} tensors",
        "formats": formats,
        "content_root": content_root(checkpoint),
    }


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e7 else f"{number:,}"


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _remove(name: str, *, sure: bool) -> int:
    from ..core.errors import UsageError
    from ..hub import check_pulled, remove

    check_pulled(name)
    if not sure:
        if not sys.stdin.isatty():
            raise UsageError(f"removing {name} asks first, and nobody is at the terminal: add --yes")
        try:
            sure = input(f"remove {name}? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:  # Ctrl-D
            print()
        if not sure:
            print("kept")
            return 0
    print(f"removed {name}: {human_bytes(remove(name))} freed")
    return 0


def _formats(architecture: Architecture) -> str:
    return f"fp32, {architecture.formats}" if architecture.formats else "fp32"


def _architectures() -> int:
    from ..models import registry

    print_table(
        ("MODEL TYPES", "CHECKPOINTS", "FORMATS TESTED", "TESTED AGAINST", "MISSING"),
        [
            (", ".join(one.model_types), one.checkpoints, _formats(one), one.reference, one.missing or "nothing")
            for one in registry.architectures()
        ],
    )
    return 0
