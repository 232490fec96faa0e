"""The cuda stack on a GPU, in one command: are its answers right, and how near the hardware's limits does it come?

    python bench/cuda_stack.py --json out.json                            # everything that fits into ten minutes
    python bench/cuda_stack.py --json out.json --parts rows --rows 8B     # some rows

First of all `compile` compiles what the others launch, on all processors, since the compiler would else take most of the time.
Then three parts, in this order: `conformance` (every op against the reference, as `parity stacks --check`), `parity` (tiny
checkpoints of every architecture against the cpu's reference), and `rows`: speeds on released shapes with random weights made
on the device. The device's copy bandwidth and matrix rate are measured first; each row then says tokens a second, its limit
by those two numbers, and the fraction reached. Where transformers is installed, the same work runs there too. A part or row
that fails says why and the next is tried; one that was not run says so; nothing is estimated. The JSON file is written anew
after each result, so that a call that is cut off leaves what it found.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import cuda_compile
import cuda_transformers
import random_checkpoint
import torch
from cuda_apart import Found, Part, apart, each, missed
from cuda_models import Models
from cuda_parity import Agreement, agreement, architectures
from cuda_rows import ROWS, Measured, Rates, Row, table
from rich.console import Console
from torch import Tensor

from parity.core.batch import Plan
from parity.core.request import Request, SamplingParams
from parity.engine.load import EngineConfig, load_model, make_engine
from parity.engine.runner import Started
from parity.hub import open_checkpoint
from parity.stacks.check import check
from parity.stacks.check.device import check_device
from parity.stacks.cuda.kernels import gpu
from parity.stacks.registry import open_stack, with_table


class Bench(Models):
    """Measures rows on a stack."""

    def time_s(self, run: Callable[[], object], repeats: int = 20) -> float:
        """The median over five rounds of the time of one run, after a warm-up."""
        repeats = 1 if self.small else repeats
        run()
        rounds = []
        for _ in range(1 if self.small else 5):
            self.stack.device.synchronize()
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            self.stack.device.synchronize()
            rounds.append((time.perf_counter() - start) / repeats)
        return statistics.median(rounds)

    def rates(self) -> Rates:
        """Measured now: a copy of 4 GiB, a product of 8192 x 8192 matrices."""
        size, width = (1 << 20, 64) if self.small else (4 << 30, 8192)
        source = torch.zeros(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        copy_s = self.time_s(lambda: target.copy_(source))
        a, b = (torch.randn(width, width, device=self.device).to(torch.bfloat16) for _ in range(2))
        product_s = self.time_s(lambda: a @ b)
        return Rates(2 * size / copy_s, 2 * width**3 / product_s)

    # Rows

    def measure(self, row: Row, rates: Rates) -> Measured:
        """Runs one row."""
        kind, _, how = row.kind.partition(" ")
        if how == "(transformers)":
            return cuda_transformers.measure(self, row)
        if how == "(deterministic)":
            self.forget()
            fixed = type(self)(with_table(self.stack, "deterministic"), small=self.small)
            return replace(fixed.measure(replace(row, kind=kind), rates), row=row)
        if how == "(in order)":
            return self.in_order(row, rates)
        if how == "(without overlap)":
            return self.without_overlap(row, rates)
        kinds = {"decode": self.decode, "prefill": self.prefill, "sampling": self.sampling}
        if kind in kinds:
            return kinds[kind](row, rates)
        return self.start(row, rates) if kind == "start" else self.throughput(row, rates)

    @torch.inference_mode()
    def decode(self, row: Row, rates: Rates) -> Measured:
        decoder, common, routed = self.build(row.model, row.format)
        row = replace(row, context=min(row.context, 32)) if self.small else row
        batch, memory = self.batch(row, 1, decoder)
        columns = [torch.full((row.batch,), value, device=self.device) for value in (1.0, 0.9, 0.0, 0.5)]
        temperature, top_p, min_p, uniform = columns
        top_k = torch.zeros(row.batch, dtype=torch.int32, device=self.device)

        def step() -> Tensor:
            logits = decoder(batch, memory.state)
            return self.stack.ops.sample(logits, temperature, top_k, top_p, min_p, uniform)

        graph, _ = self.stack.device.capture(step)
        seconds = self.time_s(step if graph is None else graph.replay)
        read = common + routed * self.touched(row.model, row.batch) + row.batch * self.state_bytes(decoder, row.context)
        note = f"{read / 1e9:.2f} GB a step" + ("" if graph is not None else ", not recorded")
        return Measured(row, row.batch / seconds, row.batch * rates.bandwidth / read, note)

    @torch.inference_mode()
    def prefill(self, row: Row, rates: Rates) -> Measured:
        decoder, common, routed = self.build(row.model, row.format)
        row = replace(row, context=64) if self.small else row
        batch, memory = self.batch(row, row.context, decoder)
        seconds = self.time_s(lambda: decoder.head(decoder.hidden(batch, memory.state)[-1:]), repeats=3)
        limit = row.context / self.step_s(row, decoder, common, routed, [(0, row.context)], rates)
        return Measured(row, row.context / seconds, limit, f"{seconds * 1e3:.1f} ms")

    @torch.inference_mode()
    def sampling(self, row: Row, rates: Rates) -> Measured:
        """Of normal logits by top-p; the limit reads them three times."""
        size = int(self.config(row.model)["vocab_size"])
        logits = torch.randn(row.batch, size, device=self.device) * 3
        columns = [torch.full((row.batch,), value, device=self.device) for value in (1.0, 0.9, 0.0, 0.5)]
        top_k = torch.zeros(row.batch, dtype=torch.int32, device=self.device)
        seconds = self.time_s(lambda: self.stack.ops.sample(logits, columns[0], top_k, *columns[1:]))
        return Measured(row, row.batch / seconds, rates.bandwidth / (12 * size), f"{seconds * 1e6:.0f} us")

    def start(self, row: Row, rates: Rates) -> Measured:
        """A file just written, so in the file cache, until its weights are on the device."""
        self.forget()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            random_checkpoint.write(folder, {**self.config(row.model), "tie_word_embeddings": True}, self.dtype, self.device)
            size = sum(file.stat().st_size for file in folder.iterdir())
            begin = time.perf_counter()
            model = load_model(open_checkpoint(folder), self.stack, self.dtype)
            self.stack.device.synchronize()
            seconds = time.perf_counter() - begin
            del model
        return Measured(row, note=f"{seconds:.1f} s for {size / 1e9:.1f} GB", seconds=seconds)

    def without_overlap(self, row: Row, rates: Rates) -> Measured:
        """Decode with each launch started when the one before has ended."""
        with patch.object(gpu, "overlaps", lambda: False):
            return self.decode(row, rates)

    def in_order(self, row: Row, rates: Rates) -> Measured:
        """Throughput with each step waited for before the next is chosen."""
        device = self.stack.device
        vars(device)["asynchronous"] = False
        try:
            return self.throughput(row, rates)
        finally:
            del vars(device)["asynchronous"]

    def throughput(self, row: Row, rates: Rates) -> Measured:
        """Requests of random lengths; the limit is the sum of the steps' shortest times."""
        decoder, common, routed = self.build(row.model, row.format)
        known = {"tensors": {}, "config": self.config(row.model), "generation_config": {}, "text_source": {}}
        checkpoint: Any = SimpleNamespace(path=Path("random weights"), **known)
        config = EngineConfig(max_model_len=64 if self.small else 2048, max_num_seqs=row.batch, max_num_batched_tokens=8192)
        if self.small:
            config = replace(config, num_pages=row.batch * 4)
        engine = make_engine(decoder, checkpoint, self.stack, self.dtype, row.model, config)
        work, limits, start_step = self.work(row), list[float](), engine.runner.start

        def start(plan: Plan, before: Started | None = None) -> Started:
            chunks = [(chunk.start, len(chunk.tokens)) for chunk in plan.chunks]
            limits.append(self.step_s(row, decoder, common, routed, chunks, rates))
            return start_step(plan, before)

        def run(name: str) -> tuple[float, int]:
            for number, (prompt, count) in enumerate(work):
                params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
                engine.add(Request(id=f"{name} {number}", tokens=tuple(prompt), params=params, cache=False))
            start, steps = time.perf_counter(), 0
            while engine.has_work:
                engine.step()
                steps += 1
            return time.perf_counter() - start, steps

        run("recorded and compiled")
        with patch.object(engine.runner, "start", start):
            seconds, steps = run("measured")
        tokens = sum(count for _, count in work)
        return Measured(row, tokens / seconds, tokens / sum(limits), f"{seconds:.1f} s, {steps} steps")


