"""Token ids to text, as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from .tokenizer import Tokenizer


class TextStream:
    """The text of a growing list of tokens.

    What the pushes and the flush return, joined, is `tokenizer.decode` of all tokens, up to the first stop string. The
    first is the one that is complete first; of several complete at once, the longest.

    Args:
        tokenizer: whose tokens they are.
        stop: strings that end the text and are not part of it.
        skip_special_tokens: leave structure tokens out.
        keep: structure tokens that are not left out, such as the marks of tool calls.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...] = (),
        skip_special_tokens: bool = True,
        keep: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids - keep if skip_special_tokens else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._cutter = StopCutter(stop)

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text, if one did; later pushes return nothing."""
        return self._cutter.stopped

    def push(self, tokens: Iterable[int]) -> str:
        """The text that is now certain."""
        data = b"".join([self._tokenizer.token_bytes(token) for token in tokens if token not in self._skipped])
        return self._cutter.push(self._decoder.decode(data))

    def flush(self) -> str:
        """The rest: what was held back, and U+FFFD for a character that never became whole."""
        return self._cutter.push(self._decoder.decode(b"", final=True)) + self._cutter.flush()


class StopCutter:
    """Passes text on up to the first stop string, and holds back what may be the beginning of one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""
        self.stopped: str | None = None

    def push(self, text: str) -> str:
        """The text that is certainly before any stop string."""
        if self.stopped is not None:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        found = [(position + len(stop), position, stop) for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            _, position, self.stopped = min(found)
            self._held = ""
            return text[:position]
        held = max(partial_suffix(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back: no stop string came of it."""
        held, self._held = self._held, ""
        return held


def partial_suffix(text: str, mark: str) -> int:
    """How many characters at the end of a text are a proper beginning of a mark, at most."""
    for size in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[len(text) - size :]):
            return size
    return 0
