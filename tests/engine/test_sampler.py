"""Choosing tokens: against transformers' processors, against the definition by probabilities, and alone against in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from parity.core.batch import Chunk
from parity.core.request import Request, SamplingParams
from parity.engine.sampler import Sampler, joined, token_logprobs
from parity.stacks import reference

VOCAB = 50
EOS = 7


def chunk(position: int = 3, sample: int = 0, prompt: tuple[int, ...] = (1, 2), generated: tuple[int, ...] = (), **params: Any):
    request = Request("r", prompt, SamplingParams(**params), sample=sample)
    return Chunk(request, (1,), 5, (0,), 0, num_generated=position, generated=generated)


def choose(logits: torch.Tensor, chunks: list[Chunk]) -> list[int | None]:
    return [result.token for result in Sampler(reference.OPS, frozenset({EOS}))(logits.clone(), chunks)]


def random_logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, [9, 30, 4]] = 2.0
    assert choose(logits, [chunk(temperature=0.0)]) == [4]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
    ],
)
def test_frequencies_follow_the_filtered_distribution(params: dict[str, Any]) -> None:
    """Transformers' warpers, in its order, give the probabilities."""
    logits = random_logits(1, 5)
    scores, ids = logits.clone(), torch.zeros(1, 1, dtype=torch.long)
    scores = transformers.TemperatureLogitsWarper(float(params.get("temperature", 1.0)))(ids, scores)
    if "top_k" in params:
        scores = transformers.TopKLogitsWarper(params["top_k"])(ids, scores)
    if "top_p" in params:
        scores = transformers.TopPLogitsWarper(params["top_p"])(ids, scores)
    if "min_p" in params:
        scores = transformers.MinPLogitsWarper(params["min_p"])(ids, scores)
    expected = scores.softmax(-1)[0].numpy()
    count = 20_000
    tokens = choose(logits.expand(count, -1), [chunk(position=n, seed=11, **params) for n in range(count)])
    frequencies = np.bincount(np.array(tokens), minlength=VOCAB) / count
    assert (frequencies[expected == 0] == 0).all(), "a token that was filtered out was chosen"
    assert np.abs(frequencies - expected).sum() < 0.06


def test_penalties_equal_transformers() -> None:
    logits, prompt, generated = random_logits(1, 2), (3, 4, 5, 40), (8, 8, 40, 9)
    ids = torch.tensor([[*prompt, *generated]])
    expected = transformers.RepetitionPenaltyLogitsProcessor(1.7)(ids, logits.clone())
    seen = logits.clone()[0]
    sampler = Sampler(reference.OPS, frozenset())
    sampler._adjust(seen, chunk(prompt=prompt, generated=generated, repetition_penalty=1.7))
    torch.testing.assert_close(seen, expected[0])
    seen = logits.clone()[0]
    sampler._adjust(seen, chunk(prompt=prompt, generated=generated, presence_penalty=0.5, frequency_penalty=0.25))
    change = (logits[0] - seen).tolist()
    assert [round(change[token], 5) for token in (8, 40, 9, 3)] == [1.0, 0.75, 0.75, 0.0]


def test_bias_and_end_tokens() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, EOS] = 5.0
    logits[0, 20] = 4.0
    assert choose(logits, [chunk(position=0, temperature=0.0)]) == [EOS]
    assert choose(logits, [chunk(position=0, temperature=0.0, min_tokens=1)]) == [20]
    biased = chunk(position=0, temperature=0.0, min_tokens=1, stop_token_ids=(20,), logit_bias={33: 1.0})
    assert choose(logits, [biased]) == [33]


def test_a_sample_depends_on_seed_sample_and_position_and_not_on_the_batch() -> None:
    logits = random_logits(6, 9)
    chunks = [chunk(position=n, sample=n % 2, seed=n, top_p=0.8 + n / 100, top_k=n * 3) for n in range(6)]
    together = choose(logits, chunks)
    assert together == [choose(logits[n : n + 1], [chunks[n]])[0] for n in range(6)]
    wide = random_logits(1).expand(40, -1)
    assert len(set(choose(wide, [chunk(sample=n, seed=1, temperature=2.0) for n in range(40)]))) > 5


