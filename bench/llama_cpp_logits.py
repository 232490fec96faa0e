"""llama.cpp's logits, by an interpreter that has llama-cpp-python: `python llama_cpp_logits.py MODEL.gguf THREADS`.

Each line read is a JSON object with `tokens` and `path`; their logits, float32 [tokens, vocabulary], are saved there, and a
line says so.
"""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np


def main(path: str, threads: int) -> None:
    """Saves logits whenever told to."""
    llama = importlib.import_module("llama_cpp").Llama(
        path, n_ctx=1024, n_batch=1024, n_threads=threads, n_threads_batch=threads, logits_all=True, verbose=False
    )
    print("ready", flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        llama.reset()
        llama.eval(work["tokens"])
        np.save(work["path"], np.array(llama.scores[: len(work["tokens"])], np.float32))
        print("saved", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
