"""`parity pack`: what such a file holds."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    from ..verify.command import add_pack_arguments

    add_pack_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """See `parity.verify.command.run_pack`."""
    from ..verify.command import run_pack

    return run_pack(arguments)
