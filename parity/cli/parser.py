"""argparse with errors that say what to do, and checks of numbers and paths."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """No abbreviated flags; an unknown flag or verb names the nearest one."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        """Exits with 2."""
        self.exit(2, f"{self.prog}: error: {message}{self._hint(message)}\nsee `{self.prog} --help`\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Reports an unknown flag in the name of the verb that it was given to."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._verb(getattr(parsed, "verb", None)).error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed

    def _print_message(self, message: str, file: Any = None) -> None:
        """Writes help so that a full disk is told, which argparse would hide."""
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def _verb(self, name: str | None) -> Parser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and name in action.choices:
                found: Parser = action.choices[name]
                return found
        return self

    def _hint(self, message: str) -> str:
        if message.startswith("unrecognized arguments:"):
            wrong = message.split()[2].partition("=")[0]
            known = [flag for action in self._actions for flag in action.option_strings]
        elif "invalid choice:" in message:
            wrong = message.partition("invalid choice: ")[2].partition(" ")[0].strip("'")
            known = [str(choice) for action in self._actions for choice in action.choices or ()]
        else:
            return ""
        near = difflib.get_close_matches(wrong, known, n=1)
        return f"; did you mean {near[0]}?" if near else ""


def existing_file(text: str) -> Path:
    """A file or a pipe that can be read, or `-` for standard input."""
    path = Path(text).expanduser()
    if text != "-" and (not path.exists() or path.is_dir()):
        raise argparse.ArgumentTypeError(f"{text} is no file")
    return path


def read_text(path: Path) -> str:
    """A file's text; `-` is standard input.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    from ..core.errors import UsageError

    own = str(path) == "-"
    name = "standard input" if own else str(path)
    try:
        return sys.stdin.buffer.read().decode() if own else path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}; check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text (byte {error.start}); convert it first") from error
