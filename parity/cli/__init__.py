"""The command line: one small module a verb, imported only when its verb is used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from .. import __version__
from ..core.errors import ParityError, UsageError
from .failures import explain
from .parser import Parser

# verb -> what it is for. Its module holds `add_arguments(parser)` and `run(arguments) -> exit code`.
VERBS = {
    "chat": "talk to a model, or ask it one thing",
    "generate": "complete one prompt or a file of them",
    "serve": "answer over HTTP, in the formats of OpenAI and Anthropic",
    "verify": "compare two stacks, endpoints or packs: is it the same model?",
    "capture": "record what a stack or an endpoint computes, for a comparison elsewhere",
    "pack": "show what was captured",
    "bench": "measure speed here: latency, throughput, how near the limit, and beside llama.cpp",
    "convert": "write a model as GGUF or safetensors, packed if asked, and say what that cost it",
    "pull": "download a model and check its hash",
    "models": "the models that are here, and those that can be pulled",
    "stacks": "where models can run, and whose kernels each stack uses",
    "doctor": "what this machine can do, and how to fix what it cannot",
}

LOG_LEVELS = ("debug", "info", "warning", "error")

INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended
BROKEN_PIPE = 141  # as a shell reports a program whose reader went away


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 2 for an error that says what to do, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    try:
        code = _run(words)
        sys.stdout.flush()
    except ParityError as error:
        print(f"parity: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads: what is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        told = explain(error)
        if told is None:
            raise
        print(f"parity: error: {told}", file=sys.stderr)
        return ParityError.exit_code
    return code


def build_parser(verb: str | None = None) -> Parser:
    """The parser, with the arguments of one verb; the other verbs are only named."""
    parser = Parser(prog="parity", description="Run, serve and verify DeepSeek, Qwen and Kimi models on any hardware stack.")
    parser.add_argument("--version", action="version", version=f"parity {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", title="commands")
    for name, summary in VERBS.items():
        end = "" if summary.endswith("?") else "."
        sub = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + end)
        if name == verb:
            sub.formatter_class = argparse.RawDescriptionHelpFormatter
            import_module(f".{name}", __name__).add_arguments(sub)
            _add_log_level(sub)
    return parser


def _open_streams() -> None:
    """Puts nothing in the place of streams that were closed before the start; no text fails at a character that one lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # for the life of the process
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _run(words: list[str]) -> int:
    verb = words[0] if words and words[0] in VERBS else None
    parser = build_parser(verb)
    try:
        arguments = parser.parse_args(words)
    except SystemExit as stop:  # argparse leaves so, after --help and after a wrong flag
        return stop.code if isinstance(stop.code, int) else 0
    if verb is None:
        parser.print_help()
        return 0 if not words else 2
    from .terminal import configure_logging

    if arguments.log_level not in LOG_LEVELS:  # argparse does not look at defaults
        raise UsageError(f"PARITY_LOG_LEVEL is {arguments.log_level}; set it to one of {', '.join(LOG_LEVELS)}, or unset it")
    configure_logging(arguments.log_level)
    code: int = import_module(f".{verb}", __name__).run(arguments)
    return code


def _add_log_level(parser: argparse.ArgumentParser) -> None:
    default = parser.get_default("log_level") or "warning"
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default=(os.environ.get("PARITY_LOG_LEVEL") or default).lower(),
        help=f"what is told on standard error; debug shows other libraries' warnings (default: $PARITY_LOG_LEVEL, {default})",
    )
