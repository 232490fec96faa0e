"""Writes docs/help.md, the help of every command, from the program itself; `--check` only says whether it is so."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from parity.cli import VERBS, build_parser

PAGE = Path(__file__).parents[1] / "docs" / "help.md"


def text() -> str:
    """The page: the same on every machine."""
    os.environ["COLUMNS"] = "100"
    os.environ.pop("PARITY_LOG_LEVEL", None)
    parts = ["# The commands\n\nWritten by `scripts/write_help.py`.\n", _block("parity", build_parser())]
    for verb in VERBS:
        parser = build_parser(verb)
        (verbs,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parts.append(_block(f"parity {verb}", verbs.choices[verb]))
    return "\n".join(parts)


def _block(name: str, parser: argparse.ArgumentParser) -> str:
    return f"## {name}\n\n```text\n{parser.format_help().rstrip()}\n```\n"


def main() -> int:
    """Writes the page, or with `--check` returns 1 if it is out of date."""
    if "--check" not in sys.argv:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text(), "utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text("utf-8") == text():
        return 0
    print("docs/help.md is out of date: run scripts/write_help.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
