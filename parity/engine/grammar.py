"""Grammars: which tokens may come next, so that an answer is always valid JSON, a regex's match or a call to a tool.

A grammar is compiled once by llguidance and copied for each request. The mask of the next step is computed in a worker
thread as soon as the last token is accepted, while the model computes: the step itself finds it ready. The library is
imported when somebody asks for a grammar: a server that nobody asks need not hold it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import RequestError
from ..core.request import Constraint

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_GRAMMAR_BYTES = 512 * 1024
_LIMITS: Any = {"max_grammar_size": 200_000, "initial_lexer_fuel": 2_000_000}
_JSON_OPTIONS: Any = {"whitespace_flexible": True, "whitespace_pattern": r"[ \n\r\t]{1,24}"}
_CACHED_GRAMMARS = 64
MAX_DIGITS = 39
"""Digits of a JSON number in a row, after which it must go on otherwise or end: those of the largest integer of 128 bits. A
schema sets no end to them, and a model that repeats itself would write zeros to the end of its tokens."""
_TEXT = r'[^"\\\x00-\x1F\x7F]'
_SLICES = [_TEXT + "{1,10}", _TEXT + "{1,30}"]
"""Tokens within a JSON string whose masks are kept ready. The library's two more, for white space and for strings of any
length, gain nothing beside these (a mask takes 20 to 300 us with or without them), and of 151,936 tokens they cost 25 MiB."""


def json_schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of the JSON texts that are valid against a schema. White space between items is bounded."""
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=_JSON_OPTIONS)


def regex_grammar(pattern: str) -> str:
    """The grammar of the texts that match a regular expression from their first to their last character."""
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(pattern)


def lark_grammar(text: str) -> str:
    """The grammar written in llguidance's variant of Lark; its rule `start` is the whole answer."""
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_lark(text)


class Grammars:
    """Compiles grammars over one vocabulary. Safe to use from any thread.

    Args:
        token_bytes: the bytes of each token id; empty for ids that stand for no text.
        encode: the tokens of a text in which nothing is special: the ones allowed where a grammar leaves no choice.
        special: the ids of control tokens, which no text may spell.
        eos: the ids that end an answer; allowed wherever the grammar is satisfied.
        num_threads: workers that compute masks ahead of need.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        *,
        encode: Callable[[str], list[int]],
        special: Collection[int],
        eos: Collection[int],
        num_threads: int = 2,
    ) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        if not eos:
            raise ValueError("a grammar needs at least one token that ends an answer")
        self._digits = _Digits(token_bytes)
        vocabulary = _Vocabulary(tuple(token_bytes), encode, special, sorted(eos))
        self._tokenizer = LLTokenizer(TokenizerWrapper(vocabulary), eos_token=sorted(eos), slices=_SLICES)
        vocabulary.tokens = ()  # copied
        self._workers = ThreadPoolExecutor(num_threads, thread_name_prefix="grammar")
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = Lock()

    def constraint(self, grammar: str, *, field: str | None = None) -> Constraint:
        """A fresh constraint for one request.

        Raises:
            RequestError: the grammar cannot be honoured; the text names the keyword, and `field` the request's field.
        """
        matcher = self._matcher(grammar, field)
        digits = self._digits if _has_schema(grammar) else None
        return GrammarConstraint(matcher, self._tokenizer.vocab_size, self._workers, digits)

    def close(self) -> None:
        """Stops the workers."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _matcher(self, grammar: str, field: str | None) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        with self._lock:
            if (known := self._compiled.get(grammar)) is not None:
                self._compiled.move_to_end(grammar)
                return known.deep_copy()
        if len(grammar) > MAX_GRAMMAR_BYTES:
            raise RequestError(f"the grammar has {len(grammar)} bytes; at most {MAX_GRAMMAR_BYTES} are allowed", field=field)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LLParserLimits(**_LIMITS))
        if matcher.is_error():
            raise RequestError(f"{field or 'the grammar'} cannot be honoured: {_first_lines(matcher.get_error())}", field=field)
        with self._lock:
            self._compiled[grammar] = matcher
            if len(self._compiled) > _CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
        return matcher.deep_copy()


