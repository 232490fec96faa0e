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

    generate(count)  # compiles
    seconds = generate(count) - generate(1)
    return Measured(row, row.batch * (count - 1) / seconds, None, "static cache, after compiling")


def _throughput(models: Models, row: Row, model: Any) -> Measured:
    work = models.work(row)
    longest = max(count for _, count in work)
    settings = model.generation_config
    settings.update(do_sample=False, max_new_tokens=longest, eos_token_id=-1, pad_token_id=0)
    start = time.perf_counter()
    outputs = model.generate_batch(inputs=[prompt for prompt, _ in work], generation_config=settings, progress_bar=False)
    seconds = time.perf_counter() - start
    made = sum(len(output.generated_tokens) for output in outputs.values())
    # Its requests share one length: each makes the longest's tokens, all of which count.
    return Measured(row, made / seconds, None, f"continuous batching, {made} tokens in {seconds:.1f} s")
