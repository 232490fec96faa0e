"""`parity verify`: whether two sides are the same model."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    from ..verify.command import add_verify_arguments

    add_verify_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """See `parity.verify.command.run_verify`."""
    from ..verify.command import run_verify

    return run_verify(arguments)
