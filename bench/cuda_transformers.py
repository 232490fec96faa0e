"""The same work by transformers: a static cache for one stream, continuous batching for many."""

from __future__ import annotations

import time
from typing import Any

import torch
from cuda_models import Models
from cuda_rows import Measured, Row


def measure(models: Models, row: Row) -> Measured:
    """Builds transformers' model in the place of ours, and runs the row."""
    try:
        import transformers
    except ImportError:
        return Measured(row, note="transformers is not installed")
    models.forget()
    settings = dict(models.config(row.model))
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.device(models.device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=models.dtype).eval()
    try:
        return _throughput(models, row, model) if row.kind.startswith("throughput") else _decode(models, row, model)
    finally:
        del model
        models.release()


@torch.inference_mode()
def _decode(models: Models, row: Row, model: Any) -> Measured:
    context, count = (16, 4) if models.small else (row.context, 128)
    prompt = torch.randint(0, model.config.vocab_size, (row.batch, context), device=models.device)
    options = {"do_sample": False, "attention_mask": torch.ones_like(prompt), "cache_implementation": "static"}

    def generate(number: int) -> float:
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=number, min_new_tokens=number, **options)
        models.stack.device.synchronize()
        return time.perf_counter() - start

    for number in (count, 1) * 2:  # each length of the cache is compiled, and recorded when it is seen again
        generate(number)
    seconds = generate(count) - generate(1)
    return Measured(row, row.batch * (count - 1) / seconds, None, "static cache, after compiling")


def _throughput(models: Models, row: Row, model: Any) -> Measured:
    """The same requests, each with its own number of tokens; all of it once before it is measured, as ours."""
    from transformers import ContinuousBatchingConfig
    from transformers.generation.continuous_batching.utils import WorkloadHints

    first, work = models.work(row, seed=1), models.work(row)
    longest = [max(map(size, first + work)) for size in (lambda one: len(one[0]), lambda one: one[1])]
    settings = model.generation_config
    settings.update(do_sample=False, max_new_tokens=longest[1], eos_token_id=-1, pad_token_id=0)
    options = {"generation_config": settings, "workload_hints": WorkloadHints(*longest, len(work)), "timeout": 5}
    if models.small:  # by default it takes most of the memory
        options["continuous_batching_config"] = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=64)
    with model.continuous_batching_context_manager(**options) as manager:
        _generate(manager, first)
        start = time.perf_counter()
        made = _generate(manager, work)
        seconds = time.perf_counter() - start
    return Measured(row, made / seconds, None, f"continuous batching, {made} tokens in {seconds:.1f} s")


def _generate(manager: Any, work: list[tuple[list[int], int]]) -> int:
    """Tokens made in all."""
    for prompt, count in work:
        manager.add_request(prompt, max_new_tokens=count, eos_token_id=-1)
    made = ended = 0
    while ended < len(work):
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise RuntimeError("transformers' continuous batching ended before its requests")
        if result is not None and result.is_finished():
            if result.error is not None:
                raise RuntimeError(f"transformers' continuous batching: {result.error}")
            made += len(result.generated_tokens)
            ended += 1
    return made
