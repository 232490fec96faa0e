"""A benchmark from beginning to end: rounds in turns with a peer, and their medians beside the limit."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.request import Request, SamplingParams
from ..engine.engine import Engine
from ..engine.load import EngineConfig, compute_dtype, load_model, make_engine, quantised, use_threads
from ..hub.checkpoint import Checkpoint, open_checkpoint
from ..stacks.base import Stack
from ..stacks.registry import open_stack
from .peer import Peer
from .reads import step_bytes
from .steps import Steps, memory_rates
from .work import Work

_PEER_KEYS = {"first_token": "prefill"}  # what of the peer's stands for a row of ours


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        work: what was done.
        seconds: of our median round: of the prompt, of one step, or of all requests.
        num_tokens: tokens read or generated in that time; a rate is `num_tokens / seconds`.
        limit_s: the least that it could take, where reading the weights bounds it: at the memory's speed around it.
        fraction: reached of the limit, the median of what each round reached of its own: the memory's speed drifts.
        peer_s: the peer's median.
    """

    work: str
    seconds: float
    num_tokens: int
    limit_s: float | None = None
    peer_s: float | None = None
    fraction: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the peer."""
        return None if self.peer_s is None else self.peer_s / self.seconds

    def as_json(self) -> dict[str, Any]:
        """By name."""
        rate = self.num_tokens / self.seconds
        return {
            "work": self.work,
            "seconds": self.seconds,
            "tokens_per_s": rate,
            "limit_tokens_per_s": None if self.limit_s is None else self.num_tokens / self.limit_s,
            "fraction_of_limit": self.fraction,
            "peer_tokens_per_s": None if self.peer_s is None else self.num_tokens / self.peer_s,
            "ratio_to_peer": self.ratio,
        }


@dataclass(frozen=True)
class Report:
    """What came of it.

    Args:
        read_bytes_per_s: the memory's speed, the median of reads before and after each row that it bounds.
        step_bytes: weights read in a step, by number of streams.
        rounds: seconds of every row of every round, ours and the peer's.
    """

    model: str
    stack: str
    dtype: str
    device: Mapping[str, str]
    read_bytes_per_s: float
    step_bytes: Mapping[int, float]
    rows: Sequence[Row]
    peer: str | None
    rounds: Sequence[Mapping[str, Mapping[str, float]]]

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "model": self.model,
            "stack": self.stack,
            "dtype": self.dtype,
            "device": dict(self.device),
            "memory_bytes_per_s": self.read_bytes_per_s,
            "step_bytes": {str(streams): size for streams, size in self.step_bytes.items()},
            "peer": self.peer,
            "rows": [row.as_json() for row in self.rows],
            "rounds": [dict(one) for one in self.rounds],
        }


class Bench:
    """A loaded model and what is measured of it.

    Args:
        path: the model's files.
        name: what it is called.
        work: the sizes.
        spec, dtype, quantize, threads: where it runs and in what, as in `EngineConfig`.

    Raises:
        ParityError: the model cannot be loaded, or the work does not fit it.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        work: Work,
        spec: str | None = None,
        dtype: str | None = None,
        quantize: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.stack, stack_dtype = open_stack(spec)
        if threads is not None:
            use_threads(self.stack, threads)
        self.name, self.work = name, work
        self.checkpoint: Checkpoint = open_checkpoint(path)
        self.dtype = compute_dtype(self.stack, stack_dtype, dtype, self.checkpoint.config)
        if quantize is not None:
            self.checkpoint = quantised(self.checkpoint, quantize, self.stack, self.dtype)
        model = load_model(self.checkpoint, self.stack, self.dtype)
        deepest = work.context + work.num_steps + 1
        if deepest > model.max_position:
            raise UsageError(
                f"{work.num_steps} steps at a depth of {work.context} come to {deepest} tokens, which is above the "
                f"{model.max_position} tokens that {name} was made for; lower it"
            )
        self.steps = Steps(model, self.stack, self.dtype)
        self.engine = self._engine()
        self.step_bytes = {n: step_bytes(self.checkpoint, self.stack, self.dtype, n) for n in work.batch_sizes}

    def _engine(self) -> Engine:
        work, model = self.work, self.steps.model
        longest = max(work.input_len + 1, work.prompt_len + work.output_len)
        sized = EngineConfig(
            max_model_len=longest,
            max_num_seqs=work.num_prompts,
            max_num_waiting=work.num_prompts,
            enable_prefix_caching=False,
        )
        return make_engine(model, self.checkpoint, self.stack, self.dtype, self.name, sized)

    def warm_up(self) -> None:
        """Everything once, small: kernels are compiled and steps recorded before anything is timed."""
        rng, work = random.Random(1), self.work
        self.steps.prefill(rng, min(work.input_len, 64))
        self.requests(rng, work.num_prompts, min(work.prompt_len, 8), 3)

    def measure(self) -> dict[str, float]:
        """Seconds of each row, and the memory's speed around the rows that it bounds."""
        rng, work = random.Random(0), self.work
        found = {"prefill": self.steps.prefill(rng, work.input_len)}
        before = memory_rates(self.stack.device)
        for streams in work.batch_sizes:
            found[f"decode_{streams}"] = self.steps.decode(rng, streams, work.context, work.steps(streams))
            after = memory_rates(self.stack.device)
            found[f"memory_{streams}"] = statistics.median(before + after)
            before = after
        found["first_token"] = self.requests(rng, 1, work.input_len, 1)
        found["throughput"] = self.requests(rng, work.num_prompts, work.prompt_len, work.output_len)
        return found

    def requests(self, rng: random.Random, count: int, prompt_len: int, output_len: int) -> float:
        """Seconds for so many requests through the engine, all there from the start."""
        params = SamplingParams(temperature=0.0, max_tokens=output_len, ignore_eos=True)
        prompts = [tuple(self.steps.tokens(rng, prompt_len)) for _ in range(count)]
        start = time.perf_counter()
        for number, prompt in enumerate(prompts):
            self.engine.add(Request(id=str(number), tokens=prompt, params=params, cache=False))
        while self.engine.has_work:
            self.engine.step()
        return time.perf_counter() - start


