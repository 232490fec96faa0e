"""The loop at a terminal: a line in, an answer out, and the slash commands."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ..core.errors import ContextExceeded, ParityError, UsageError
from .conversation import Conversation
from .terminal import messages, reply, say, write

PROMPT = ">>> "
_COMMAND = re.compile(r"/[a-z?]+( .*)?")  # on a line of its own: a path, a comment or a paste that begins with / is text
_HELP = {
    "/help": "this list",
    "/clear": "forget the conversation; the system message stays",
    "/system [TEXT]": "show or set the system message; `/system none` takes it away",
    "/think [on|off]": "show, or switch, whether the model thinks before it answers",
    "/save [PATH]": "write the conversation to a new JSON file",
    "/stats": "tokens and speed so far",
    "/quit": "leave (as do Ctrl-D, and Ctrl-C twice)",
}


def talk(conversation: Conversation) -> int:
    """Reads lines until the user leaves. A line that ends in a backslash goes on in the next."""
    history = _History()
    try:
        _talk(conversation)
    finally:
        history.save()
    return 0


def _talk(conversation: Conversation) -> None:
    interrupted = False
    while True:
        try:
            line = read_prompt()
        except EOFError:
            write("\n")
            break
        except KeyboardInterrupt:
            write("\n")
            if interrupted:
                break
            interrupted = True
            say("Ctrl-C again, or /quit, leaves")
            continue
        interrupted = False
        try:
            if _COMMAND.fullmatch(line.strip()):
                if not command(conversation, line.strip()):
                    break
            elif line.strip():
                interrupted = _answer(conversation, line)
        except ParityError as error:
            again = "; /clear makes room" if isinstance(error, ContextExceeded) else ""
            messages().print(f"error: {error}{again}", style="red")


def read_prompt() -> str:
    """What the user wrote, up to a line without a backslash at its end."""
    lines = [input(PROMPT)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input("... "))
    return "\n".join(lines)


def command(conversation: Conversation, line: str) -> bool:
    """Does what a slash command says; False means leave.

    Raises:
        UsageError: there is no such command, or it cannot be done.
    """
    word, _, rest = line.partition(" ")
    if word in ("/quit", "/exit", "/bye"):
        return False
    actions: dict[str, Callable[[Conversation, str], None]] = {
        "/help": _help,
        "/clear": _clear,
        "/system": _system,
        "/think": _think,
        "/save": _save,
        "/stats": _stats,
    }
    if word not in actions:
        raise UsageError(f"there is no command {word}; /help lists them")
    actions[word](conversation, rest.strip())
    return True


def _answer(conversation: Conversation, line: str) -> bool:
    """Whether Ctrl-C stopped it."""
    turn = conversation.answer(line)
    write("\n")
    say(turn.summary())
    return turn.finish is None


def _help(conversation: Conversation, rest: str) -> None:
    width = max(map(len, _HELP))
    for name, meaning in _HELP.items():
        reply(f"{name:<{width}}  {meaning}")


def _clear(conversation: Conversation, rest: str) -> None:
    conversation.clear()
    reply("the conversation is forgotten")


def _system(conversation: Conversation, rest: str) -> None:
    if rest:
        conversation.system = None if rest == "none" else rest
    reply(f"system: {conversation.system}" if conversation.system else "there is no system message of yours")


def _think(conversation: Conversation, rest: str) -> None:
    from ..text.switches import layered, thinking_of

    if rest not in ("", "on", "off"):
        raise UsageError(f"/think is on or off, not {rest}")
    if rest:
        conversation.template = layered(conversation.template, {"enable_thinking": rest == "on"})
    state = {None: "as the model likes", True: "on", False: "off"}[thinking_of(conversation.template)]
    reply(f"thinking: {state}")


def _save(conversation: Conversation, rest: str) -> None:
    path = Path(rest or time.strftime("chat-%Y%m%d-%H%M%S.json")).expanduser()
    turns = [{"role": "system", "content": conversation.system}] if conversation.system else []
    for message in conversation.messages:
        turns.append({name: value for name, value in asdict(message).items() if value})
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump({"model": conversation.llm.info.name, "messages": turns}, file, ensure_ascii=False, indent=1)
    except FileExistsError:
        raise UsageError(f"{path} exists; name another file") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another place") from error
    reply(f"saved {len(conversation.messages)} messages to {path}")


def _stats(conversation: Conversation, rest: str) -> None:
    turns = [turn for turn in conversation.turns if turn.finish is not None]
    generated = sum(turn.usage.num_generated_tokens for turn in turns)
    prompt = sum(turn.usage.num_prompt_tokens for turn in turns)
    cached = sum(turn.usage.num_cached_tokens for turn in turns)
    reply(f"turns      {len(conversation.turns)} ({len(conversation.turns) - len(turns)} stopped)")
    reply(f"generated  {generated} tokens")
    reply(f"prompts    {prompt} tokens, {cached} of them from the prefix cache")
    if turns:
        used = turns[-1].usage.num_prompt_tokens + turns[-1].usage.num_generated_tokens
        reply(f"context    {used} of {conversation.llm.info.max_model_len} tokens after the last answer")
        reply(f"speed      {turns[-1].tokens_per_second:.1f} tokens/s in the last answer")


class _History:
    """The lines typed, kept between sessions where the platform can edit lines."""

    def __init__(self) -> None:
        state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        self._path = Path(state).expanduser() / "parity" / "history"
        try:
            import readline
        except ImportError:  # a Python without it: lines are read, not edited
            self._readline = None
            return
        self._readline = readline
        readline.set_history_length(1000)
        try:
            readline.read_history_file(self._path)
        except OSError:
            say(f"typed lines will be kept in {self._path}")

    def save(self) -> None:
        """Writes the file; a place that cannot be written is no reason to fail on leaving."""
        if self._readline is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._readline.write_history_file(self._path)
        except OSError as error:
            say(f"the lines typed were not kept: {error}")
