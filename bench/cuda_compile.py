"""Compiles what the benchmark of the cuda stack will launch, ahead and on all processors.

Triton compiles a kernel when it is first launched, about a second each, one after the other: the conformance suite alone
would wait half an hour. Here each part is gone through in processes of their own, on a device that is none: its tensors have
shapes and no numbers, and a launch only compiles, into Triton's cache on disk. Needs no GPU:

    python bench/cuda_compile.py --rows 8B              # for an H100, on the host
    python bench/cuda_compile.py --count --rows 8B      # how many kernels it would compile
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from cuda_parity import LENGTHS, architectures
from cuda_rows import ROWS, Rates, Row
from torch import Tensor

from parity.core.request import Request, SamplingParams
from parity.core.weights import Packed
from parity.formats import pack
from parity.stacks.base import Graph, Memory, Stack
from parity.stacks.host import HostDevice

_BLOCK = 128  # rows of a matrix that is packed to see the shapes


@dataclass(frozen=True)
class Gpu:
    """What kernels are compiled for: as of `triton.backends.compiler.GPUTarget`, and what kernels are sized by."""

    backend: str = "cuda"
    arch: int | str = 90
    warp_size: int = 32
    processors: int = 132
    shared_bytes: int = 227 << 10

    @classmethod
    def here(cls) -> Gpu:
        """The one that PyTorch sees."""
        from triton.runtime import driver

        from parity.stacks.cuda.kernels import gpu

        target, numbers = driver.active.get_current_target(), gpu.of(torch.device("cuda", 0))
        return cls(target.backend, target.arch, target.warp_size, numbers.processors, numbers.shared_bytes)


@dataclass(frozen=True)
class Job:
    """A row, or the cases of an op, or an architecture by its name."""

    part: str
    name: str
    row: Row | None = None


@dataclass(frozen=True)
class Done:
    """How many kernels a job compiled, in which time, and what failed."""

    job: Job
    kernels: int
    seconds: float
    problem: str = ""


class Replayed:
    """A graph of nothing."""

    num_bytes = 0

    def replay(self) -> None:
        """Computes nothing."""


class PaperDevice(HostDevice):
    """A device of shapes: its tensors have no numbers, and every token is 0."""

    torch_device = torch.device("meta")
    asynchronous = True
    recorded_rows: Sequence[int]

    def __init__(self, recorded_rows: Sequence[int]) -> None:
        self.recorded_rows = recorded_rows

    def memory(self) -> Memory:
        return Memory(80 << 30, 60 << 30)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.torch_device)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def capture(self, run: Callable[[], Tensor], beside: Graph | None = None) -> tuple[Graph | None, Tensor]:
        return Replayed(), run()

    def send(self, data: Tensor) -> Tensor:
        return data.to(self.torch_device)

    def fetch(self, data: Tensor) -> Callable[[], Tensor]:
        return lambda: torch.zeros(data.shape, dtype=data.dtype)


def paper_stack() -> Stack:
    """The cuda stack, both tables, on a device of shapes."""
    from parity.stacks.cuda import with_triton

    fast, fixed = (with_triton(0, deterministic=deterministic) for deterministic in (False, True))
    device = PaperDevice(fast.device.recorded_rows)
    fixed = replace(fixed, device=device)
    return replace(fast, device=device, tables={"deterministic": lambda: fixed})


def _paper_bench() -> Any:
    """The benchmark on that stack, each row run once."""
    from cuda_stack import Bench

    class PaperBench(Bench):
        def time_s(self, run: Callable[[], object], repeats: int = 20) -> float:
            run()
            return 1.0

        def release(self) -> None:
            """Nothing is held."""

        def numbers(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=self.device)

        def pack(self, numbers: Tensor, format: str) -> Packed:
            few = pack(torch.ones(_BLOCK, numbers.shape[1], dtype=numbers.dtype), format)
            arrays = {
                role: array.new_empty(len(array) * len(numbers) // _BLOCK, *array.shape[1:], device=self.device)
                for role, array in few.arrays.items()
            }
            return Packed(few.format, tuple(numbers.shape), arrays, few.meta)

    return PaperBench(paper_stack())


def jobs(parts: Sequence[str], rows: str = "", ops: str = "", chosen: str = "") -> Iterator[Job]:
    """What there is to go through, most wanted first, chosen as the benchmark does."""
    if "rows" in parts:
        for row in ROWS:
            name = f"{row.model} {row.kind} {row.format or ''}"
            ours = "transformers" not in row.kind and "in order" not in row.kind and row.kind != "start"
            if ours and rows in name:
                yield Job("rows", f"{name} x{row.batch}", row)
    if "conformance" in parts:
        yield from (Job("conformance", op) for op in paper_stack().ops.names() if ops in op)
    if "parity" in parts:
        yield from (Job("parity", name) for name in architectures() if chosen in name)


def _walk(job: Job) -> None:
    """Launches what the job launches."""
    stack = paper_stack()
    if job.row is not None:
        _paper_bench().measure(job.row, Rates(1.0, 1.0))
    elif job.part == "conformance":
        from parity.stacks.check import check

        check(replace(stack, device=HostDevice()), ops=[job.name])
    else:
        _generate(job.name, stack)


def _generate(architecture: str, stack: Stack) -> None:
    """Tokens of a tiny model in each dtype, and by the other table."""
    from parity.engine.load import EngineConfig, compute_dtype, load_model, make_engine
    from parity.hub import open_checkpoint

    config = EngineConfig(num_pages=64, page_size=8, max_num_seqs=8)
    with tempfile.TemporaryDirectory() as name:
        architectures()[architecture](Path(name))
        checkpoint = open_checkpoint(Path(name))
        for table, dtype in ((stack, torch.float32), (stack, torch.bfloat16), (stack.tables["deterministic"](), None)):
            used = compute_dtype(table, dtype, None, checkpoint.config)
            engine = make_engine(load_model(checkpoint, table, used), checkpoint, table, used, "paper", config)
            for number, length in enumerate(LENGTHS):
                params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
                engine.add(Request(str(number), (1,) * length, params, cache=False))
            while engine.has_work:
                engine.step()


def _begin(gpu: Gpu, count_only: bool) -> None:
    """Makes every launch of this process a compilation for the GPU, counted by kernel."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from parity.stacks.cuda.kernels import gpu as sizes

    class Driver:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget(gpu.backend, gpu.arch, gpu.warp_size)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    torch.set_num_threads(1)
    driver.set_active(Driver())
    sizes.of = lambda device: sizes.Gpu(gpu.processors, gpu.shared_bytes)
    compile_or_launch, compiled = JITFunction.run, JITFunction._do_compile

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        assert all(size < 2**16 for size in grid[1:]), f"{self.fn.__name__}: a grid of {grid}"
        return compile_or_launch(self, *args, grid=grid, warmup=True, **options)

    def one(self: Any, key: Any, *args: Any, **options: Any) -> Any:
        KERNELS[self.fn.__name__] += 1
        if not count_only:
            return compiled(self, key, *args, **options)
        self.device_caches[0][0][key] = key  # any value: it is not launched
        return key

    JITFunction.run, JITFunction._do_compile = run, one


