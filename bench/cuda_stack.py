"""The cuda stack on a GPU, in one command: are its answers right, and how near the hardware's limits does it come?

    python bench/cuda_stack.py --json out.json                            # everything that fits into ten minutes
    python bench/cuda_stack.py --json out.json --parts rows --rows 8B     # some rows

Three parts, in this order: `conformance` (every op against the reference, as `parity stacks --check`), `parity` (tiny
checkpoints of every architecture against the cpu's reference), and `rows`: speeds on released shapes with random weights made
on the device. The device's copy bandwidth and matrix rate are measured first; each row then says tokens a second, its limit
by those two numbers, and the fraction reached. Where transformers is installed, the same work runs there too. A part or row
that fails says why and the next is tried; one that was not run says so; nothing is estimated. The JSON file is written anew
after each result, so that a call that is cut off leaves what it found.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from cuda_parity import compare
from rich.console import Console
from rich.table import Table
from shapes import SHAPES, tiny
from torch import Tensor

from parity.core.batch import Batch
from parity.core.request import Request, SamplingParams
from parity.core.state import PerToken
from parity.core.weights import Packed, Weight
from parity.engine.load import EngineConfig, make_engine
from parity.engine.memory import StateMemory
from parity.formats import pack
from parity.models import registry
from parity.models.decoder import Decoder
from parity.stacks.base import Stack
from parity.stacks.check import check
from parity.stacks.registry import open_stack


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        model: a name in `SHAPES`.
        kind: `decode`, `prefill`, `throughput`, or one of the first and last with ` (transformers)`.
        batch: sequences at once.
        context: tokens whose state exists (decode), or of the prompt (prefill).
        format: of the matrices, None for the compute dtype.
    """

    model: str
    kind: str
    batch: int = 1
    context: int = 512
    format: str | None = None


@dataclass(frozen=True)
class Measured:
    """What a row gave: tokens a second, the limit, or why it was not run."""

    row: Row
    tokens_per_s: float | None = None
    limit: float | None = None
    note: str = ""

    @property
    def fraction(self) -> float | None:
        """Of the limit."""
        return None if self.tokens_per_s is None or self.limit is None else self.tokens_per_s / self.limit


@dataclass(frozen=True)
class Rates:
    """The device's own: bytes a second read and written by a copy, and bfloat16 operations a second of a product."""

    bandwidth: float
    matrix: float


# Most wanted first: what does not fit the time is left out from the end.
ROWS = (
    Row("Qwen3-8B", "decode"),
    Row("Qwen3-8B", "prefill", context=8192),
    Row("Qwen3-8B", "decode", batch=64),
    Row("Qwen3-8B", "decode (transformers)"),
    Row("Qwen3-8B", "decode", format="int4_group"),
    Row("Qwen3-8B", "decode", format="fp8_block"),
    Row("Qwen3-0.6B", "throughput", batch=256),
    Row("Qwen3-0.6B", "throughput (transformers)", batch=256),
    *(Row("Qwen3-30B-A3B", "decode", batch=batch) for batch in (1, 16, 64, 256)),
    *(Row("Moonlight-16B-A3B", "decode", batch=batch) for batch in (1, 16, 64, 256)),
    *(Row("Qwen3.6-35B-A3B", "decode", batch=batch) for batch in (1, 16, 64, 256)),
    Row("Qwen3-14B", "throughput", batch=256),
    Row("Qwen3-14B", "throughput (transformers)", batch=256),
)


