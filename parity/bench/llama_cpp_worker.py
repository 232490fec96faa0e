"""llama.cpp, measured in a process of its own: `python llama_cpp_worker.py MODEL.gguf THREADS`.

Each line read is a JSON object with the fields of `Work` and `decode`, steps by number of streams; each line written has
the seconds of its rows. It is run by an interpreter that has llama-cpp-python, which need not have Parity.
"""

from __future__ import annotations

import importlib
import json
import random
import statistics
import sys
import time
from typing import Any

Row = tuple[int, int, int, bool]
"""(token, position, sequence, whether its logits are wanted)"""


class LlamaCpp:
    """One model.

    Raises:
        SystemExit: it cannot be loaded, or a step fails.
    """

    def __init__(self, path: str, threads: int) -> None:
        self.lib: Any = importlib.import_module("llama_cpp")
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(path.encode(), self.lib.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self.vocab_size = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        self.threads = threads

    def measure(self, work: dict[str, Any]) -> dict[str, float]:
        """Seconds of each row."""
        rng = random.Random(0)
        found = {"prefill": self.prefill(rng, work["input_len"])}
        for streams, steps in work["decode"].items():
            found[f"decode_{streams}"] = self.decode(rng, int(streams), work["context"], steps)[0]
        _, found["throughput"] = self.decode(rng, work["num_prompts"], work["prompt_len"], work["output_len"] - 1)
        return found

    def prefill(self, rng: random.Random, count: int) -> float:
        """Seconds to read a prompt."""
        context, batch = self.context(1, count + 1), self.lib.llama_batch_init(count, 0, 1)
        self.run(context, batch, [(self.token(rng), 0, 0, True)])
        self.lib.llama_memory_clear(self.lib.llama_get_memory(context), True)
        seconds = self.run(context, batch, [(self.token(rng), p, 0, p == count - 1) for p in range(count)])
        self.close(context, batch)
        return seconds

    def decode(self, rng: random.Random, streams: int, prompt: int, steps: int) -> tuple[float, float]:
        """(Seconds of the median step, seconds of prompts and steps together)."""
        context, batch = self.context(streams, prompt + steps + 1), self.lib.llama_batch_init(streams * prompt, 0, 1)
        rows = [(self.token(rng), p, s, p == prompt - 1) for s in range(streams) for p in range(prompt)]
        start = time.perf_counter()
        self.run(context, batch, rows)
        times = []
        for step in range(steps):
            times.append(self.run(context, batch, [(self.token(rng), prompt + step, s, True) for s in range(streams)]))
        whole = time.perf_counter() - start
        self.close(context, batch)
        return statistics.median(times), whole

    def context(self, streams: int, length: int) -> Any:
        """Memory for sequences of a length."""
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = streams * length, streams * length, 512
        params.n_seq_max, params.n_threads, params.n_threads_batch = streams, self.threads, self.threads
        if hasattr(params, "kv_unified"):
            params.kv_unified = True
        made = self.lib.llama_init_from_model(self.model, params)
        if not made:
            raise SystemExit(f"llama.cpp cannot run {streams} sequences of {length} tokens")
        return made

    def run(self, context: Any, batch: Any, rows: list[Row]) -> float:
        """Seconds of one step."""
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
        start = time.perf_counter()
        if self.lib.llama_decode(context, batch) != 0:
            raise SystemExit("llama_decode failed")
        self.lib.llama_get_logits(context)
        return time.perf_counter() - start

    def close(self, context: Any, batch: Any) -> None:
        """Gives the memory back."""
        self.lib.llama_batch_free(batch)
        self.lib.llama_free(context)

    def token(self, rng: random.Random) -> int:
        """A random id from the middle of the vocabulary."""
        return rng.randrange(min(1000, self.vocab_size // 2), min(100_000, self.vocab_size))


def main() -> None:
    """Measures whenever told to."""
    peer = LlamaCpp(sys.argv[1], int(sys.argv[2]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(peer.measure(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