KERNELS: Counter[str] = Counter()
"""Compiled in this process, by name."""


def _do(job: Job) -> Done:
    start, before, problem = time.monotonic(), KERNELS.total(), ""
    try:
        _walk(job)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__}: {str(error)[:300]} ({Path(place.filename).name}:{place.lineno})"
    return Done(job, KERNELS.total() - before, time.monotonic() - start, problem)


def compile_ahead(wanted: Sequence[Job], gpu: Gpu, budget_s: float, *, count_only: bool = False) -> Iterator[Done]:
    """Each job as it ends; those that do not end in time are left."""
    end, context = time.monotonic() + budget_s, get_context("spawn")
    number = max(1, min(os.cpu_count() or 1, len(wanted)))
    with context.Pool(number, _begin, (gpu, count_only)) as pool:
        results = pool.imap_unordered(_do, wanted)
        for _ in wanted:
            try:
                yield results.next(timeout=max(0.0, end - time.monotonic()))
            except TimeoutError:
                return


def main() -> int:
    """Prints a line for each job; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("conformance", "parity", "rows"), default=("rows",), help="(rows)")
    parser.add_argument("--rows", default="", help="only the rows that have this in their name")
    parser.add_argument("--ops", default="", help="only the ops that have this in their name")
    parser.add_argument("--architectures", default="", help="only the architectures that have this in their name")
    parser.add_argument("--arch", type=int, default=90, help="compute capability of an NVIDIA GPU, times ten (90)")
    parser.add_argument("--processors", type=int, default=132, help="its multiprocessors (132)")
    parser.add_argument("--count", action="store_true", help="count the kernels, and compile none")
    options = parser.parse_args()
    wanted = list(jobs(options.parts, options.rows, options.ops, options.architectures))
    gpu, total, fine = Gpu(arch=options.arch, processors=options.processors), 0, True
    for done in compile_ahead(wanted, gpu, 1e6, count_only=options.count):
        total, fine = total + done.kernels, fine and not done.problem
        print(f"{done.job.name}: {done.kernels} kernels, {done.seconds:.1f} s {done.problem}", flush=True)
    print(f"{total} kernels")
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