class Record:
    """The JSON file, written anew with each result.

    Args:
        path: of the file, or None to keep nothing.
        content: what is known before any result.
    """

    def __init__(self, path: Path | None, content: dict[str, Any]) -> None:
        self._path, self.content = path, content

    def put(self, name: str, value: object) -> None:
        """Sets one entry."""
        self.content[name] = value
        if self._path is not None:
            whole = self._path.with_suffix(".part")
            whole.write_text(json.dumps(self.content, indent=1))
            whole.replace(self._path)  # whoever reads it finds all of it

    def add(self, name: str, value: object) -> None:
        """Adds to the list of one entry."""
        self.put(name, [*self.content.get(name, []), value])


class Conformance:
    """The device itself, and every op whose name has `ops` in it against the reference."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._stack, _ = open_stack(options.stack)
        self.synchronize = self._stack.device.synchronize
        self.items = [op for op in ("device", *self._stack.ops.names()) if options.ops in op]

    def run(self, item: int) -> Found:
        op = self.items[item]
        row = check_device(self._stack) if op == "device" else check(self._stack, ops=[op]).rows[0]
        failures = [f"{one.case}, {one.dtype}: {one.what}" for one in row.failures]
        found = {"op": op, "cases": row.num_cases, "worst": row.worst, "invariant": row.invariant, "failures": failures}
        return Found(item, found, failures[0] if failures else "ok", not failures)

    def failed(self, item: int, why: str) -> object:
        return {"op": self.items[item], "failures": [why]}


class Parity:
    """Every architecture whose name has `architectures` in it against the cpu's reference."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._stack = options.stack
        self.synchronize = open_stack(options.stack)[0].device.synchronize
        self.items = [name for name in architectures() if options.architectures in name]

    def run(self, item: int) -> Found:
        found = agreement(self.items[item], self._stack)
        return Found(item, asdict(found), found.problem or "agrees", found.ok)

    def failed(self, item: int, why: str) -> object:
        return asdict(Agreement(self.items[item], problem=why))


