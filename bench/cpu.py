"""The cpu stack beside llama.cpp: the same GGUF file, token ids and threads, in turns, medians.

    python bench/cpu.py MODEL [--threads 2] [--rounds 3] [--peer /path/to/python/with/llama_cpp]
    python bench/cpu.py --random bfloat16

`parity bench --stack cpu` with the number of threads as a flag; all that is measured is in `parity/bench`. Plain weights are
measured with random ones, of the sizes of Qwen3-0.6B.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import random_checkpoint
import torch
from shapes import SHAPES

from parity.bench import table
from parity.bench.peer import Peer
from parity.bench.run import Bench, run
from parity.bench.work import Work
from parity.cli.terminal import print_table
from parity.stacks.cpu.native import native


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("model", type=Path, nargs="?", help="a .gguf file, or a folder (then without --peer)")
    model.add_argument("--random", choices=["bfloat16", "float16", "float32"], help="safetensors with random weights")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all that we may use")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", help="a Python that has llama-cpp-python")
    arguments = parser.parse_args()
    native().set_threads(arguments.threads)
    with TemporaryDirectory() as folder:
        path = arguments.model
        if arguments.random is not None:
            path = Path(folder)
            random_checkpoint.write(path, SHAPES["Qwen3-0.6B"], getattr(torch, arguments.random))
        measure(path, arguments.random or path.name, arguments.rounds, arguments.peer)


def measure(path: Path, name: str, num_rounds: int, peer_python: str | None) -> None:
    """Measures a model and prints its table, then JSON."""
    bench = Bench(path, name, Work(), "cpu")
    with Peer(path, native().threads(), peer_python) if peer_python else nullcontext() as peer:
        report = run(bench, num_rounds, peer, print)
    print(table.summary(report))
    print_table(table.headings(report), table.cells(report))
    print(json.dumps(report.as_json()))


if __name__ == "__main__":
    main()
