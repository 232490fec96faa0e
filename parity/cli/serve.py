"""`parity serve`: OpenAI's and Anthropic's APIs, and a chat page, over one model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import options

if TYPE_CHECKING:
    from ..core.service import Service
    from ..text.chat import Chat

_EPILOG = """\
With no flags it listens on http://127.0.0.1:8000 and only this machine may connect. Anyone else needs --host, and then
--api-key is wise. Point clients at http://127.0.0.1:8000/v1 (OpenAI) or http://127.0.0.1:8000 (Anthropic); see
docs/clients.md.
"""
_MAX_WAITING = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    from ..serve import command

    parser.epilog = _EPILOG
    options.add_model(parser)
    command.add_arguments(parser)
    options.add_engine(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serves until told to stop.

    Raises:
        ParityError: the address is taken, or the model cannot be run.
    """
    from ..serve import command

    def opened(template: str | None) -> tuple[Service, Chat]:
        llm = options.open_model(arguments, chat_template=template, max_num_waiting=_MAX_WAITING)
        return llm.service, llm.chat_format

    return command.serve(arguments, opened)