class Bench:
    """Builds models on a stack and measures rows.

    Args:
        small: tiny models and counts: to test this file, not to measure.
    """

    def __init__(self, stack: Stack, *, small: bool = False) -> None:
        self.stack, self.small = stack, small
        self.device = stack.device.torch_device
        self.dtype = stack.dtypes[0]
        self._built: tuple[tuple[str, str | None], Decoder, int, int] | None = None

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

    def config(self, model: str) -> Mapping[str, Any]:
        return tiny(SHAPES[model]) if self.small else SHAPES[model]

    # Models

    def build(self, model: str, format: str | None) -> tuple[Decoder, int, int]:
        """(the model with random weights, bytes read for every token, bytes of the routed experts)."""
        key = (model, format)
        if self._built is None or self._built[0] != key:
            self._built = None
            self.release()
            decoder, _ = registry.build(self.config(model), self.stack.ops, self.dtype)
            common, routed = self.fill(decoder, format)
            self._built = (key, decoder.to(self.device).eval(), common, routed)
        return self._built[1:]

    def release(self) -> None:
        """Gives the memory of what is no longer used back."""
        gc.collect()
        if self.device.type != "cpu":
            torch.get_device_module(self.device).empty_cache()

    def fill(self, decoder: Decoder, format: str | None) -> tuple[int, int]:
        """Random weights; (bytes read for every token, bytes of the routed experts)."""
        common = routed = 0
        generator = torch.Generator(self.device).manual_seed(0)
        for name, slot in decoder.all_slots().items():
            dtype = torch.float32 if slot.exact else self.dtype
            numbers = torch.randn(slot.shape, generator=generator, device=self.device, dtype=dtype)
            numbers = numbers * 0.02 if len(slot.shape) > 1 else 1 + 0.1 * numbers
            packs = (
                format is not None and not slot.exact and len(slot.shape) == 2 and "embed" not in name and "lm_head" not in name
            )
            weight: Weight = pack(numbers, format) if packs and format is not None else numbers
            slot.put(weight, self.stack.prepare if isinstance(weight, Packed) else lambda given: given)
            if ".experts." in name:
                routed += weight.nbytes
            elif "embed_tokens" not in name or decoder.tied:
                common += weight.nbytes
        return common, routed

    # Limits

    def touched(self, model: str, batch: int) -> float:
        """The share of the routed experts that a batch reads, if its tokens choose at random."""
        config = self.config(model)
        number = config.get("num_experts", config.get("n_routed_experts"))
        return 0.0 if number is None else 1 - (1 - config["num_experts_per_tok"] / number) ** batch

    def state_bytes(self, decoder: Decoder, context: int) -> int:
        """Read (and, per request, written) in a step for one sequence."""
        total = 0
        for layer in decoder.state:
            for spec in layer:
                size = torch.Size(spec.shape).numel() * (spec.dtype or self.dtype).itemsize
                if isinstance(spec, PerToken):
                    total += size * min(context, spec.window or context) // spec.every
                else:
                    total += 2 * size
        return total

    def flops(self, decoder: Decoder, common: int, routed: int, row: Row) -> float:
        """Of a prompt: two for each weight and token, and the causal half of attention's two products."""
        config = self.config(row.model)
        share = config["num_experts_per_tok"] / config.get("num_experts", config.get("n_routed_experts")) if routed else 0.0
        head = config["vocab_size"] * config["hidden_size"]  # computed for the last token alone
        weights = (common + routed * share) / self.dtype.itemsize - head
        heads = config["num_attention_heads"]
        width = config.get("head_dim") or config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
        attention = 2 * heads * width * row.context**2 * len(decoder.state)
        return float(2 * weights * row.context + attention)

    # Rows

    def measure(self, row: Row, rates: Rates) -> Measured:
        """Runs one row."""
        if row.kind == "decode":
            return self.decode(row, rates)
        if row.kind == "prefill":
            return self.prefill(row, rates)
        if row.kind == "throughput":
            return self.throughput(row)
        return self.transformers(row)

    def batch(self, row: Row, count: int, decoder: Decoder) -> tuple[Batch, StateMemory]:
        """`row.batch` sequences of `row.context` tokens, the last `count` of which are computed, and their state."""
        size = self.stack.page_size
        each = -(-row.context // size)
        memory = StateMemory(
            decoder.state,
            num_pages=row.batch * each,
            page_size=size,
            num_slots=row.batch,
            num_snapshots=0,
            dtype=self.dtype,
            device=self.stack.device,
        )
        starts = torch.arange(row.batch + 1, dtype=torch.int32) * count
        positions = torch.arange(row.context - count, row.context, dtype=torch.int32).repeat(row.batch)
        lengths = torch.full((row.batch,), row.context, dtype=torch.int32)
        tokens = torch.randint(0, decoder.vocab_size, (row.batch * count,), dtype=torch.int32)
        pages = torch.arange(row.batch * each, dtype=torch.int32).view(row.batch, each)
        slots = torch.arange(row.batch, dtype=torch.int32)
        tensors = [x.to(self.device) for x in (tokens, positions, starts, lengths, pages, slots)]
        return Batch(*tensors, size, tuple(starts.tolist()), tuple(lengths.tolist())), memory

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
        limit = row.context * rates.matrix / self.flops(decoder, common, routed, row)
        return Measured(row, row.context / seconds, limit, f"{seconds * 1e3:.1f} ms")

    def work(self, row: Row) -> list[tuple[list[int], int]]:
        """(prompt, tokens to make) of each request, both of 100 to 1024 tokens."""
        low, high = (4, 12) if self.small else (100, 1024)
        dice, size = random.Random(0), int(self.config(row.model)["vocab_size"])
        return [
            ([dice.randrange(size) for _ in range(dice.randint(low, high))], dice.randint(low, high)) for _ in range(row.batch)
        ]

    def throughput(self, row: Row) -> Measured:
        decoder, *_ = self.build(row.model, row.format)
        checkpoint: Any = SimpleNamespace(tensors={}, config=self.config(row.model), generation_config={})
        config = EngineConfig(max_model_len=64 if self.small else 2048, max_num_seqs=row.batch, max_num_batched_tokens=8192)
        if self.small:
            config = replace(config, num_pages=row.batch * 4)
        engine = make_engine(decoder, checkpoint, self.stack, self.dtype, row.model, config)
        work = self.work(row)
        for number, (prompt, count) in enumerate(work):
            params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
            engine.add(Request(id=str(number), tokens=tuple(prompt), params=params, cache=False))
        start, steps = time.perf_counter(), 0
        while engine.has_work:
            engine.step()
            steps += 1
        seconds = time.perf_counter() - start
        return Measured(row, sum(count for _, count in work) / seconds, None, f"{seconds:.1f} s, {steps} steps")

    def transformers(self, row: Row) -> Measured:
        """The same work by transformers: a static cache for one stream, continuous batching for many."""
        try:
            import transformers
        except ImportError:
            return Measured(row, note="transformers is not installed")
        self._built = None
        self.release()
        settings = dict(self.config(row.model))
        config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        with torch.device(self.device):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=self.dtype).eval()
        try:
            return self.their_throughput(row, model) if row.kind.startswith("throughput") else self.their_decode(row, model)
        finally:
            del model
            self.release()

    @torch.inference_mode()
    def their_decode(self, row: Row, model: Any) -> Measured:
        context, count = (16, 4) if self.small else (row.context, 128)
        prompt = torch.randint(0, model.config.vocab_size, (row.batch, context), device=self.device)
        options = {"do_sample": False, "attention_mask": torch.ones_like(prompt), "cache_implementation": "static"}

        def generate(number: int) -> float:
            start = time.perf_counter()
            model.generate(prompt, max_new_tokens=number, min_new_tokens=number, **options)
            self.stack.device.synchronize()
            return time.perf_counter() - start

        generate(count)  # compiles
        seconds = generate(count) - generate(1)
        return Measured(row, row.batch * (count - 1) / seconds, None, "static cache, after compiling")

    def their_throughput(self, row: Row, model: Any) -> Measured:
        work = self.work(row)
        longest = max(count for _, count in work)
        settings = model.generation_config
        settings.update(do_sample=False, max_new_tokens=longest, eos_token_id=-1, pad_token_id=0)
        start = time.perf_counter()
        outputs = model.generate_batch(inputs=[prompt for prompt, _ in work], generation_config=settings, progress_bar=False)
        seconds = time.perf_counter() - start
        made = sum(len(output.generated_tokens) for output in outputs.values())
        # Its requests share one length: each makes the longest's tokens, all of which count.
        return Measured(row, made / seconds, None, f"continuous batching, {made} tokens in {seconds:.1f} s")


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
            self._path.write_text(json.dumps(self.content, indent=1))

    def add(self, name: str, value: object) -> None:
        """Adds to the list of one entry."""
        self.put(name, [*self.content.get(name, []), value])