class Allowing:
    """A constraint that allows some tokens, or fails."""

    done = False

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens

    def mask(self) -> np.ndarray:
        if not self.tokens:
            raise ValueError("no way on")
        bits = np.zeros(-(-VOCAB // 32), dtype=np.uint32)
        for token in self.tokens:
            bits[token // 32] |= np.uint32(1 << token % 32)
        return bits

    def accept(self, token: int) -> None: ...


def constrained(*tokens: int) -> Chunk:
    request = Request("c", (1,), SamplingParams(temperature=0.0), constraint=Allowing(*tokens))
    return Chunk(request, (1,), 5, (0,), 0)


def test_a_constraint_limits_its_own_row_and_its_failure_ends_its_own_request() -> None:
    logits = random_logits(3, 4)
    results = Sampler(reference.OPS, frozenset())(logits.clone(), [constrained(45, 2), constrained(), chunk(temperature=0.0)])
    assert results[0].token in (45, 2)
    assert results[1].token is None
    assert "no way on" in str(results[1].error)
    assert results[2].token == int(logits[2].argmax())


def test_logits_that_are_not_numbers_are_an_error_of_their_request() -> None:
    logits = random_logits(2)
    logits[0, 3] = torch.nan
    results = Sampler(reference.OPS, frozenset())(logits, [chunk(temperature=0.0), chunk(temperature=0.0)])
    assert results[0].error is not None
    assert results[1].error is None


def test_logprobs_depend_on_no_other_row_and_no_number_of_threads() -> None:
    logits = torch.randn(12, 151_936, generator=torch.Generator().manual_seed(1)) * 3
    tokens = list(range(12))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together = token_logprobs(logits, tokens, 2)
        torch.set_num_threads(2)
        alone = [token_logprobs(logits[row : row + 1], tokens[row : row + 1], 2)[0] for row in tokens]
    finally:
        torch.set_num_threads(before)
    assert alone == together


def test_logprobs_are_those_of_the_model_and_ranked() -> None:
    logits = random_logits(2, 3)
    expected = logits.log_softmax(-1)
    order = logits.argsort(-1, descending=True)
    for row, entry in enumerate(token_logprobs(logits, [int(order[0, 4]), int(order[1, 0])], 3)):
        assert entry.logprob == pytest.approx(float(expected[row, entry.token]), abs=1e-6)
        assert [token for token, _ in entry.top] == order[row, :3].tolist()
        assert entry.rank == [5, 1][row]
    biased = chunk(temperature=0.0, logprobs=1, logit_bias={12: 50.0})
    result = Sampler(reference.OPS, frozenset())(logits.clone()[:1], [biased])[0]
    assert result.token == 12
    assert result.logprob is not None
    assert result.logprob.logprob == pytest.approx(float(expected[0, 12]), abs=1e-6)


def test_rows_chosen_after_others_are_joined_in_their_places() -> None:
    logits = random_logits(5, 6)
    logits[3, 1] = torch.nan
    kinds = [
        chunk(seed=4),
        chunk(temperature=0.0, logprobs=2),
        constrained(),
        chunk(temperature=0.0),
        chunk(seed=9, logprobs=1),
    ]
    sampler = Sampler(reference.OPS, frozenset())
    together = sampler(logits.clone(), kinds)
    choice = joined([sampler.choose(logits[rows].clone(), kinds[rows]) for rows in (slice(2), slice(2, 4), slice(4, 5))])
    found = choice.results(choice.tokens.tolist())
    assert [(one.token, one.logprob, one.error) for one in found] == [(one.token, one.logprob, one.error) for one in together]
    assert [result.error is None for result in together] == [True, True, False, False, True]
