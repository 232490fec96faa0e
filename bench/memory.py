"""What a running model holds in memory beyond one copy of its weights and its pages, stage by stage.

    python bench/memory.py [MODEL] [--stack cpu] [--pages 160] [--tokens 512] [--streams 64] [--json FILE]

Resident memory is read from the system after each stage, and its peak within the stage. All pages are touched before anything
is computed, so that they count whole. The stages: Python with every module; the model and its tokenizer; the pages; one prompt
that fills a step; steps filled by several prompts; decode steps of 1, 2, 4 and so on streams, each recorded; and prompts that
fill steps in which the other streams decode. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity import LLM

AIM_BYTES = 400_000_000


@dataclass(frozen=True)
class Stage:
    """Bytes at its end, the most during it, and how many of these are neither weights nor pages."""

    name: str
    resident: int
    peak: int
    beyond: int


class Meter:
    """Reads the memory of this process."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.accounted = 0
        """Bytes of weights and pages that are there."""
        print(f"{'MiB':<44}{'resident':>10}{'peak':>10}{'beyond weights and pages':>27}")

    def stage(self, name: str) -> None:
        """Prints where memory stands, and begins the next stage."""
        lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Vm"))
        found = {words[0]: int(words[1]) * 1024 for words in lines}
        stage = Stage(name, found["VmRSS:"], found["VmHWM:"], found["VmHWM:"] - self.accounted)
        self.stages.append(stage)
        resident, peak, beyond = (count / 2**20 for count in (stage.resident, stage.peak, stage.beyond))
        print(f"{name:<44}{resident:>10.1f}{peak:>10.1f}{beyond:>20.1f} ({stage.beyond / 1e6:.0f} MB)", flush=True)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="qwen2.5-coder-0.5b")
    parser.add_argument("--stack", default="cpu")
    parser.add_argument("--pages", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=512, help="of a full step")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    meter = Meter()
    llm = opened(meter, arguments)
    rng = random.Random(0)
    with llm:
        for name, prompts in work(arguments.tokens, arguments.streams):
            llm.generate([[rng.randrange(llm.info.vocab_size // 2) for _ in range(count)] for count in prompts], params())
            meter.stage(name)
    worst = max(meter.stages[1:], key=lambda stage: stage.beyond)
    print(f"most: {worst.beyond / 1e6:.0f} MB ({worst.name}); the aim is {AIM_BYTES / 1e6:.0f} MB")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(stage) for stage in meter.stages], indent=1))
    sys.exit(worst.beyond > AIM_BYTES)


def params() -> object:
    """A few tokens for each prompt, whatever they are."""
    from parity import SamplingParams

    return SamplingParams(temperature=1.0, top_p=0.9, max_tokens=4, ignore_eos=True)


def opened(meter: Meter, arguments: argparse.Namespace) -> LLM:
    """The model, with its pages touched."""
    from parity import LLM
    from parity.stacks.registry import open_stack

    open_stack(arguments.stack)
    meter.stage("Python, with all modules")
    llm = LLM(arguments.model, stack=arguments.stack, num_pages=arguments.pages, max_num_seqs=arguments.streams)
    meter.accounted = sum(tensor.nbytes for tensor in llm.checkpoint.tensors.values())
    meter.stage("the model and its tokenizer")
    for layer in llm._engine.runner.memory.state:
        for pages in layer.values():
            pages.zero_()
            meter.accounted += pages.nbytes
    meter.stage("the pages")
    return llm


def work(tokens: int, streams: int) -> Iterator[tuple[str, list[int]]]:
    """What is computed in each stage: its name, and the lengths of its prompts."""
    yield f"a prompt of {tokens} tokens", [tokens]
    yield f"steps of {tokens} tokens, of several prompts", [tokens * 2 // 3] * 8
    count = 1
    while count <= streams:
        yield f"decode steps of {count} streams", [4] * count
        count *= 2
    yield f"steps of {tokens} tokens, {streams} streams", [tokens // 4] * streams


if __name__ == "__main__":
    main()
