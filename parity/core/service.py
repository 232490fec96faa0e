"""The engine's front door: what the server, the in-process `LLM` and the tests' scripted engine look like from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .request import Output, Request


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is being run.

    Args:
        name: the name it was asked for by.
        architecture: its `model_type`.
        max_model_len: most tokens of prompt and answer together.
        vocab_size: width of the logits.
        stack: the stack's name, such as `cpu`.
        dtype: the compute dtype's name, such as `float32`.
        num_pages, page_size: the pool of per-token state.
        state_bytes: memory of the pool and of all other state; where the device can, it is taken as it is first used.
        eos_token_ids: the tokens that end an answer.
        sampling_defaults: from the model's generation_config, by `SamplingParams` field.
        embeds: whether the model is made for embeddings.
        packed: whether the stack multiplies packed weights with activations rounded to fewer bits than the dtype's.
        modified_s: when the newest of its files was last written, in seconds since 1970.
    """

    name: str
    architecture: str
    max_model_len: int
    vocab_size: int
    stack: str
    dtype: str
    num_pages: int
    page_size: int
    state_bytes: int = 0
    eos_token_ids: frozenset[int] = frozenset()
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)
    embeds: bool = False
    packed: bool = False
    modified_s: int = 0


STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Bounds of the sizes that steps are counted by."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Gauges and counters since the start.

    Args:
        num_step_tokens: tokens computed in steps, of prompts and of answers.
        steps_by_tokens: how many steps computed at most so many tokens as `STEP_TOKENS` has there, and more than in the place
            before; the last place is for those above all.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_pages_used: int = 0
    num_pages: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    num_preemptions: int = 0
    num_steps: int = 0
    num_step_tokens: int = 0
    steps_by_tokens: tuple[int, ...] = (0,) * (len(STEP_TOKENS) + 1)
    step_s: float = 0.0
    num_restarts: int = 0


class Service(Protocol):
    """Runs requests until each ends in exactly one `Output` with a finish. Safe to call from any thread."""

    @property
    def info(self) -> ModelInfo:
        """What is being run."""

    @property
    def is_running(self) -> bool:
        """Whether requests are taken; False once it has stopped, for whatever reason."""

    def submit(self, request: Request, emit: Callable[[Output], None]) -> None:
        """Queues a request. `emit` is called from the engine's thread, in order, and must return at once.

        Raises:
            ContextExceeded: the prompt does not fit.
            RequestError: the request cannot be computed (an unknown token id, an empty prompt, a duplicate id).
            Overloaded: the queue is full.
            EngineError: the engine has stopped.
        """

    def abort(self, request_id: str) -> None:
        """Ends a request with `abort`, wherever it is; unknown ids are ignored."""

    def stats(self) -> Stats:
        """Counts now."""

    def close(self, timeout_s: float = 0.0) -> None:
        """Stops: what still runs after `timeout_s` ends with `abort`."""
