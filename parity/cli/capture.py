"""`parity capture`; see `parity.verify.command`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    from ..verify.command import add_capture_arguments

    add_capture_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs it.

    Raises:
        ParityError: it could not be done.
    """
    from ..verify.command import run_capture

    return run_capture(arguments)
