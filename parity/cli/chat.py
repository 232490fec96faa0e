"""`parity chat`: a conversation at a terminal, or one answer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import options
from .parser import existing_file, read_text
from .terminal import piped_input, say

if TYPE_CHECKING:
    from ..llm import LLM
    from .conversation import Conversation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.epilog = "On a terminal, /help lists the commands of a conversation and Ctrl-C stops an answer."
    options.add_model(parser)
    parser.add_argument("--prompt", "-p", metavar="TEXT", help="ask this, print the answer and leave; `-` reads standard input")
    parser.add_argument(
        "--file", "-f", type=existing_file, metavar="PATH", help="text put below the prompt; `-` is standard input"
    )
    options.add_template(parser)
    options.add_sampling(parser)
    options.add_engine(parser)


def run(arguments: argparse.Namespace) -> int:
    """Answers once if there is a prompt or a pipe, else talks.

    Raises:
        ParityError: there is nothing to answer, or the model cannot be run.
    """
    from ..core.errors import UsageError

    given = options.given_sampling(arguments)
    prompt = _prompt(arguments.prompt, arguments.file)
    if prompt is None and not sys.stdin.isatty():
        raise UsageError("there is no prompt: give one with -p, pipe one in, or run `parity chat` on a terminal")
    with options.open_model(arguments) as llm:
        conversation = _conversation(llm, given, arguments)
        if prompt is not None:
            return conversation.once(prompt)
        say(f"{llm.info.name} on {llm.info.stack} ({llm.info.dtype}), context {llm.info.max_model_len} tokens; /help for help")
        from .repl import talk

        return talk(conversation)


def _conversation(llm: LLM, given: dict[str, object], arguments: argparse.Namespace) -> Conversation:
    from .conversation import Conversation

    return Conversation(llm, options.params_of(llm, given), arguments.system_prompt, arguments.chat_template_kwargs)


def _prompt(text: str | None, file: Path | None) -> str | None:
    """The prompt given, with the file or the pipe below it; None if nothing was given.

    Raises:
        UsageError: what was given is empty, or cannot be read.
    """
    from ..core.errors import UsageError

    if text == "-":
        text, file = None, file or Path("-")
    elif file is None and piped_input():
        file = Path("-")
    parts = [part for part in (text, None if file is None else read_text(file)) if part is not None]
    if text is not None and not any(part.strip() for part in parts):
        raise UsageError("the prompt is empty: write something after -p")
    if parts and not any(part.strip() for part in parts):
        raise UsageError(f"the prompt is empty: {'standard input' if str(file) == '-' else file} has no text")
    return "\n\n".join(part for part in parts if part.strip()) if parts else None