class Speeds:
    """The rows that have `rows` in their model, work or format; the device's own rates are measured before the first."""

    def __init__(self, options: argparse.Namespace) -> None:
        stack, _ = open_stack(options.stack)
        self.synchronize = stack.device.synchronize
        self._bench = Bench(stack, small=options.small)
        offered = [replace(row, batch=min(row.batch, 3)) for row in ROWS] if options.small else ROWS
        self.rows = [row for row in offered if options.rows in f"{row.model} {row.kind} {row.format or ''}"]
        self.items = [f"{row.model} {row.kind} {row.format or ''} x{row.batch}" for row in self.rows]

    @cached_property
    def rates(self) -> Rates:
        """The device's."""
        return self._bench.rates()

    def run(self, item: int) -> Found:
        result = replace(self._bench.measure(self.rows[item], self.rates), rates=self.rates)
        self._bench.release()
        return Found(item, result, f"{result.tokens_per_s or result.note}", result.given)

    def failed(self, item: int, why: str) -> object:
        self._bench.release()
        return Measured(self.rows[item], note=why)


PARTS: Mapping[str, Callable[[argparse.Namespace], Part]] = {"conformance": Conformance, "parity": Parity, "rows": Speeds}


def run(name: str, options: argparse.Namespace, end: float, record: Record) -> bool:
    """A part, each item written as it comes; whether all of it is as it should be."""
    make = partial(PARTS[name], options)
    part, given, fine = make(), list[object](), True
    left = list(range(len(part.items)))

    def keep(found: Found) -> None:
        nonlocal fine
        fine &= found.fine
        left.remove(found.item)
        given.append(found.content)
        content = found.content
        record.add(name, asdict(content) | {"fraction": content.fraction} if isinstance(content, Measured) else content)
        Console(stderr=True).print(f"{part.items[found.item]}: {found.line}")

    for found in (
        each(part, takewhile(lambda _: time.monotonic() < end, list(left))) if options.here else apart(make, part, left, end)
    ):
        keep(found)
    for item in list(left):
        keep(missed(part, item, "not run: out of time"))
    if name == "rows":
        Console(width=None if Console().is_terminal else 160).print(table([one for one in given if isinstance(one, Measured)]))
    return fine


def compiled(options: argparse.Namespace, budget_s: float, record: Record) -> bool:
    """Compiles ahead what the other parts launch; whether all could be. What is late is compiled when it is launched."""
    start, fine = time.monotonic(), True
    wanted = list(cuda_compile.jobs(options.parts, options.rows, options.ops, options.architectures))
    left = {job.name for job in wanted}
    for done in cuda_compile.compile_ahead(wanted, cuda_compile.Gpu.here(), budget_s):
        left.discard(done.job.name)
        fine &= not done.problem
        record.add("compiled", asdict(done))
    record.put("compile", {"seconds": time.monotonic() - start, "late": sorted(left)})
    Console(stderr=True).print(f"compiled ahead in {time.monotonic() - start:.0f} s; late: {len(left)} of {len(wanted)}")
    return fine


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stack", default="cuda", help="where to run (cuda)")
    parser.add_argument("--parts", nargs="+", choices=("compile", *PARTS), default=("compile", *PARTS), help="what to do (all)")
    parser.add_argument("--ops", default="", help="check only the ops that have this in their name")
    parser.add_argument("--architectures", default="", help="compare only the architectures that have this in their name")
    parser.add_argument("--rows", default="", help="run only the rows whose model, work or format has this in its name")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop after this time (9)")
    parser.add_argument("--json", type=Path, help="also write the numbers here, as they come")
    parser.add_argument("--small", action="store_true", help="tiny models, to see that this script works")
    parser.add_argument("--here", action="store_true", help="all in this process, which an error of the device ends")
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.minutes * 60
    stack, _ = open_stack(options.stack)
    record = Record(options.json, {"device": dict(stack.device.describe())})
    if not any(stack.ops.origin(name).startswith("parity.stacks.cuda") for name in stack.ops.names()):
        options.parts = [part for part in options.parts if part != "compile"]
    fine = True
    for name in (name for name in ("compile", *PARTS) if name in options.parts):
        try:
            if name == "compile":
                fine &= compiled(options, (end - time.monotonic()) / 2, record)
            else:
                fine &= run(name, options, end, record)
        except Exception as error:  # one part's failure does not end the others
            record.put(f"{name} failed", f"{type(error).__name__}: {error}")
            Console(stderr=True).print(f"{name} failed: {type(error).__name__}: {error}")
            fine = False
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