def conformance(stack: Stack, chosen: str, record: Record) -> bool:
    """Every op whose name has `chosen` in it against the reference; whether all keep their contract."""
    fine = True
    for op in (name for name in stack.ops.names() if chosen in name):
        try:
            row = check(stack, ops=[op]).rows[0]
            failures = [f"{item.case}, {item.dtype}: {item.what}" for item in row.failures]
            found = {"op": op, "cases": row.num_cases, "worst": row.worst, "invariant": row.invariant, "failures": failures}
        except Exception as error:  # an op that cannot even be called
            failures = [f"{type(error).__name__}: {str(error)[:160]}"]
            found = {"op": op, "failures": failures}
        fine &= not failures
        record.add("conformance", found)
        Console(stderr=True).print(f"{op}: {'ok' if not failures else failures[0]}")
    return fine


def agreement(stack: str, chosen: str, record: Record) -> bool:
    """Every architecture whose name has `chosen` in it against the cpu's reference; whether all agree."""
    fine = True
    for found in compare(stack, chosen):
        fine &= found.ok
        record.add("parity", asdict(found))
        Console(stderr=True).print(f"{found.architecture}: {found.problem or 'agrees'}")
    return fine


def run(bench: Bench, rows: Sequence[Row], budget_s: float, rates: Rates, record: Record) -> list[Measured]:
    """Each row that still fits the time; a row that fails says why and the next is tried."""
    end, results = time.monotonic() + budget_s, []
    for row in rows:
        if time.monotonic() > end:
            result = Measured(row, note="not run: out of time")
        else:
            try:
                result = bench.measure(row, rates)
            except Exception as error:  # one row's failure is a line of the table
                result = Measured(row, note=f"failed: {type(error).__name__}: {str(error)[:120]}")
            bench.release()
        results.append(result)
        record.add("rows", asdict(result) | {"fraction": result.fraction})
        Console(stderr=True).print(f"{row.model} {row.kind} x{row.batch}: {result.tokens_per_s or result.note}")
    return results


