"""How far the cpu stack is from the same weights in float32, and how far llama.cpp is, on the same tokens.

python bench/exactness.py [MODEL] [--peer-python PYTHON] [--tokens 2048]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity import LLM
from parity.convert.quality import Logits, compare, own_text, windows
from parity.hub import find

WORKER = Path(__file__).with_name("llama_cpp_logits.py")


def of_llama_cpp(model: Path, python: str, threads: int, folder: Path) -> Logits:
    """llama.cpp's logits on a file; its process ends with ours."""
    process = subprocess.Popen(
        [python, str(WORKER), str(model), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def answered() -> None:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"llama.cpp ended with {process.wait()}")

    def logits(tokens: Sequence[int]) -> np.ndarray:
        assert process.stdin is not None
        path = folder / "logits.npy"
        process.stdin.write(json.dumps({"tokens": list(tokens), "path": str(path)}) + "\n")
        process.stdin.flush()
        answered()
        found: np.ndarray = np.load(path)
        return found

    answered()
    return logits


def _file(model: str) -> Path:
    found = find(model)
    if found is None:
        raise SystemExit(f"{model} is not here: parity pull {model}")
    return found if found.is_file() else next(found.glob("*.gguf"))


def main() -> None:
    """Prints a line for each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="qwen2.5-coder-0.5b", help="in the catalogue, or a GGUF file")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has llama-cpp-python")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    options: dict[str, Any] = {"max_num_seqs": 1, "num_pages": 32, "threads": args.threads}
    with (
        LLM(args.model, stack="cpu:reference:float32", **options) as truth,
        LLM(args.model, stack="cpu", **options) as ours,
        tempfile.TemporaryDirectory() as folder,
    ):
        pieces = windows(truth.encode(own_text())[: args.tokens])
        print(f"Parity     {compare(truth.logits, ours.logits, pieces)}", flush=True)
        theirs = of_llama_cpp(_file(args.model), args.peer_python, args.threads, Path(folder))
        print(f"llama.cpp  {compare(truth.logits, theirs, pieces)}", flush=True)


if __name__ == "__main__":
    main()
