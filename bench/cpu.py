"""The cpu stack beside llama.cpp: the same GGUF file, token ids and threads, in turns, medians.

    python bench/cpu.py MODEL.gguf [--threads 2] [--rounds 3] [--peer /path/to/python/with/llama_cpp]

Prints a table and a JSON object. The memory's speed is measured in the same rounds; a decode step reads all weights but
the embedding once, so that speed over the bytes read is the limit of a single stream.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from parity.core.batch import Batch
from parity.core.state import PerToken, State
from parity.engine.load import load_model
from parity.hub.checkpoint import open_checkpoint
from parity.models.decoder import Decoder
from parity.stacks.base import Stack
from parity.stacks.cpu import open_stack

PAGE, PROMPT, STEPS = 64, 32, {1: 32, 4: 16, 16: 8}


def numbers(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def batch_of(chunks: Sequence[tuple[int, int]], tokens: Sequence[int], pages_each: int) -> Batch:
    """Sequences given as (tokens that exist, tokens computed), each with pages of its own."""
    starts = [0]
    for _, count in chunks:
        starts.append(starts[-1] + count)
    lengths = [start + count for start, count in chunks]
    return Batch(
        numbers(tokens),
        numbers([position for start, count in chunks for position in range(start, start + count)]),
        numbers(starts),
        numbers(lengths),
        torch.arange(len(chunks) * pages_each, dtype=torch.int32).view(len(chunks), -1),
        numbers(range(len(chunks))),
        PAGE,
        host_starts=tuple(starts),
        host_lengths=tuple(lengths),
    )


def state_of(model: Decoder, num_pages: int) -> State:
    layers = []
    for specs in model.state:
        assert all(isinstance(spec, PerToken) for spec in specs)
        layers.append({spec.name: torch.zeros(num_pages, PAGE, *spec.shape) for spec in specs})
    return State(layers)


def random_tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1000, 100_000) for _ in range(count)]


@torch.inference_mode()
def prefill(model: Decoder, rng: random.Random, count: int = 512) -> float:
    """Prompt tokens a second."""
    batch, state = batch_of([(0, count)], random_tokens(rng, count), count // PAGE), state_of(model, count // PAGE)
    start = time.perf_counter()
    model.head(model.hidden(batch, state)[-1:])
    return count / (time.perf_counter() - start)


@torch.inference_mode()
def decode(model: Decoder, stack: Stack, rng: random.Random, streams: int, steps: int) -> float:
    """Tokens a second of all streams together, by the median step."""
    state = state_of(model, 2 * streams)
    model.hidden(batch_of([(0, PROMPT)] * streams, random_tokens(rng, PROMPT * streams), 2), state)
    batch = batch_of([(PROMPT, 1)] * streams, [0] * streams, 2)
    captured = stack.device.capture(lambda: model(batch, state))
    assert captured[0] is not None, "the step was not recorded"
    times = []
    for step in range(steps):
        batch.positions.fill_(PROMPT + step)
        batch.lengths.fill_(PROMPT + step + 1)
        batch.tokens.copy_(numbers(random_tokens(rng, streams)))
        start = time.perf_counter()
        captured[0].replay()
        times.append(time.perf_counter() - start)
    return streams / statistics.median(times)


def memory_speed(megabytes: int = 512) -> float:
    """Bytes a second that all threads together read, best of a few."""
    from parity.stacks.cpu.native import native

    data, out = torch.zeros(megabytes << 18), torch.zeros(256)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        native().read(data.data_ptr(), data.numel(), out.data_ptr())
        best = max(best, data.nbytes / (time.perf_counter() - start))
    return best


def weight_bytes(path: Path) -> int:
    """Bytes of the matrices that a decode step reads: all but an embedding that is not the head too."""
    checkpoint = open_checkpoint(path)
    untied = any(name.startswith(("lm_head", "output.")) for name in checkpoint.tensors)
    total = 0
    for name, info in checkpoint.tensors.items():
        if not (untied and "embed" in name):
            total += info.nbytes
    return total


def measure(model: Decoder, stack: Stack) -> dict[str, float]:
    rng = random.Random(0)
    results = {"memory_bytes_per_s": memory_speed(), "prefill_512": prefill(model, rng)}
    for streams, steps in STEPS.items():
        results[f"decode_{streams}"] = decode(model, stack, rng, streams, steps)
    return results


class Peer:
    """llama.cpp in a process of its own, which measures when it is told to."""

    def __init__(self, python: str, model: Path, threads: int) -> None:
        command = [python, str(Path(__file__).with_name("llama_cpp_worker.py")), str(model), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def measure(self) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("round\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("llama.cpp ended without a result: does that Python have llama-cpp-python?")
        results: dict[str, float] = json.loads(line)
        return results

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=0, help="0 takes all that we may use")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", help="a Python that has llama-cpp-python")
    args = parser.parse_args()
    from parity.stacks.cpu.native import native

    stack = open_stack()
    native().set_threads(args.threads)
    model = load_model(open_checkpoint(args.model), stack, torch.float32)
    peer = Peer(args.peer, args.model, native().threads()) if args.peer else None
    prefill(model, random.Random(1), 128)
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for _ in range(args.rounds):
        ours.append(measure(model, stack))
        if peer:
            theirs.append(peer.measure())
    if peer:
        peer.close()
    report(dict(stack.device.describe()), weight_bytes(args.model), ours, theirs)


def report(machine: dict[str, str], size: int, ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    mine = {key: statistics.median(one[key] for one in ours) for key in ours[0]}
    speed = mine.pop("memory_bytes_per_s")
    limit = speed / size
    peer = {key: statistics.median(one[key] for one in theirs) for key in theirs[0]} if theirs else {}
    print(f"{machine}; memory {speed / 1e9:.1f} GB/s, {size / 1e6:.0f} MB a step: at most {limit:.1f} steps a second")
    for key, value in mine.items():
        line = f"{key:12} {value:8.1f} tok/s"
        if key.startswith("decode"):
            line += f"   {value / int(key.split('_')[1]) / limit:4.0%} of the memory's speed"
        if peer:
            line += f"   llama.cpp {peer[key]:8.1f}   {value / peer[key]:.2f} x"
        print(line)
    json.dump({"machine": machine, "memory_bytes_per_s": speed, "parity": mine, "llama.cpp": peer}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