def speeds(bench: Bench, chosen: str, budget_s: float, record: Record) -> bool:
    """Measures and prints the rows that have `chosen` in them; whether each gave a number."""
    start = time.monotonic()
    rates = bench.rates()
    record.put("rates", asdict(rates))
    offered = [replace(row, batch=min(row.batch, 3)) for row in ROWS] if bench.small else ROWS
    rows = [row for row in offered if chosen in f"{row.model} {row.kind} {row.format or ''}"]
    results = run(bench, rows, budget_s - (time.monotonic() - start), rates, record)
    Console(width=None if Console().is_terminal else 160).print(table(rates, results))
    return all(item.tokens_per_s is not None for item in results)


def table(rates: Rates, results: Sequence[Measured]) -> Table:
    """The results as printed."""
    title = f"copy {rates.bandwidth / 1e9:.0f} GB/s, bfloat16 products {rates.matrix / 1e12:.1f} Tflop/s, both measured"
    shown = Table(title=title, title_justify="left")
    for name in ("model", "weights", "work", "sequences", "context", "tokens/s", "limit", "reached", "note"):
        shown.add_column(name, justify="right" if name in ("sequences", "context", "tokens/s", "limit", "reached") else "left")
    for item in results:
        row, number = item.row, lambda value: "-" if value is None else f"{value:,.1f}"
        reached = "-" if item.fraction is None else f"{item.fraction:.0%}"
        columns = (row.model, row.format or "plain", row.kind, str(row.batch), str(row.context))
        shown.add_row(*columns, number(item.tokens_per_s), number(item.limit), reached, item.note)
    return shown


PARTS = ("conformance", "parity", "rows")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stack", default="cuda", help="where to run (cuda)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to do (all)")
    parser.add_argument("--ops", default="", help="check only the ops that have this in their name")
    parser.add_argument("--architectures", default="", help="compare only the architectures that have this in their name")
    parser.add_argument("--rows", default="", help="run only the rows whose model, work or format has this in its name")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no part and no row after this time (9)")
    parser.add_argument("--json", type=Path, help="also write the numbers here, as they come")
    parser.add_argument("--small", action="store_true", help="tiny models, to see that this script works")
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.minutes * 60
    stack, _ = open_stack(options.stack)
    record = Record(options.json, {"device": dict(stack.device.describe())})
    parts: dict[str, Callable[[], bool]] = {
        "conformance": lambda: conformance(stack, options.ops, record),
        "parity": lambda: agreement(options.stack, options.architectures, record),
        "rows": lambda: speeds(Bench(stack, small=options.small), options.rows, end - time.monotonic(), record),
    }
    fine = True
    for name in (name for name in PARTS if name in options.parts):
        if name != "rows" and time.monotonic() > end:
            record.put(name, "not run: out of time")
            fine = False
            continue
        try:
            fine &= parts[name]()
        except Exception as error:  # one part's failure does not end the others
            record.put(f"{name} failed", f"{type(error).__name__}: {error}")
            Console(stderr=True).print(f"{name} failed: {type(error).__name__}: {error}")
            fine = False
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
