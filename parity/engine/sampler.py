"""From logits to tokens: what a request asks for is applied to its own row, then one op chooses for all rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Chunk, Result
from ..core.request import Request, SamplingParams, TokenLogprobs
from ..stacks.ops import Ops
from .philox import uniforms

Send = Callable[[Tensor], Tensor]

_AHEAD = 32  # positions whose random numbers are drawn together
_PIECE = 1024  # numbers of a row that are added up by one thread


class Sampler:
    """Chooses the next token of each sampled chunk.

    Args:
        ops: the table that has `sample`.
        eos_token_ids: held back while `min_tokens` is not reached.
        send: brings the host's numbers to where the logits are, as `Device.send` does; by default that is the host.
    """

    def __init__(self, ops: Ops, eos_token_ids: frozenset[int], send: Send = lambda data: data) -> None:
        self._ops, self._send = ops, send
        self._eos = eos_token_ids
        self._settings: Settings | None = None

    def __call__(self, logits: Tensor, chunks: Sequence[Chunk]) -> list[Result]:
        """One result for each row of `logits`, float32 [R, V]; rows of requests that ask for it are changed in place."""
        choice = self.choose(logits, chunks)
        return choice.results(choice.tokens.tolist())

    def choose(self, logits: Tensor, chunks: Sequence[Chunk]) -> Choice:
        """The tokens where the logits are, and what makes results of them once they are known; changes rows as above."""
        settings = self._settings
        if settings is None or not settings.fit(chunks):
            settings = self._settings = Settings([chunk.request for chunk in chunks], self._send)
        raw = {row: logits[row].clone() for row in settings.adjusted if row in settings.logprobs}
        errors = {row: self._adjust(logits[row], chunks[row]) for row in settings.adjusted}
        tokens = self._ops.sample(logits, *settings.columns, settings.uniform(chunks))
        reported = {row: (raw.get(row, logits[row]), count) for row, count in settings.logprobs.items()}
        return Choice(tokens, reported, {row: error for row, error in errors.items() if error is not None})

    def _adjust(self, row: Tensor, chunk: Chunk) -> str | None:
        """Penalties, bias and constraint on one row [V], in place; says what failed, if anything."""
        params = chunk.request.params
        _penalise(row, chunk, params, self._send)
        if params.logit_bias:
            tokens, biases = torch.tensor(list(params.logit_bias)), torch.tensor(list(params.logit_bias.values()))
            row[self._send(tokens)] += self._send(biases.float())
        if chunk.num_generated < params.min_tokens:
            stops = [token for token in {*self._eos, *params.stop_token_ids} if token < row.shape[0]]
            row[self._send(torch.tensor(stops, dtype=torch.int64))] = -torch.inf
        if chunk.request.constraint is not None:
            try:
                allowed = chunk.request.constraint.mask()
            except Exception as error:  # a constraint is the caller's code: it ends its own request only
                return f"the constraint failed: {error}"
            if allowed is not None:
                bits = np.unpackbits(allowed.view(np.uint8), bitorder="little", count=row.shape[0])
                row.masked_fill_(self._send(torch.from_numpy(bits)) == 0, -torch.inf)
        return None


@dataclass(frozen=True, slots=True)
class Choice:
    """The tokens of a step, which may not be computed yet.

    Args:
        tokens: int64 [R], where the logits are; -1 where none can be chosen.
        reported: the logits and how many log-probabilities are wanted, of the rows that want any.
        errors: why a row gets no token, where it gets none.
    """

    tokens: Tensor
    reported: Mapping[int, tuple[Tensor, int]]
    errors: Mapping[int, str]

    def results(self, tokens: Sequence[int]) -> list[Result]:
        """One for each row.

        Args:
            tokens: `tokens`, brought to the host.
        """
        results = [Result(token) for token in tokens]
        for row, (logits, count) in self.reported.items():
            if tokens[row] >= 0:
                (logprob,) = token_logprobs(logits[None], [tokens[row]], count)
                results[row] = Result(tokens[row], logprob)
        for row, token in enumerate(tokens):
            if token < 0:
                results[row] = Result(error="no token can be chosen: the logits are not numbers or all are masked")
        for row, error in self.errors.items():
            results[row] = Result(error=error)
        return results


def joined(parts: Sequence[Choice]) -> Choice:
    """The choice of all rows from those of some after the others."""
    if len(parts) == 1:
        return parts[0]
    reported: dict[int, tuple[Tensor, int]] = {}
    errors: dict[int, str] = {}
    first = 0
    for part in parts:
        reported |= {first + row: wanted for row, wanted in part.reported.items()}
        errors |= {first + row: error for row, error in part.errors.items()}
        first += len(part.tokens)
    return Choice(torch.cat([part.tokens for part in parts]), reported, errors)


class Settings:
    """What the requests of a step ask for, as the op takes it; kept while the same ones are decoded.

    Args:
        requests: one for each row.
        send: brings numbers to where the logits are.
    """

    def __init__(self, requests: Collection[Request], send: Send) -> None:
        self._requests, self._send = list(requests), send
        params = [request.params for request in requests]
        floats = np.array([(p.temperature, p.top_p, p.min_p, 0.0) for p in params], np.float32).T.copy()
        temperature, top_p, min_p, none = send(torch.from_numpy(floats)).unbind()
        self._none = none
        self.columns = (temperature, send(torch.tensor([p.top_k for p in params], dtype=torch.int32)), top_p, min_p)
        """temperature, top_k, top_p and min_p of each row."""
        self.adjusted = [row for row, request in enumerate(requests) if _is_adjusted(request)]
        """Rows whose logits are changed before a token is chosen."""
        self.logprobs = {row: p.logprobs for row, p in enumerate(params) if p.logprobs is not None}
        """How many log-probabilities each row wants, where it wants any."""
        self._greedy = all(p.temperature == 0 for p in params)
        self._first = np.zeros(len(params), np.int64)  # the position of each row's first number in the table
        self._table = torch.zeros(0, len(params))

    def fit(self, chunks: Sequence[Chunk]) -> bool:
        """Whether these are the same requests in the same rows."""
        if len(chunks) != len(self._requests):
            return False
        return all(chunk.request is request for chunk, request in zip(chunks, self._requests, strict=True))

    def uniform(self, chunks: Sequence[Chunk]) -> Tensor:
        """Each row's random number, float32 [R]; where no row samples they are not drawn."""
        if self._greedy:
            return self._none
        positions = np.array([chunk.num_generated for chunk in chunks], np.int64)
        places = positions - self._first
        place = int(places[0])
        if not (0 <= place < len(self._table) and (places == place).all()):
            self._draw(positions)
            place = 0
        return self._table[place]

    def _draw(self, first: np.ndarray) -> None:
        seeds = [request.params.seed or 0 for request in self._requests for _ in range(_AHEAD)]
        samples = [request.sample for request in self._requests for _ in range(_AHEAD)]
        positions = (first[:, None] + np.arange(_AHEAD)).ravel()
        numbers = uniforms(seeds, samples, positions.tolist()).reshape(len(first), _AHEAD)
        # On the device and in the order of steps: a step copies nothing.
        self._first, self._table = first, self._send(torch.from_numpy(np.ascontiguousarray(numbers.T)))


