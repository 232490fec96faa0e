"""`parity pull`: a model's files, from whichever source has them, checked and kept."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .terminal import messages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a catalogue name or org/repo (default: the default model)")
    parser.add_argument("--revision", metavar="REVISION", help="a commit, tag or branch")


def run(arguments: argparse.Namespace) -> int:
    """Pulls, and prints where the model is.

    Raises:
        ParityError: no source has it, or what they have is not it.
    """
    from ..hub import default_model

    print(pull(default_model() if arguments.model is None else arguments.model, arguments.revision))
    return 0


def pull(name: str, revision: str | None = None) -> Path:
    """Where a model is on this machine, downloaded if it has to be, with a bar on a terminal.

    Raises:
        ParityError: no source has it, or what they have is not it.
    """
    from .. import hub

    with _progress() as report:
        return hub.pull(name, revision=revision, progress=report)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A bar for each file from its first report on; None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    progress = Progress(*columns, console=messages())

    def report(file: str, done: int, total: int | None) -> None:
        if file not in tasks:
            progress.start()
            tasks[file] = progress.add_task(file, total=total)
        progress.update(tasks[file], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            progress.stop()
