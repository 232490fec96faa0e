"""Tiny random checkpoints made by transformers, and ways to run them through our engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from parity.core.request import Output, Request, SamplingParams
from parity.engine import load
from parity.engine.engine import Engine
from parity.engine.load import EngineConfig

REFERENCE = "cpu:reference:float32"


def save(model_class: type, config: object, folder: Path, *, seed: int = 0, **options: object) -> torch.nn.Module:
    """A model with random weights, saved as transformers saves; norms and biases are made to matter."""
    torch.manual_seed(seed)
    model = model_class(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "router" not in name:
                parameter.copy_(torch.randn_like(parameter) * (parameter.shape[-1] ** -0.5))
        for name, buffer in model.named_buffers():
            if "bias" in name:  # corrections that routers add for choosing
                buffer.copy_(torch.randn_like(buffer) * 0.2)
    model.save_pretrained(folder, **options)
    return model


@torch.no_grad()
def reference_logits(model: torch.nn.Module, tokens: Sequence[int]) -> np.ndarray:
    """The reference implementation's logits: float32 [tokens, vocabulary]."""
    return model(torch.tensor([list(tokens)])).logits[0].float().numpy()


def open_engine(folder: Path, **options: object) -> Engine:
    """Our engine on a folder, on the reference table in float32 unless said."""
    settings: dict[str, object] = {"stack": REFERENCE, "num_pages": 64, "page_size": 8, "max_num_seqs": 8}
    return load.open_engine(folder, "tiny", EngineConfig(**(settings | options))).load()  # type: ignore[arg-type]


def finish(engine: Engine, requests: Sequence[Request]) -> dict[str, list[Output]]:
    """Adds all requests and steps until each has ended."""
    for request in requests:
        engine.add(request)
    outputs: dict[str, list[Output]] = {request.id: [] for request in requests}
    for _ in range(10_000):
        if not engine.has_work:
            break
        for output in engine.step():
            outputs[output.request_id].append(output)
    assert not engine.has_work
    return outputs


def logits(engine: Engine, tokens: Sequence[int], name: str = "logits") -> np.ndarray:
    """The logits of every token: float32 [tokens, vocabulary]."""
    outputs = finish(engine, [Request(name, tuple(tokens), SamplingParams(max_tokens=0), want="logits", cache=False)])[name]
    assert outputs[-1].finish is not None
    assert outputs[-1].finish.reason == "stop", outputs[-1].finish
    return np.concatenate([output.array for output in outputs if output.array is not None])


def greedy(name: str, tokens: Sequence[int], count: int, **options: object) -> Request:
    """A request for `count` greedy tokens."""
    params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, logprobs=4)
    return Request(name, tuple(tokens), params, **options)  # type: ignore[arg-type]


def generated(outputs: Sequence[Output]) -> list[int]:
    """The tokens of a request's outputs."""
    assert outputs[-1].finish is not None
    assert outputs[-1].finish.reason == "length", outputs[-1].finish
    return [token for output in outputs for token in output.tokens]


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """The norm of the difference over the norm of the reference."""
    assert ours.shape == reference.shape
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def prompt(length: int, vocab_size: int, seed: int = 1) -> list[int]:
    """Random token ids."""
    generator = np.random.default_rng(seed)
    return [int(token) for token in generator.integers(3, vocab_size, length)]
