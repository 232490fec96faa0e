"""`parity generate`: completions of one prompt or of a file of them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.flags import positive
from . import options
from .conversation import Turn, play, user_turn
from .parser import existing_file, read_text
from .records import record
from .terminal import piped_input, say, write

if TYPE_CHECKING:
    from ..core.request import SamplingParams
    from ..llm import LLM

_EPILOG = """\
Each line of --input is a JSON string (a prompt), or an object with `prompt`, `tokens` or `messages`, an `id` if
wanted, and sampling values of its own such as "max_tokens". Answers are written as they finish, each with the `index`
of its line; run the same command again and only what is missing is computed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.epilog = _EPILOG
    options.add_model(parser)
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", "-p", metavar="TEXT", help="the prompt; `-` (or a pipe) reads standard input")
    prompts.add_argument("--input", "-i", type=existing_file, metavar="JSONL", help="many prompts, one a line")
    parser.add_argument("--output", "-o", type=Path, metavar="JSONL", help="where the answers to --input go")
    parser.add_argument("--overwrite", action="store_true", help="begin --output anew instead of resuming it")
    parser.add_argument("--chat", action="store_true", help="the prompt is a user's message, not text to continue")
    parser.add_argument("--json", action="store_true", help="text, token ids, finish reason, usage and timings as JSON")
    parser.add_argument("--logprobs", type=int, metavar="K", help="log-probabilities of each token and the K likeliest")
    parser.add_argument("--prompt-logprobs", type=int, metavar="K", help="the same of the prompt's tokens")
    parser.add_argument("--n", type=positive, metavar="N", help="samples of the prompt")
    options.add_template(parser)
    options.add_sampling(parser)
    options.add_engine(parser)


def run(arguments: argparse.Namespace) -> int:
    """Completes.

    Raises:
        ParityError: the prompts cannot be read or completed.
    """
    from ..core.errors import UsageError

    given = _sampling(arguments)
    if arguments.input is not None:
        from .jobs import run_file

        return run_file(arguments, given)
    if arguments.output is not None:
        raise UsageError("--output belongs to --input; for one prompt, redirect standard output")
    if not arguments.json and (arguments.logprobs, arguments.prompt_logprobs) != (None, None):
        raise UsageError("log-probabilities are shown as JSON alone: add --json")
    prompt = _prompt(arguments.prompt)
    with options.open_model(arguments) as llm:
        params = options.params_of(llm, given)
        if arguments.json or params.n > 1:
            return _whole(llm, prompt, params, arguments)
        return _streamed(llm, prompt, params, arguments)


def _sampling(arguments: argparse.Namespace) -> dict[str, object]:
    """The sampling flags, with those that only this verb has.

    Raises:
        UsageError: they contradict each other.
    """
    from ..core.errors import UsageError
    from ..core.request import SamplingParams

    given = options.given_sampling(arguments)
    given |= {name: value for name in ("logprobs", "prompt_logprobs", "n") if (value := getattr(arguments, name)) is not None}
    SamplingParams.of(None, **given)
    if arguments.chat and (arguments.n or 1) > 1:
        raise UsageError("--n counts samples of a raw prompt; with --chat, ask several times with different --seed")
    if not arguments.chat and (arguments.system_prompt or arguments.chat_template_kwargs):
        raise UsageError("--system-prompt and --chat-template-kwargs belong to a chat: add --chat")
    return given


def _prompt(text: str | None) -> str:
    from ..core.errors import UsageError

    if text in (None, "-"):
        if text is None and not piped_input():
            raise UsageError("there is no prompt: give one with -p, pipe one in, or name a file with --input")
        text = read_text(Path("-"))
    if not text:
        raise UsageError("the prompt is empty: write something after -p, or pipe text in")
    return text


def _streamed(llm: LLM, prompt: str, params: SamplingParams, arguments: argparse.Namespace) -> int:
    """One text, as it comes."""
    turn = Turn()
    if arguments.chat:
        play(llm.stream(user_turn(prompt, arguments.system_prompt), params, **arguments.chat_template_kwargs), turn)
    else:
        play(llm.stream(prompt, params, raw=True), turn)
    write("\n")
    say(turn.summary())
    return 0


def _whole(llm: LLM, prompt: str, params: SamplingParams, arguments: argparse.Namespace) -> int:
    """Every sample on its own line, with its numbers if asked for."""
    if arguments.chat:
        answers = [llm.chat(user_turn(prompt, arguments.system_prompt), params, **arguments.chat_template_kwargs)]
    else:
        answers = llm.generate(prompt, params)
    for answer in answers:
        write((json.dumps(record(answer), ensure_ascii=False) if arguments.json else answer.text) + "\n")
    return 0
