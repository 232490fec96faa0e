"""What a decode step of DeepSeek-V3.2's attention costs as the context grows: the indexer's scan, and the attention itself.

    python bench/sparse.py [--stack cpu] [--top-k 2048] [--heads 16] [--contexts 4096,16384,65536]

One layer, one sequence, random state; the dimensions of a head, of the latent and of the index are the released ones. The scan
reads one index key for every token, so it grows with the context; the attention reads the chosen entries and no more. `dense`
is the same attention over all entries.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from parity.core.batch import Batch
from parity.stacks.registry import open_stack

LATENT, ROPE, INDEX_HEADS, INDEX_DIM, PAGE = 512, 64, 64, 128, 64


def one_row(context: int, device: torch.device) -> Batch:
    """A decode step: the last token of a sequence of `context`."""

    def ints(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    pages = torch.arange(-(-context // PAGE), dtype=torch.int32, device=device)[None]
    last = ints(context - 1)
    return Batch(ints(1), last, ints(0, 1), ints(context), pages, ints(0), PAGE, (0, 1), (context,))


def milliseconds(run: Callable[[], torch.Tensor], synchronize: Callable[[], None], repeats: int) -> float:
    """The median of several runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", default=None)
    parser.add_argument("--top-k", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--contexts", default="4096,16384,65536")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    stack, dtype = open_stack(arguments.stack)
    dtype, ops, device = dtype or stack.dtypes[0], stack.ops, stack.device.torch_device
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    torch.manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    print(f"{stack.name}, {str(dtype).removeprefix('torch.')}, {arguments.heads} heads, top {arguments.top_k}; milliseconds")
    print(f"{'context':>8} {'attended':>9} {'scan':>9} {'attend':>9} {'sum':>9} {'dense':>9}")
    for context in map(int, arguments.contexts.split(",")):
        batch = one_row(context, device)
        number = -(-context // PAGE)
        index, latent, rope = random(number, PAGE, INDEX_DIM), random(number, PAGE, LATENT), random(number, PAGE, ROPE)
        q_index, weights = random(1, INDEX_HEADS, INDEX_DIM), torch.rand(1, INDEX_HEADS, device=device)
        q, q_rope = random(1, arguments.heads, LATENT), random(1, arguments.heads, ROPE)
        scale = (128 + ROPE) ** -0.5

        def scan() -> torch.Tensor:
            return ops.select(q_index, weights, index, batch, arguments.top_k)  # noqa: B023

        chosen = scan()

        def attend(selected: torch.Tensor | None = chosen) -> torch.Tensor:
            return ops.attend_latent(q, q_rope, latent, rope, batch, scale, selected)  # noqa: B023

        def dense() -> torch.Tensor:
            return attend(None)

        scanning, attending, all_entries = (milliseconds(run, synchronize, arguments.repeats) for run in (scan, attend, dense))
        attended = int((chosen >= 0).sum())
        print(f"{context:>8} {attended:>9} {scanning:>9.2f} {attending:>9.2f} {scanning + attending:>9.2f} {all_entries:>9.2f}")


if __name__ == "__main__":
    main()