class GrammarConstraint:
    """A `core.request.Constraint` over one matcher. One request's calls come one after the other.

    Args:
        matcher: where the grammar stands.
        vocab_size: width of the masks.
        workers: where masks are computed.
        digits: bounds the numbers of a JSON schema; None for a grammar that bounds what it wants to.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, workers: ThreadPoolExecutor, digits: _Digits | None = None) -> None:
        self._matcher = matcher
        self._num_words = -(-vocab_size // 32)
        self._workers = workers
        self._digits = digits
        self._num_digits = 0
        self._done = False  # a matcher that computes a mask cannot be asked
        self._next: Future[np.ndarray] = workers.submit(self._compute)

    def mask(self) -> np.ndarray | None:
        """The tokens allowed next: uint32 [ceil(vocabulary / 32)], bit t % 32 of word t // 32."""
        return self._next.result()

    def accept(self, token: int) -> None:
        """Moves on by a token that was chosen; the next mask is begun at once.

        Raises:
            RequestError: the grammar became too complex to follow, or the token was not allowed.
        """
        self._next.result()
        if not self._matcher.consume_token(token):
            raise RequestError(f"the grammar stopped: {_first_lines(self._matcher.get_error())}")
        self._done = self._matcher.is_stopped()
        if self._digits is not None:
            self._num_digits = self._digits.after(token, self._num_digits)
        if not self._done:
            self._next = self._workers.submit(self._compute)

    @property
    def done(self) -> bool:
        """Whether the grammar is complete, so that only an end may follow."""
        return self._done

    def _compute(self) -> np.ndarray:
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)[: self._num_words]
        if self._matcher.is_error():
            raise RequestError(f"the grammar stopped: {_first_lines(self._matcher.get_error())}")
        if self._digits is not None and self._num_digits >= MAX_DIGITS:
            return self._digits.bounded(mask)
        return mask


class _Digits:
    """The digits that each token of a vocabulary begins and ends with.

    Args:
        token_bytes: the bytes of each token id.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        begins = np.zeros(-(-len(token_bytes) // 32) * 32, dtype=bool)
        begins[: len(token_bytes)] = [token[:1].isdigit() for token in token_bytes]
        self._begins = np.packbits(begins, bitorder="little").view(np.uint32)
        self._ends = np.array([len(token) - len(token.rstrip(b"0123456789")) for token in token_bytes], dtype=np.uint16)
        self._is_whole = self._ends == [max(1, len(token)) for token in token_bytes]
        self._quote = next((index for index, token in enumerate(token_bytes) if token == b'"'), None)

    def after(self, token: int, num_digits: int) -> int:
        """How many digits in a row end a text that ended with `num_digits`, once a token follows."""
        return int(self._ends[token]) + (num_digits if self._is_whole[token] else 0)

    def bounded(self, mask: np.ndarray) -> np.ndarray:
        """A mask without tokens that begin with a digit, unless the digits are a string's or nothing else may follow.

        Args:
            mask: uint32 [ceil(vocabulary / 32)].
        """
        if self._quote is not None and mask[self._quote // 32] >> np.uint32(self._quote % 32) & 1:
            return mask  # a string may end in a quote, a number may not
        rest = mask & ~self._begins[: len(mask)]
        return rest if rest.any() else mask


class ForcedEnd:
    """Lets a span of thought run for a budget of tokens, then allows only the tokens that close it.

    Args:
        budget: tokens allowed before the span is closed.
        closing: the tokens that close it, such as those of a closing tag.
        vocab_size: width of the masks.
        after: a constraint on what follows the span; None allows all.
    """

    def __init__(self, budget: int, closing: Sequence[int], vocab_size: int, after: Constraint | None = None) -> None:
        self._budget = budget
        self._closing = tuple(closing)
        self._num_words = -(-vocab_size // 32)
        self._recent: tuple[int, ...] = ()
        self._forced = 0
        self._closed = False
        self._after = after

    def mask(self) -> np.ndarray | None:
        """All tokens within the budget, then only the next token of the closing."""
        if self._closed:
            return self._after.mask() if self._after else None
        if self._budget > 0:
            return None
        token = self._closing[self._forced]
        mask = np.zeros(self._num_words, dtype=np.uint32)
        mask[token // 32] = np.uint32(1 << (token % 32))
        return mask

    def accept(self, token: int) -> None:
        """Counts a token; the span is closed once the closing tokens were seen in a row."""
        if self._closed:
            if self._after:
                self._after.accept(token)
            return
        self._forced += self._budget <= 0
        self._budget -= 1
        self._recent = (*self._recent, token)[-len(self._closing) :]
        self._closed = self._recent == self._closing

    @property
    def done(self) -> bool:
        """Whether the constraint on what follows is done."""
        return self._closed and self._after is not None and self._after.done


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(
        self, tokens: tuple[bytes, ...], encode: Callable[[str], list[int]], special: Collection[int], eos: Sequence[int]
    ) -> None:
        self.tokens = tokens
        self.special_token_ids = sorted(token for token in special if tokens[token])
        self.eos_token_id = eos[0]
        self._encode = encode

    def __call__(self, text: str) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("a text, not bytes")  # which is how llguidance finds out what it may give
        return self._encode(text)


def _has_schema(grammar: str) -> bool:
    """Whether a part of a grammar is a JSON schema. Lark alone is not written as JSON."""
    return grammar.startswith("{") and any(part.get("json_schema") is not None for part in json.loads(grammar)["grammars"])


def _first_lines(text: str, num_lines: int = 4) -> str:
    return "; ".join(line.strip() for line in text.strip().splitlines()[:num_lines] if line.strip())
