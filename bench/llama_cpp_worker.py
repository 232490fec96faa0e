"""llama.cpp for `bench/cpu.py`: for each line read, measures and prints one JSON object. Needs llama-cpp-python."""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from typing import Any

import llama_cpp as lib

PROMPT, STEPS = 32, {1: 32, 4: 16, 16: 8}


def context(model: Any, streams: int, threads: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 2048, 2048, 512
    params.n_seq_max, params.n_threads, params.n_threads_batch = streams, threads, threads
    if hasattr(params, "kv_unified"):
        params.kv_unified = True
    return lib.llama_init_from_model(model, params)


def timed(ctx: Any, batch: Any, rows: list[tuple[int, int, int, bool]]) -> float:
    """Seconds for rows of (token, position, sequence, whether logits are wanted)."""
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
    start = time.perf_counter()
    if lib.llama_decode(ctx, batch) != 0:
        raise SystemExit("llama_decode failed")
    lib.llama_get_logits(ctx)
    return time.perf_counter() - start


def tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1000, 100_000) for _ in range(count)]


def measure(model: Any, threads: int) -> dict[str, float]:
    rng, batch = random.Random(0), lib.llama_batch_init(2048, 0, 1)
    ctx = context(model, 1, threads)
    timed(ctx, batch, [(1000, 0, 0, True)])
    lib.llama_memory_clear(lib.llama_get_memory(ctx), True)
    results = {"prefill_512": 512 / timed(ctx, batch, [(t, p, 0, p == 511) for p, t in enumerate(tokens(rng, 512))])}
    lib.llama_free(ctx)
    for streams, steps in STEPS.items():
        ctx = context(model, streams, threads)
        prompts = [(t, p, s, p == PROMPT - 1) for s in range(streams) for p, t in enumerate(tokens(rng, PROMPT))]
        timed(ctx, batch, prompts)
        times = []
        for step in range(steps):
            times.append(timed(ctx, batch, [(t, PROMPT + step, s, True) for s, t in enumerate(tokens(rng, streams))]))
        results[f"decode_{streams}"] = streams / statistics.median(times)
        lib.llama_free(ctx)
    lib.llama_batch_free(batch)
    return results


def main() -> None:
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(sys.argv[1].encode(), lib.llama_model_default_params())
    for _ in sys.stdin:
        print(json.dumps(measure(model, int(sys.argv[2]))), flush=True)


if __name__ == "__main__":
    main()
