"""Changes of what a loaded model does."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

Patch = Callable[[Any], None]
"""Changes a loaded model (an `LLM`)."""


def modules(llm: Any, pattern: str) -> list[Any]:
    """The model's modules whose path matches."""
    found = [module for path, module in llm._engine.runner.model.named_modules() if re.fullmatch(pattern, path)]
    assert found, f"no module matches {pattern}"
    return found


def replaced(pattern: str, change: Callable[[Any, Any, Any], Any]) -> Patch:
    """What modules return becomes `change(module, first input, result)`."""

    def patch(llm: Any) -> None:
        for module in modules(llm, pattern):
            module.register_forward_hook(lambda module, given, result: change(module, given[0], result))

    return patch


def without_head_norms(llm: Any) -> None:
    """Queries and keys are not normed, whether they are looked at or not."""
    replaced(r".*\.self_attn\.[qk]_norm", lambda module, x, result: x)(llm)
    for module in modules(llm, r".*\.self_attn"):
        plain = module.ops.rope_write
        module.ops = dataclasses.replace(
            module.ops, norm_rope_write=lambda q, k, v, *rest, plain=plain: plain(q, k, v, *rest[4:])
        )


def bias_in_weights(router: Any, x: Any, result: Any) -> Any:
    """The bias, which is for choosing only, also counts in the experts' weights."""
    weights, experts = result
    scores = (x.float() @ router.weight.tensor.float().T).sigmoid() + router.bias.tensor
    chosen = scores.gather(1, experts.long())
    return chosen / chosen.sum(-1, keepdim=True) * weights.sum(-1, keepdim=True), experts


def windowed(size: int) -> Patch:
    """Every attention sees `size` tokens only."""

    def patch(llm: Any) -> None:
        for module in modules(llm, r"model\.layers\.\d+\.self_attn"):
            module.window = size

    return patch


def position_after_hit(llm: Any) -> None:
    """Requests that begin in the cache are one position off from there on; seen where no step is recorded."""
    runner = llm._engine.runner
    prepare, hit, known = runner.prepare, set[str](), set[str]()

    def wrong(plan: Any, brought: Any = None) -> Any:
        batch = prepare(plan, brought)
        positions = batch.positions.clone()
        for chunk, first in zip(plan.chunks, batch.host_starts, strict=False):
            name = chunk.request.id
            if chunk.start and name not in known:
                hit.add(name)
            known.add(name)
            if name in hit:
                positions[first : first + len(chunk.tokens)] -= 1
        return dataclasses.replace(batch, positions=positions)

    runner.prepare = wrong


def state_kept(llm: Any) -> None:
    """A new request finds the state of the one before."""
    llm._engine.runner.memory.clear = lambda slot: None


def silent_penalty(llm: Any) -> None:
    """The server's own sampling defaults are applied to whoever asks for none."""
    service = llm.service
    submit_all = service.submit_all

    def penalised(request: Any) -> Any:
        if request.want == "tokens" and request.constraint is None:
            return dataclasses.replace(request, params=request.params.replace(repetition_penalty=1.3))
        return request

    service.submit_all = lambda requests, emit: submit_all([penalised(request) for request in requests], emit)


def truncated(llm: Any) -> None:
    """Long prompts lose their beginning."""
    encode = llm.encode
    llm.encode = lambda prompt: encode(prompt)[-24:]
