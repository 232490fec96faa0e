"""What the user sees: the console, logging that stays out of the output, and progress of downloads."""

from __future__ import annotations

import logging
import os
import stat
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console

_NARROW = 70


def configure_logging(level: str) -> None:
    """Our log on standard error; other libraries speak only at `debug`."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    ours = logging.getLogger("parity")
    ours.handlers = [handler]
    ours.setLevel(level.upper())
    ours.propagate = False
    root = logging.getLogger()
    if level == "debug":
        root.addHandler(handler)
        logging.captureWarnings(True)
    else:
        root.addHandler(logging.NullHandler())
        warnings.simplefilter("ignore")


@cache
def output() -> Console:
    """Standard output: styled only on a terminal and without NO_COLOR; the terminal's width."""
    return _console(stderr=False)


@cache
def messages() -> Console:
    """Standard error, for progress, headers and statistics."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    # Without a colour system nothing is styled at all, dim and bold included.
    system: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(stderr=stderr, color_system=system, highlight=False, emoji=False, markup=False)


def say(text: str) -> None:
    """A line to the person at the terminal; nothing where standard error is not one."""
    if sys.stderr.isatty():
        messages().print(text, style="dim")


def reply(text: str) -> None:
    """A line that answers a command."""
    output().print(text, style="dim")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns that fold to fit a terminal, or a block for each row on a narrow one; elsewhere each row is one line."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    if not sys.stdout.isatty():
        for row in (headings, *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    elif output().width < min(sum(widths) + 2 * len(widths), _NARROW):
        for row in rows:
            output().print(row[0], style="bold")
            for heading, cell in zip(headings[1:], row[1:], strict=True):
                if cell:
                    output().print(f"{heading.lower()}: {cell}")
    else:
        _print_columns(headings, rows)


def _print_columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    output().print(table)


def write(text: str) -> None:
    """A piece of an answer, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def printable(text: str) -> str:
    """Text without control characters but tab and line end, so that a model cannot steer the terminal."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")


def piped_input() -> bool:
    """Whether standard input is a pipe or a file that someone gave us, rather than a terminal or nothing."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def waiting(text: str) -> AbstractContextManager[object]:
    """Says on a terminal what is being waited for, and takes it away when it is there."""
    return messages().status(text) if sys.stderr.isatty() else nullcontext()


@contextmanager
def progress_bar(total: int, done: int) -> Iterator[Callable[[], None]]:
    """Counts up to `total`: a bar on a terminal, nothing elsewhere. Gives the function that counts one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages()) as progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda: progress.advance(task)


def human_bytes(count: float) -> str:
    """`1.4 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
