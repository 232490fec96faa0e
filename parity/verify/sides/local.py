"""A stack in this process as a side: every path, the inside, and the exact probes."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...core.chat import TextDelta, ToolCallEnd, ToolCallStart
from ...core.errors import EngineError, ParityError
from ...core.request import Output, Request, SamplingParams, TokenLogprobs
from ...llm import DEFAULT_MODEL, LLM, load_vocabulary
from ...stacks.check.exact import op_digests
from ...stacks.registry import open_stack
from .. import probes
from ..drill import relative_error
from ..features import Reducer
from ..identity import config_hash, environment, text_hash
from ..record import Answer, Exact, Float32s, Identity, Int32s, Isolated, Layers, Path, Plan, Positions
from ..statistics.divergence import Top, rough_log_tail
from ..suites import Item
from .base import Tokens

_STEP_TOKENS = 256
"""Most tokens in a step: bounds the logits held at a time."""
_PAGES, _AT_ONCE = 256, 16
"""Pages of state and requests at once: a verification needs no more, however much memory is free."""
_KEPT = 64
_GREEDY = SamplingParams(temperature=0.0, logprobs=_KEPT)


__all__ = ["LocalSide", "load_vocabulary", "refuse_unknown"]


def refuse_unknown(spec: str) -> None:
    """Raises what opening a side of this name would raise, if its stack is not one that works here; reads no model."""
    open_stack(spec)


class LocalSide:
    """A model on one of this process's stacks.

    Args:
        spec: the stack, such as `cpu` or `cpu:reference:float32`.
        model: as for `LLM`.
        options: more for `LLM`.
    """

    at_once = 1

    def __init__(self, spec: str, model: str | None, **options: Any) -> None:
        model = model or DEFAULT_MODEL
        self.name, self._model, self._options = spec, model, options
        self.llm = self._open(spec)
        self._ids = count()
        self._reducer: Reducer | None = None
        self._unreached: dict[str, str] = {}
        self._exact: dict[str, Exact] = {}

    def _open(self, spec: str) -> LLM:
        bounds = {"max_num_batched_tokens": _STEP_TOKENS, "num_pages": _PAGES, "max_num_seqs": _AT_ONCE}
        return LLM(self._model, stack=spec, **{**bounds, **self._options})

    def identity(self) -> Identity:
        """What was loaded, by its hashes."""
        info, checkpoint = self.llm.info, self.llm.checkpoint
        root, leaves = self._content
        return Identity(
            self.name,
            "local",
            FilePath(self._model).name,
            info.architecture,
            info.stack,
            self._dtype,
            root,
            leaves,
            config_hash(checkpoint.config),
            self.llm.tokenizer.hash,
            text_hash(self.llm.tokenizer.chat_template),
            {key: value for key, value in info.sampling_defaults.items() if isinstance(value, (int, float, str))},
            {**environment(), **self.llm.device, "page_size": str(info.page_size), "step_tokens": str(_STEP_TOKENS)},
        )

    @cached_property
    def _content(self) -> tuple[str, dict[str, str]]:
        return self.llm.content()

    @property
    def _dtype(self) -> str:
        return "packed" if self.llm.info.packed else self.llm.info.dtype

    def tokens(self, item: Item) -> Tokens:
        """The prompt's ids as the engine would see them."""
        try:
            ids = self._prompt(item).tokens if item.kind == "chat" else self.llm.encode(item.text)
        except ParityError as error:
            self._unreached[f"prompt {item.id}"] = str(error)
            return Tokens()
        return Tokens(np.array(ids, np.int32), len(ids))

    def _prompt(self, item: Item) -> Any:
        options = {} if item.thinking is None else {"enable_thinking": item.thinking}
        return self.llm.chat_format.prompt(item.messages, item.tools, **options)

    # Distributions

    def capture(self, item: Item, tokens: Int32s, plan: Plan) -> Mapping[Path, Positions]:
        """The one-shot path, and for items that ask for it every other that needs no other prompt."""
        ids = tuple(tokens.tolist())
        if len(ids) > self.llm.info.max_model_len - 1:
            self._unreached[f"prompt {item.id}"] = f"{len(ids)} tokens do not fit the context"
            return {}
        # What is kept serves the prefix hit and the answer; nothing is taken, so this path is computed from the start.
        reducer = self._reduce(plan)
        found: dict[Path, Positions] = {"one_shot": reducer.positions(0, self.llm.logit_pieces(ids, keep=True))}
        if not item.paths or len(ids) < 2:
            return found
        found["chunked"] = reducer.positions(0, self.llm.logit_pieces(ids, chunk=plan.chunk_tokens))
        (answer,) = self._forced([_cut(ids, plan.stepwise_tokens)], cache=False)
        found["stepwise"] = answer.positions
        (answer,) = self._forced([_cut(ids, max(1, plan.stepwise_tokens // 2))], cache=True)
        if answer.num_cached:
            found["prefix_hit"] = answer.positions
        else:
            why = f"prompts shorter than a page of {self.llm.info.page_size} tokens, such as {item.id}, leave nothing to hit"
            self._unreached.setdefault("prefix_hit", why)
        return found

    def mixed(self, items: Sequence[Item], tokens: Sequence[Int32s | None], plan: Plan) -> list[Positions | None]:
        """Each begins once the one before has: a step reads the end of one prompt, after what of it is kept in the prefix
        cache, and goes on with the others, token by token."""
        known = [
            None if ids is None or not item.paths or not 2 <= len(ids) < self.llm.info.max_model_len else tuple(ids.tolist())
            for item, ids in zip(items, tokens, strict=True)
        ]
        jobs = [_cut(ids, max(1, plan.stepwise_tokens // 2)) for ids in known if ids is not None]
        if not jobs:
            return [None] * len(items)
        # A prompt alone would have no company: the first one's beginning comes along, and goes on until the last has begun.
        first = jobs[0][0]
        half = max(1, len(first) // 2)
        companion = _Job(first[:half], (first[half:] or first[-1:])[: len(jobs) + len(jobs[-1].continuation)])
        answers = iter(self._forced([companion, *jobs], cache=True, in_turn=True)[1:])
        return [None if ids is None else next(answers).positions for ids in known]

    def _reduce(self, plan: Plan) -> Reducer:
        if self._reducer is None:
            size = self.llm.info.vocab_size
            self._reducer = Reducer(size, top_k=plan.top_k, sketch_size=plan.sketch_size, seed=plan.seed)
        return self._reducer

    def _forced(self, jobs: Sequence[_Job], *, cache: bool, in_turn: bool = False) -> list[_ForcedAnswer]:
        """Decodes given continuations token by token, all in one batch: the distributions that led to each.

        Args:
            jobs: what is given.
            cache: whether the prefix cache may be used.
            in_turn: each begins only once the one before has shown its first token.
        """
        requests = []
        for prompt, continuation in jobs:
            forced = _Forced(continuation, self.llm.info.vocab_size)
            params = _GREEDY.replace(max_tokens=len(continuation), ignore_eos=True)
            requests.append(self._request(prompt, params, constraint=forced, cache=cache))
        return [
            _ForcedAnswer(
                _positions(len(job.prompt) - 1, [entry for output in outputs for entry in output.logprobs]),
                outputs[-1].usage.num_cached_tokens,
            )
            for job, outputs in zip(jobs, self._run(requests, in_turn=in_turn), strict=True)
        ]

    # Answers

    def generate(self, items: Sequence[Item], plan: Plan) -> list[Answer | None]:
        """Greedy answers, all in one batch."""
        asked = [item for item in items if item.kind == "chat" and item.answer_tokens]
        found: dict[str, Answer] = {}
        prompts: dict[str, Any] = {}
        requests = []
        for item in asked:
            try:
                prompts[item.id] = self._prompt(item)
            except ParityError as error:
                found[item.id] = Answer("", "error", error=str(error))
                continue
            params = _GREEDY.replace(max_tokens=item.answer_tokens)
            requests.append(self._request(tuple(prompts[item.id].tokens), params))
        for item, outputs in zip([item for item in asked if item.id in prompts], self._run(requests), strict=True):
            found[item.id] = self._answer(item, prompts[item.id], outputs)
        return [found.get(item.id) for item in items]

    def _answer(self, item: Item, prompt: Any, outputs: Sequence[Output]) -> Answer:
        stream = self.llm.chat_format.answer(prompt, item.tools)
        events = [event for output in outputs for event in stream.push(output)]
        starts = {event.index: event.name for event in events if isinstance(event, ToolCallStart)}
        calls = tuple((starts[event.index], event.arguments) for event in events if isinstance(event, ToolCallEnd))
        tokens = tuple(token for output in outputs for token in output.tokens)
        entries = [entry for output in outputs for entry in output.logprobs]
        finish = outputs[-1].finish
        assert finish is not None
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        top = _top(entries) if len(entries) == len(tokens) and entries else None
        return Answer(text, finish.reason, tokens, top, len(tokens), calls, finish.message)

    def sample(self, item: Item, plan: Plan) -> Int32s | None:
        """Samples at temperature 1 from the model's own distribution."""
        params = SamplingParams(temperature=1.0, seed=plan.seed, max_tokens=plan.sample_tokens)
        prompt = tuple(self._prompt(item).tokens)
        requests = [self._request(prompt, params, sample=index) for index in range(plan.num_samples)]
        samples = np.full((plan.num_samples, plan.sample_tokens), -1, np.int32)
        for index, outputs in enumerate(self._run(requests)):
            tokens = [token for output in outputs for token in output.tokens]
            samples[index, : len(tokens)] = tokens
        return samples

    # Inside

    def layers(self, tokens: Int32s) -> Layers:
        """Every value that the model shows on the way."""
        seen: dict[tuple[int, str], Float32s] = {}

        def look(layer: int, site: str, value: Any) -> None:
            if value.shape[:1] == (len(tokens),):
                seen[layer, site] = value.detach().float().cpu().numpy().copy()

        self.llm.logits(tokens.tolist(), probe=look)
        return Layers(tokens, tuple(seen), tuple(seen.values()))

    def isolated(self, reference: Layers, reference_hash: str) -> Isolated:
        """One pass in which every value is compared with the reference's and then replaced by it."""
        import torch

        known = dict(zip(reference.sites, reference.values, strict=True))
        errors: list[tuple[int, str, float]] = []

        def swap(layer: int, site: str, value: Any) -> Any:
            wanted = known.get((layer, site))
            if wanted is None or tuple(value.shape) != wanted.shape:
                return None
            errors.append((layer, site, relative_error(wanted, value.detach().float().cpu().numpy())))
            return torch.from_numpy(wanted.copy()).to(value.device, value.dtype)

        self.llm.logits(reference.tokens.tolist(), probe=swap)
        return Isolated(reference_hash, tuple(errors))

    def to_float32(self) -> bool:
        """Takes the stack's table in float32 instead; the engine before ends first, for two may not fit."""
        if self._dtype == "float32":
            return False
        self.llm.close()
        del self.llm
        self.llm = self._open(f"{self._stack_only}:float32")
        return True

    def exact(self, plan: Plan) -> Mapping[str, Exact] | None:
        """Every op on whole numbers, and the integer-valued checkpoints, at once and token by token; all in float32."""
        if not self._exact:
            stack, _ = open_stack(self._stack_only)
            self._exact = {f"op {name}": Exact(*digests) for name, digests in op_digests(stack)}
            for kind in probes.ARCHITECTURES:
                self._exact |= self._exact_checkpoint(kind)
        return self._exact

    def _exact_checkpoint(self, kind: str) -> dict[str, Exact]:
        found: dict[str, Exact] = {}
        with tempfile.TemporaryDirectory() as name:
            probes.write(kind, FilePath(name))
            try:
                with LLM(name, stack=self._stack_only, dtype="float32", num_pages=16, max_num_seqs=4) as llm:
                    for path, chunk in (("one_shot", None), ("stepwise", 1)):
                        logits = [llm.logits(list(prompt), chunk=chunk) for prompt in probes.PROMPTS]
                        found[f"{kind}/{path}"] = Exact(probes.digest(logits), probes.expected_digest(kind))
            except ParityError as error:
                self._unreached[f"exact probe {kind}"] = str(error)
        return found

    @property
    def _stack_only(self) -> str:
        """The stack's spec without a dtype: exact probes are in float32 whatever will serve."""
        parts = self.name.split(":")
        return ":".join(part for part in parts if part not in ("float32", "bfloat16", "float16"))

    def unreached(self) -> Mapping[str, str]:
        """What could not be had."""
        return dict(self._unreached)

    def close(self) -> None:
        """Ends the engine."""
        self.llm.close()

    # Requests

    def _request(self, tokens: tuple[int, ...], params: SamplingParams, **more: Any) -> Request:
        return Request(f"verify-{next(self._ids)}", tokens, params, **more)

    def _run(self, requests: Sequence[Request], *, in_turn: bool = False) -> list[list[Output]]:
        """Submits all, at once or each after the first output of the one before, and waits for all.

        Raises:
            EngineError: one ended with an error.
        """
        outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
        found: dict[str, list[Output]] = {request.id: [] for request in requests}
        waiting = list(requests)
        while waiting and not (in_turn and len(waiting) < len(requests)):
            self.llm.service.submit(waiting.pop(0), outputs.put)
        left = len(requests)
        while left:
            output = outputs.get()
            if waiting and not found[output.request_id]:
                self.llm.service.submit(waiting.pop(0), outputs.put)
            found[output.request_id].append(output)
            if output.finish is not None:
                left -= 1
                if output.finish.reason == "error":
                    raise EngineError(output.finish.message or "the engine failed")
        return list(found.values())


class _Forced:
    """A constraint that allows one given token after the other."""

    def __init__(self, tokens: tuple[int, ...], vocab_size: int) -> None:
        self._tokens, self._place = tokens, 0
        self._words = -(-vocab_size // 32)

    def mask(self) -> npt.NDArray[np.uint32]:
        """Only the next token."""
        bits = np.zeros(self._words, np.uint32)
        token = self._tokens[min(self._place, len(self._tokens) - 1)]
        bits[token // 32] = np.uint32(1 << (token % 32))
        return bits

    def accept(self, token: int) -> None:
        """Moves on."""
        self._place += 1

    @property
    def done(self) -> bool:
        """Whether all were given."""
        return self._place >= len(self._tokens)


class _Job(NamedTuple):
    """A prompt and how it is made to go on."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


def _cut(ids: tuple[int, ...], count: int) -> _Job:
    """The last `count` tokens, or as many as leave one before them, as a continuation of the rest."""
    place = max(1, len(ids) - count)
    return _Job(ids[:place], ids[place:])


class _ForcedAnswer(NamedTuple):
    """What led to a forced continuation, and how many tokens of its prompt came from the prefix cache."""

    positions: Positions
    num_cached: int


def _positions(first: int, entries: Sequence[TokenLogprobs]) -> Positions:
    return Positions(np.arange(first, first + len(entries), dtype=np.int32), _top(entries))


def _top(entries: Sequence[TokenLogprobs]) -> Top:
    width = max(len(entry.top) for entry in entries)
    ids, logprobs = np.full((len(entries), width), -1, np.int32), np.full((len(entries), width), -100.0, np.float32)
    for row, entry in enumerate(entries):
        ids[row, : len(entry.top)] = [token for token, _ in entry.top]
        logprobs[row, : len(entry.top)] = [value for _, value in entry.top]
    return Top(ids, logprobs, rough_log_tail(logprobs, ids))
