"""A stack in this process as a side: what it is, its answers, its inside; paths and probes are in files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from ...core.chat import TextDelta, ToolCallEnd, ToolCallStart
from ...core.errors import ParityError
from ...core.request import Output, SamplingParams
from ...llm import DEFAULT_MODEL, LLM, load_vocabulary
from ...stacks.registry import open_stack
from ...text.switches import unheeded
from ..record import PATHS, Answer, Exact, Float32s, Identity, Int32s, Isolated, Layers, Path, Plan, Positions
from ..statistics.divergence import relative_error
from ..suites import Item
from .base import Tokens
from .engine.exact import exact_probes
from .engine.paths import STEP_TOKENS, Paths
from .engine.requests import GREEDY, Requests, top_of
from .identity import config_hash, environment, text_hash

_PAGES, _AT_ONCE = 256, 16
"""Pages of state and requests at once: a verification needs no more, however much memory is free."""


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

    paths = PATHS

    def __init__(self, spec: str, model: str | None, **options: Any) -> None:
        model = model or DEFAULT_MODEL
        self.name, self._model, self._options = spec, model, options
        self._unreached: dict[str, str] = {}
        self._open(spec)

    def _open(self, spec: str, **options: Any) -> None:
        bounds = {"max_num_batched_tokens": STEP_TOKENS, "num_pages": _PAGES, "max_num_seqs": _AT_ONCE}
        self.llm = LLM(self._model, stack=spec, **{**bounds, **self._options, **options})
        self._requests = Requests(self.llm)
        self._walked: Paths | None = None

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
            {**environment(), **self.llm.device, "page_size": str(info.page_size), "step_tokens": str(STEP_TOKENS)},
        )

    @cached_property
    def _content(self) -> tuple[str, dict[str, str]]:
        return self.llm.content()

    @property
    def _dtype(self) -> str:
        return "packed" if self.llm.info.packed else self.llm.info.dtype

    def tokens(self, items: Sequence[Item]) -> list[Tokens]:
        """The prompts' ids as the engine would see them."""
        return [self._tokens(item) for item in items]

    def _tokens(self, item: Item) -> Tokens:
        try:
            ids = self._prompt(item).tokens if item.kind == "chat" else self.llm.encode(item.text)
        except ParityError as error:
            self._unreached[f"prompt {item.id}"] = str(error)
            return Tokens()
        return Tokens(np.array(ids, np.int32), len(ids))

    def _prompt(self, item: Item) -> Any:
        chat = self.llm.chat_format
        options = {} if item.thinking is None else {"enable_thinking": item.thinking}
        if any(unheeded(options, chat.template.variables, thinks=chat.dialect.thinking is not None)):
            options = {}  # a switch that the model has not changes nothing, and need not be told of
        return chat.prompt(item.messages, item.tools, **options)

    # Distributions

    def capture(
        self, items: Sequence[Item], tokens: Sequence[Int32s], plan: Plan
    ) -> Iterator[tuple[int, Mapping[Path, Positions]]]:
        """The one-shot path, and for items that ask for it every other that needs no other prompt."""
        return self._ways(plan).capture(items, tokens)

    def mixed(self, items: Sequence[Item], tokens: Sequence[Int32s | None], plan: Plan) -> list[Positions | None]:
        """In one batch, for items that ask for every path."""
        return self._ways(plan).mixed(items, tokens)

    def _ways(self, plan: Plan) -> Paths:
        if self._walked is None:
            self._walked = Paths(self.llm, self._requests, plan, self._unreached)
        return self._walked

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
            params = GREEDY.replace(max_tokens=item.answer_tokens)
            requests.append(self._requests.request(tuple(prompts[item.id].tokens), params))
        for item, outputs in zip([item for item in asked if item.id in prompts], self._requests.run(requests), strict=True):
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
        top = top_of(entries) if len(entries) == len(tokens) and entries else None
        return Answer(text, finish.reason, tokens, top, len(tokens), calls, finish.message)

    def sample(self, items: Sequence[Item], plan: Plan) -> list[Int32s | None]:
        """Samples at temperature 1 from the model's own distribution."""
        return [self._sample(item, plan) for item in items]

    def _sample(self, item: Item, plan: Plan) -> Int32s | None:
        params = SamplingParams(temperature=1.0, seed=plan.seed, max_tokens=plan.sample_tokens)
        try:
            prompt = tuple(self._prompt(item).tokens)
        except ParityError as error:
            self._unreached[f"prompt {item.id}"] = str(error)
            return None
        requests = [self._requests.request(prompt, params, sample=index) for index in range(plan.num_samples)]
        samples = np.full((plan.num_samples, plan.sample_tokens), -1, np.int32)
        for index, outputs in enumerate(self._requests.run(requests)):
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
        tokenizer = self.llm.tokenizer
        self.llm.close()
        del self.llm, self._requests, self._walked
        self._open(f"{self._stack_only}:float32", tokenizer=tokenizer)
        return True

    def exact(self, plan: Plan) -> Mapping[str, Exact] | None:
        """What the stack's table gives, whatever the model."""
        return exact_probes(self._stack_only, self._unreached)

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