def run(bench: Bench, num_rounds: int, peer: Peer | None = None, told: Callable[[str], None] = lambda text: None) -> Report:
    """Measures in rounds, each ours and then the peer's, and takes medians."""
    rounds: list[dict[str, dict[str, float]]] = []
    bench.warm_up()
    for number in range(1, num_rounds + 1):
        told(f"round {number} of {num_rounds}")
        rounds.append({"parity": bench.measure()})
        if peer is not None:
            told(f"round {number} of {num_rounds}, llama.cpp")
            rounds[-1]["llama.cpp"] = peer.measure(bench.work)
    return report(bench, rounds)


def report(bench: Bench, rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> Report:
    """The medians of rounds, beside the limit and the peer's."""
    each = [one["parity"] for one in rounds]
    ours = _medians(each)
    theirs = _medians([one["llama.cpp"] for one in rounds if "llama.cpp" in one])
    work = bench.work
    rows = [_row(f"prefill, {work.input_len} tokens", "prefill", work.input_len, ours, theirs)]
    deep = "" if work.context == Work().context else f" at {work.context:,}"
    for streams in work.batch_sizes:
        plural = "" if streams == 1 else "s"
        row = _row(f"decode, {streams} stream{plural}{deep}", f"decode_{streams}", streams, ours, theirs)
        rows.append(_bounded(row, bench.step_bytes[streams], streams, each))
    rows.append(_row(f"first token of {work.input_len}", "first_token", work.input_len, ours, theirs))
    many = f"{work.num_prompts} requests, {work.prompt_len} in and {work.output_len} out"
    rows.append(_row(many, "throughput", work.num_prompts * work.output_len, ours, theirs))
    stack: Stack = bench.stack
    return Report(
        bench.name,
        stack.name,
        str(bench.dtype).removeprefix("torch."),
        stack.device.describe(),
        statistics.median(one[f"memory_{streams}"] for one in each for streams in work.batch_sizes),
        bench.step_bytes,
        rows,
        "llama.cpp" if theirs else None,
        rounds,
    )


def _row(work: str, key: str, count: int, ours: Mapping[str, float], theirs: Mapping[str, float]) -> Row:
    return Row(work, ours[key], count, peer_s=theirs.get(_PEER_KEYS.get(key, key)))


def _bounded(row: Row, num_bytes: float, streams: int, rounds: Sequence[Mapping[str, float]]) -> Row:
    """A row with what reading so many bytes a step allows."""
    limits = [num_bytes / one[f"memory_{streams}"] for one in rounds]
    reached = [limit / one[f"decode_{streams}"] for limit, one in zip(limits, rounds, strict=True)]
    return replace(row, limit_s=statistics.median(limits), fraction=statistics.median(reached))


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]} if rounds else {}
