"""`parity verify`; see `parity.verify.command`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    from ..verify.command import add_verify_arguments

    add_verify_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs it.

    Raises:
        ParityError: it could not be done.
    """
    from ..verify.command import run_verify

    return run_verify(arguments)
