"""The engine's progress on one request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from ..core.batch import UNKNOWN, Chunk, Rows
from ..core.request import Request, TokenLogprobs, Usage
from .prefix import Entry

Status = Literal["waiting", "running", "finished"]


@dataclass(slots=True, eq=False)
class Sequence:
    """What has been computed of a request and what it holds. A waiting or finished one holds nothing.

    Args:
        request: what was asked.
        limit: most tokens, prompt and answer together; at least the prompt's.
        status: waiting, running or finished; preemption leads from running back to waiting.
        tokens: the prompt and what was generated so far.
        num_computed: the first so many tokens have their state in `pages` (and `slot`).
        pages: in order, at least enough for `num_computed` tokens.
        chain: the cache's entries of the first `len(chain)` pages.
        slot: the place of its per-request state, -1 if none.
        last_snapshot: tokens covered by the last snapshot saved or restored.
        queued_s: how long it waited for its first step.
        num_cached: prompt tokens taken from the cache when it was first admitted; None before that.
        num_rows_sent: prompt positions whose logits have gone out, for `want="logits"`.
        prompt_logprobs: those computed so far; None if not asked for or already sent.
    """

    request: Request
    limit: int
    status: Status = "waiting"
    tokens: list[int] = field(default_factory=list)
    num_computed: int = 0
    pages: list[int] = field(default_factory=list)
    chain: list[Entry] = field(default_factory=list)
    slot: int = -1
    last_snapshot: int = 0
    queued_s: float = 0.0
    num_cached: int | None = None
    num_rows_sent: int = 0
    prompt_logprobs: list[TokenLogprobs] | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.request.tokens)
        if self.request.params.prompt_logprobs is not None:
            self.prompt_logprobs = []

    @property
    def num_prompt(self) -> int:
        """Tokens in the prompt."""
        return len(self.request.tokens)

    @property
    def num_generated(self) -> int:
        """Tokens generated so far, also across preemptions."""
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Known tokens whose state is not computed: 1 while decoding."""
        return len(self.tokens) - self.num_computed

    @property
    def samples(self) -> bool:
        """Whether the request wants any token."""
        return self.request.want == "tokens" and self.limit > self.num_prompt

    @property
    def max_cached(self) -> int:
        """Most tokens that may come from the cache: one must be computed, and so must every row still to be reported."""
        limits = [len(self.tokens) - 1 if self.request.cache else 0]
        if self.request.want == "logits":
            limits.append(self.num_rows_sent)
        if self.prompt_logprobs is not None:
            limits.append(len(self.prompt_logprobs))
        return min(limits)

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return Usage(self.num_prompt, self.num_cached or 0, self.num_generated, self.queued_s)

    def chunk(self, end: int, restore: int | None = None, save: int | None = None) -> Chunk:
        """The work that brings `num_computed` to `end`."""
        sample = self.samples and end == len(self.tokens)
        return Chunk(
            request=self.request,
            tokens=tuple(self.tokens[self.num_computed : end]),
            start=self.num_computed,
            pages=tuple(self.pages),
            slot=self.slot,
            rows=self._rows(end),
            sample=sample,
            num_generated=self.num_generated,
            generated=tuple(self.tokens[self.num_prompt :]) if sample and self._penalised else (),
            restore=restore,
            save=save,
        )

    @contextmanager
    def after(self, chunk: Chunk) -> Iterator[None]:
        """While open, it stands as if a planned chunk had brought a token, whichever."""
        num_computed = self.num_computed
        self.num_computed = chunk.length
        self.tokens.append(UNKNOWN)
        try:
            yield
        finally:
            self.tokens.pop()
            self.num_computed = num_computed

    @property
    def awaits_tokens(self) -> bool:
        """Whether a step needs the tokens before it on the host: for a constraint, a penalty, or what is reported of them."""
        request, params = self.request, self.request.params
        return request.constraint is not None or self._penalised or params.logprobs is not None

    @property
    def _penalised(self) -> bool:
        params = self.request.params
        return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0

    def _rows(self, end: int) -> Rows:
        if self.request.want == "logits" and end > self.num_rows_sent:
            return "all"
        if self.prompt_logprobs is not None and len(self.prompt_logprobs) < min(end, self.num_prompt - 1):
            return "all"
        wanted = self.samples or self.request.want == "embedding"
        return "last" if wanted and end == len(self.tokens) else "none"

    def rewind(self, num_computed: int, page_size: int) -> list[int]:
        """Forgets the state from `num_computed` on; returns the pages no longer needed, which the caller releases."""
        assert num_computed <= self.num_computed
        assert num_computed == 0 or num_computed >= len(self.chain) * page_size, "cached pages are never written again"
        num_pages = -(-num_computed // page_size)
        dropped = self.pages[num_pages:]
        del self.pages[num_pages:], self.chain[num_pages:]
        self.num_computed = num_computed
        self.last_snapshot = min(self.last_snapshot, num_computed)
        return dropped
