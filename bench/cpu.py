"""The cpu stack beside llama.cpp: the same GGUF file, token ids and threads, in turns, medians.

    python bench/cpu.py MODEL [--threads 2] [--rounds 3] [--peer /path/to/python/with/llama_cpp]

`parity bench --stack cpu` with the number of threads as a flag; all that is measured is in `parity/bench`.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

from parity.bench import table
from parity.bench.peer import Peer
from parity.bench.run import Bench, run
from parity.bench.work import Work
from parity.cli.terminal import print_table
from parity.stacks.cpu.native import native


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model", type=Path, help="a .gguf file, or a folder (then without --peer)")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all that we may use")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", help="a Python that has llama-cpp-python")
    arguments = parser.parse_args()
    native().set_threads(arguments.threads)
    bench = Bench(arguments.model, arguments.model.name, Work(), "cpu")
    with Peer(arguments.model, native().threads(), arguments.peer) if arguments.peer else nullcontext() as peer:
        report = run(bench, arguments.rounds, peer, print)
    print(table.summary(report))
    print_table(table.headings(report), table.cells(report))
    print(json.dumps(report.as_json()))


if __name__ == "__main__":
    main()
