"""The plan of one step (plain lists, made by the scheduler) and its tensors (`Batch`, made by the runner).

A batch is ragged: the tokens of all sequences stand one after the other, without padding.

    tokens     a a a a | b | c c          num_tokens = 7, num_sequences = 3
    starts     0         4   5    7       the rows of sequence s are starts[s] .. starts[s + 1]
    positions  8 9 10 11 | 3 | 0 1        the position in its own sequence
    lengths    12, 4, 2                   tokens whose state exists after this step
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .request import Request, TokenLogprobs

Rows = Literal["none", "last", "all"]

UNKNOWN = -1
"""Stands for a token that the step before has not brought yet."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one sequence computed in one step.

    Args:
        request: what was asked.
        tokens: the tokens computed, at positions `start`, `start + 1`, ...; `UNKNOWN` alone in a plan that follows another.
        start: tokens whose state already exists.
        pages: the sequence's pages in order, enough for `start + len(tokens)` tokens.
        slot: the place of its per-request state.
        rows: the positions whose logits are wanted.
        sample: whether a token is chosen from the last row.
        num_generated: tokens generated before this step: the position in the random sequence.
        generated: those tokens, where `sample` is set and a penalty needs them; otherwise empty.
        restore: a snapshot copied into the slot before the step; with None and `start` 0 the slot is zeroed.
        save: a snapshot that the slot is copied to after the step. One chunk may save to the id that another restores
            from, so all restores of a step come before all its saves.
    """

    request: Request
    tokens: tuple[int, ...]
    start: int
    pages: tuple[int, ...]
    slot: int
    rows: Rows = "last"
    sample: bool = True
    num_generated: int = 0
    generated: tuple[int, ...] = ()
    restore: int | None = None
    save: int | None = None

    @property
    def length(self) -> int:
        """Tokens whose state exists after the step."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: what to compute, nothing of how. An empty plan means there is nothing to do.

    Args:
        chunks: the work, one for each sequence.
        follows: where the step is given to the device before the tokens of the one before are known: for each chunk, which
            chunk of that step brings its token. Otherwise empty.
    """

    chunks: tuple[Chunk, ...]
    follows: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.chunks)

    @property
    def num_tokens(self) -> int:
        """Tokens computed in the step."""
        return sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a step brought for one chunk.

    Args:
        token: the token chosen, where the chunk's `sample` was set.
        logprob: that token's, where the request asks for them.
        prompt_logprobs: where `rows` is "all" and the request asks for them: one for each row whose next token is in the
            prompt, in order (the row at position p gives prompt token p + 1).
        array: float32: the logits [rows, vocabulary] of a `want="logits"` chunk whose `rows` is "all", or the last hidden
            state [hidden] for a `want="embedding"` chunk whose `rows` is "last".
        error: why this request cannot go on; the others are unaffected.
    """

    token: int | None = None
    logprob: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    array: np.ndarray | None = None
    error: str | None = None


Probe: TypeAlias = "Callable[[int, str, torch.Tensor], torch.Tensor | None]"
"""Called as (layer, site, value [tokens, ...]) inside the model; a tensor returned takes the value's place."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The tensors of one step, on the device; the `host_*` fields are the same numbers as Python values.

    Args:
        tokens: int32 [num_tokens].
        positions: int32 [num_tokens].
        starts: int32 [num_sequences + 1], first row of each sequence, which has one at least.
        lengths: int32 [num_sequences], tokens whose state exists after the step.
        pages: int32 [num_sequences, max_pages]; entries past a sequence's pages are unspecified.
        slots: int32 [num_sequences], the place of each sequence's per-request state.
        page_size: tokens in a page.
        host_starts: `starts`.
        host_lengths: `lengths`. In a captured graph these are the numbers at capture: kernels read the tensors.
        probe: sees (and may replace) values inside the model.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    pages: torch.Tensor
    slots: torch.Tensor
    page_size: int
    host_starts: tuple[int, ...]
    host_lengths: tuple[int, ...]
    probe: Probe | None = None

    @property
    def num_tokens(self) -> int:
        """Rows in the batch."""
        return self.host_starts[-1]

    @property
    def num_sequences(self) -> int:
        """Sequences in the batch."""
        return len(self.host_lengths)

    @property
    def decoding(self) -> bool:
        """Whether each sequence has exactly one token."""
        return self.num_tokens == self.num_sequences
