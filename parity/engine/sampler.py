"""From logits to tokens: what a request asks for is applied to its own row, then one op chooses for all rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Chunk, Result
from ..core.request import SamplingParams, TokenLogprobs
from ..stacks.ops import Ops
from .philox import uniforms


class Sampler:
    """Chooses the next token of each sampled chunk.

    Args:
        ops: the table that has `sample`.
        eos_token_ids: held back while `min_tokens` is not reached.
    """

    def __init__(self, ops: Ops, eos_token_ids: frozenset[int]) -> None:
        self._ops = ops
        self._eos = eos_token_ids

    def __call__(self, logits: Tensor, chunks: Sequence[Chunk]) -> list[Result]:
        """One result for each row of `logits`, float32 [R, V], which is changed in place."""
        asked = [chunk.request.params.logprobs for chunk in chunks]
        raw = [logits[row].clone() if count is not None else None for row, count in enumerate(asked)]
        errors = [self._adjust(logits[row], chunk) for row, chunk in enumerate(chunks)]
        tokens = self._choose(logits, chunks)
        results = []
        for row, (token, error) in enumerate(zip(tokens, errors, strict=True)):
            error = error or (None if token >= 0 else "no token can be chosen: the logits are not numbers or all are masked")
            values, count = raw[row], asked[row]
            logprob = None
            if error is None and values is not None and count is not None:
                logprob = token_logprobs(values[None], [token], count)[0]
            results.append(Result(token=None if error else token, logprob=logprob, error=error))
        return results

    def _choose(self, logits: Tensor, chunks: Sequence[Chunk]) -> list[int]:
        """The token of each row; -1 where a row holds something that is no number, or nothing but -inf."""
        params = [chunk.request.params for chunk in chunks]
        numbers = uniforms(
            [p.seed or 0 for p in params],
            [chunk.request.sample for chunk in chunks],
            [chunk.num_generated for chunk in chunks],
        )
        columns = np.array([[p.temperature, p.top_p, p.min_p] for p in params], dtype=np.float32)
        temperature, top_p, min_p, uniform = (
            torch.from_numpy(np.ascontiguousarray(column)).to(logits.device) for column in (*columns.T, numbers)
        )
        top_k = torch.tensor([p.top_k for p in params], dtype=torch.int32, device=logits.device)
        tokens = self._ops.sample(logits, temperature, top_k, top_p, min_p, uniform).long()
        return tokens.where(logits.amax(-1).isfinite(), -1).tolist()

    def _adjust(self, row: Tensor, chunk: Chunk) -> str | None:
        """Penalties, bias and constraint on one row [V], in place; says what failed, if anything."""
        params = chunk.request.params
        _penalise(row, chunk, params)
        for token, bias in params.logit_bias.items():
            if token < row.shape[0]:
                row[token] += bias
        if chunk.num_generated < params.min_tokens:
            stops = [token for token in {*self._eos, *params.stop_token_ids} if token < row.shape[0]]
            row[stops] = -torch.inf
        if chunk.request.constraint is not None:
            try:
                allowed = chunk.request.constraint.mask()
            except Exception as error:  # a constraint is the caller's code: it ends its own request only
                return f"the constraint failed: {error}"
            if allowed is not None:
                bits = np.unpackbits(allowed.view(np.uint8), bitorder="little", count=row.shape[0])
                row.masked_fill_(torch.from_numpy(bits).to(row.device) == 0, -torch.inf)
        return None


def _penalise(row: Tensor, chunk: Chunk, params: SamplingParams) -> None:
    """Repetition over prompt and output as CTRL has it; presence and frequency over the output as OpenAI has them."""
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*chunk.request.tokens, *chunk.generated}), device=row.device)
        values = row[seen]
        penalty = params.repetition_penalty
        row[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if chunk.generated and (params.presence_penalty or params.frequency_penalty):
        tokens, counts = torch.tensor(chunk.generated, device=row.device).unique(return_counts=True)
        row[tokens] -= params.presence_penalty + params.frequency_penalty * counts.float()


def token_logprobs(logits: Tensor, tokens: Sequence[int], count: int) -> list[TokenLogprobs]:
    """The log-probability of one token a row and the `count` best of each row of `logits` float32 [R, V]."""
    chosen = torch.tensor(tokens, device=logits.device)[:, None]
    total = logits.logsumexp(-1, keepdim=True)
    values = logits.gather(1, chosen)
    ranks = ((logits > values).sum(-1) + 1).tolist()
    best = logits.topk(min(count, logits.shape[1]), dim=-1)
    rows = []
    logprobs, tops = (values - total)[:, 0].tolist(), (best.values - total).tolist()
    for row, ids in enumerate(best.indices.tolist()):
        pairs = sorted(zip(ids, tops[row], strict=True), key=lambda pair: (-pair[1], pair[0]))
        rows.append(TokenLogprobs(tokens[row], logprobs[row], ranks[row], tuple(pairs)))
    return rows
