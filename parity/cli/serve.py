"""`parity serve`: a model over HTTP, in the formats of OpenAI and Anthropic."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import options

if TYPE_CHECKING:
    from ..core.service import Service
    from ..text.chat import Chat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    from ..serve import command

    parser.set_defaults(log_level="info")
    options.add_model(parser)
    command.add_arguments(parser)
    options.add_engine(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serves until Ctrl-C.

    Raises:
        ParityError: the address is taken, or the model cannot be run.
    """
    from ..serve import command
    from ..text.chat import Chat

    def open_engine(template: str | None) -> tuple[Service, Chat]:
        llm = options.open_model(arguments, chat_template=template, max_num_waiting=1024)
        return llm.service, Chat.of(llm.tokenizer, llm.info.architecture, template=template, plain=True)

    return command.serve(arguments, open_engine)
