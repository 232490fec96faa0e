"""`parity capture`: one side's answers, in a file that others are compared with."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    from ..verify.command import add_capture_arguments

    add_capture_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """See `parity.verify.command.run_capture`."""
    from ..verify.command import run_capture

    return run_capture(arguments)
