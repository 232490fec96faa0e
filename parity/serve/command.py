"""`parity serve`: its flags, in vLLM's spelling, and what they become."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from ..core.errors import UsageError
from ..core.flags import add_flags, flag, given, json_object, natural, positive, positive_seconds, seconds
from ..core.request import SamplingParams
from ..engine.grammar import Grammars
from ..text.dialects import Dialect, dialect_by_name
from ..text.switches import check_options
from .chat_words import ChatWords
from .desk import Desk
from .run import Server, bind
from .settings import Settings

if TYPE_CHECKING:
    from ..core.service import Service
    from ..text.chat import Chat
    from ..text.tokenizer import Tokenizer

T = TypeVar("T")

KEY_VARIABLE = "PARITY_API_KEY"


def _template_options(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    check_options(options)
    return tuple(options.items())


SERVER = (
    flag("host", help="the address to listen on (default: 127.0.0.1, this machine alone)"),
    flag("port", type=int, help="the port; 0 takes a free one (default: 8000)"),
    flag("names", "--served-model-name", become=tuple, nargs="+", metavar="NAME", help="names that requests may ask for"),
    flag("allowed_origins", become=tuple, nargs="+", metavar="ORIGIN", help="web origins that may call (default: none)"),
    flag("allowed_hosts", become=tuple, nargs="+", metavar="HOST", help="Host names answered, or * (default: this machine's)"),
    flag("log_requests", action=argparse.BooleanOptionalAction, help="a line a request, without its text"),
)
LIMITS = (
    flag("max_body_bytes", type=positive, metavar="N", help="largest body (default: 16 MiB)"),
    flag("max_prompt_tokens", type=positive, metavar="N", help="longest prompt (default: the context)"),
    flag("max_running_per_key", type=positive, metavar="N", help="requests of a key at once (default: 256)"),
    flag("max_queued_per_key", type=natural, metavar="N", help="requests of a key that wait (default: 256)"),
    flag(
        "request_timeout_s",
        "--request-timeout",
        type=positive_seconds,
        metavar="S",
        help="seconds until a request is ended (default: 600)",
    ),
    flag(
        "stall_timeout_s",
        "--stall-timeout",
        type=positive_seconds,
        metavar="S",
        help="seconds a client may read nothing (default: 60)",
    ),
    flag(
        "shutdown_timeout_s", "--shutdown-timeout", type=seconds, metavar="S", help="seconds to finish at the end (default: 30)"
    ),
    flag("max_stored_responses", type=natural, metavar="N", help="responses kept in memory (default: 1024)"),
    flag(
        "request_templates",
        "--trust-request-chat-template",
        action=argparse.BooleanOptionalAction,
        help="let requests bring a chat template (default: no)",
    ),
)
CONVERSATION = (
    flag(
        "default_template",
        "--default-chat-template-kwargs",
        "--chat-template-kwargs",
        become=_template_options,
        type=json_object,
        metavar="JSON",
        help="variables for the chat template, such as '{\"enable_thinking\": false}'",
    ),
    flag(
        "sampling",
        "--override-generation-config",
        become=lambda value: tuple(value.items()),
        type=json_object,
        metavar="JSON",
        help="sampling defaults",
    ),
    flag(
        "constrain_calls",
        "--constrain-tool-calls",
        action=argparse.BooleanOptionalAction,
        help="hold every call to its tool's schema, not those of strict tools alone (default: yes)",
    ),
)
"""Fields of `Settings`, in three groups."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The server's own flags. What is not given is None, so that a configuration file may say it."""
    parser.add_argument("--config", action=_Config, metavar="YAML", help="flags from a file, by their names without dashes")
    add_flags(parser.add_argument_group("server"), SERVER)
    safety = parser.add_argument_group("safety")
    safety.add_argument("--api-key", nargs="+", metavar="KEY", help=f"keys that are let in (also: ${KEY_VARIABLE}, by commas)")
    safety.add_argument("--api-key-file", type=Path, metavar="FILE", help="a file with a key on each line")
    add_flags(safety, LIMITS)
    talk = parser.add_argument_group("conversation")
    talk.add_argument("--chat-template", metavar="FILE", help="a Jinja template in place of the model's own")
    talk.add_argument("--tool-call-parser", metavar="NAME", help="how the model calls tools (default: by its template)")
    talk.add_argument("--reasoning-parser", metavar="NAME", help="how the model thinks (default: by its template)")
    talk.add_argument("--enable-auto-tool-choice", action="store_true", default=None, help="tools are always on; no effect")
    add_flags(talk, CONVERSATION)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings that flags describe.

    Raises:
        UsageError: a value makes no sense, or the file of keys cannot be read.
    """
    settings = Settings(**given(arguments, (*SERVER, *LIMITS, *CONVERSATION)), api_keys=_keys(arguments))
    if not 0 <= settings.port <= 65535:
        raise UsageError(f"--port must be between 0 and 65535, not {settings.port}")
    sampling = dict(settings.sampling)
    SamplingParams.of(None, **sampling)
    if "n" in sampling:
        raise UsageError("--override-generation-config cannot say n: each request asks for its own number of samples")
    return settings


def template_of(arguments: argparse.Namespace) -> str | None:
    """The source of the template that `--chat-template` names.

    Raises:
        UsageError: it cannot be read.
    """
    if arguments.chat_template is None:
        return None
    try:
        return Path(arguments.chat_template).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--chat-template {arguments.chat_template} cannot be read: {error}") from None


def dialect_of(arguments: argparse.Namespace, own: Dialect) -> Dialect:
    """The model's dialect, with what `--tool-call-parser` and `--reasoning-parser` put in its place.

    Raises:
        Unsupported: a name is not known.
    """
    calls, thinking = arguments.tool_call_parser, arguments.reasoning_parser
    if calls is None and thinking is None:
        return own
    chosen = dialect_by_name(calls, thinking)
    return replace(chosen, calls=chosen.calls or own.calls, thinking=chosen.thinking or own.thinking)


def make_desk(service: Service, chat: Chat, settings: Settings) -> Desk:
    """The desk of a running engine.

    Args:
        service: the engine.
        chat: its tokenizer, template and dialect.
        settings: the server's choices.
    """
    words = ChatWords(chat, service.info.vocab_size)
    eos = service.info.eos_token_ids or frozenset(chat.tokenizer.eos_token_ids)
    if not eos:
        return Desk(service, words, None, settings)
    return Desk(service, words, once(partial(_grammars, words, chat.tokenizer, eos)), settings)


def once(make: Callable[[], T]) -> Callable[[], T]:
    """Makes something when it is first asked for, by whichever thread; others wait for it.

    A large vocabulary of grammars takes half a second and 50 MiB, which nobody who asks for plain text should pay for.
    """
    lock = Lock()
    made: list[T] = []

    def get() -> T:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


def _grammars(words: ChatWords, tokenizer: Tokenizer, eos: frozenset[int]) -> Grammars:
    return Grammars(
        tokenizer.all_bytes(words.vocab_size),
        encode=partial(tokenizer.encode, add_special_tokens=False, allow_special=False),
        special=set(words.control_tokens.values()) | tokenizer.special_ids | eos,
        eos=eos,
    )


def serve(arguments: argparse.Namespace, open_engine: Callable[[str | None], tuple[Service, Chat]]) -> int:
    """Serves until told to stop.

    Args:
        arguments: the flags.
        open_engine: given the source of a chat template or None, opens the model and gives its service and its chat.

    Raises:
        ParityError: the address is taken, or the model cannot be run.
    """
    settings = settings_of(arguments)
    template = template_of(arguments)
    listener = bind(settings)
    try:
        service, chat = open_engine(template)
        try:
            chat = replace(chat, dialect=dialect_of(arguments, chat.dialect))
            Server(make_desk(service, chat, settings), listener).serve_forever()
        finally:
            service.close()
    finally:
        listener.close()
    return 0


def _keys(arguments: argparse.Namespace) -> tuple[str, ...]:
    keys = [*(arguments.api_key or ()), *os.environ.get(KEY_VARIABLE, "").split(",")]
    if arguments.api_key_file is not None:
        try:
            keys += arguments.api_key_file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--api-key-file {arguments.api_key_file} cannot be read: {error}") from None
    found = tuple(dict.fromkeys(key.strip() for key in keys if key.strip()))
    if not found and (arguments.api_key is not None or arguments.api_key_file is not None):
        raise UsageError("an API key was asked for and none was found; the server would be open")
    return found


class _Config(argparse.Action):
    """Reads flags from a YAML file; flags of the command line win, wherever they stand."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        words = _words(Path(str(values)), parser)
        parsed = parser.parse_args(words, argparse.Namespace())
        for name, value in vars(parsed).items():
            if value is not None and getattr(namespace, name, None) in (None, parser.get_default(name)):
                setattr(namespace, name, value)


def _words(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """A YAML file as the words of a command line."""
    try:
        content = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise argparse.ArgumentError(None, f"--config {path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise argparse.ArgumentError(None, f"--config {path} must hold names and values")
    words: list[str] = []
    for name, value in content.items():
        words += _flag(f"--{str(name).replace('_', '-')}", value)
    return words


def _flag(flag: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, list):
        return [flag, *map(str, value)]
    return [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
