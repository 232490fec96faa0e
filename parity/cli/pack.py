"""`parity pack`; see `parity.verify.command`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    from ..verify.command import add_pack_arguments

    add_pack_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs it.

    Raises:
        ParityError: it could not be done.
    """
    from ..verify.command import run_pack

    return run_pack(arguments)