def _is_adjusted(request: Request) -> bool:
    params = request.params
    penalised = params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0
    return penalised or bool(params.logit_bias) or params.min_tokens > 0 or request.constraint is not None


def _penalise(row: Tensor, chunk: Chunk, params: SamplingParams, send: Send) -> None:
    """Repetition over prompt and output as CTRL has it; presence and frequency over the output as OpenAI has them."""
    if params.repetition_penalty != 1.0:
        seen = send(torch.tensor(sorted({*chunk.request.tokens, *chunk.generated})))
        values = row[seen]
        penalty = params.repetition_penalty
        row[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if chunk.generated and (params.presence_penalty or params.frequency_penalty):
        tokens, counts = torch.tensor(chunk.generated).unique(return_counts=True)
        row[send(tokens)] -= send(params.presence_penalty + params.frequency_penalty * counts.float())


def token_logprobs(logits: Tensor, tokens: Sequence[int], count: int) -> list[TokenLogprobs]:
    """The log-probability of one token a row and the `count` best of each row of `logits` float32 [R, V]."""
    chosen = torch.tensor(tokens, device=logits.device)[:, None]
    total = _log_of_sum(logits)
    values = logits.gather(1, chosen)
    ranks = ((logits > values).sum(-1) + 1).tolist()
    best = logits.topk(min(count, logits.shape[1]), dim=-1)
    rows = []
    logprobs, tops = (values - total)[:, 0].tolist(), (best.values - total).tolist()
    for row, ids in enumerate(best.indices.tolist()):
        pairs = sorted(zip(ids, tops[row], strict=True), key=lambda pair: (-pair[1], pair[0]))
        rows.append(TokenLogprobs(tokens[row], logprobs[row], ranks[row], tuple(pairs)))
    return rows


def _log_of_sum(logits: Tensor) -> Tensor:
    """log(sum(exp(row))) of each row [R, V]: [R, 1]. `logsumexp` lets threads share a row that is alone, and then the last
    bit depends on how many there are and on what else is in the step; pieces of one size do not.
    """
    highest = logits.amax(-1, keepdim=True)
    shares = (logits - highest).exp_()
    whole = shares.shape[1] // _PIECE * _PIECE
    pieces = shares[:, :whole].unflatten(1, (whole // _PIECE, _PIECE)).sum(-1)
    total = pieces.sum(-1, keepdim=True) + shares[:, whole:].sum(-1, keepdim=True)
    result: Tensor = highest + total.log_()
    return result
