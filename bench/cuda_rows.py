"""What the benchmark of the cuda stack measures: the rows of its table, and what each gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        model: a name in `SHAPES`.
        kind: `decode`, `prefill`, `throughput`, or one of the first and last with ` (transformers)`; `decode (deterministic)`,
            `decode (without overlap)`, where no launch starts before the one before has ended; `throughput (in order)`, which
            starts no step ahead; `sampling` with top-p alone; `start`, from file to device.
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
class Rates:
    """The device's own: bytes a second read and written by a copy, and bfloat16 operations a second of a product."""

    bandwidth: float
    matrix: float


@dataclass(frozen=True)
class Measured:
    """What a row gave: tokens a second and the limit by the rates, or the seconds that it took, or why it was not run."""

    row: Row
    tokens_per_s: float | None = None
    limit: float | None = None
    note: str = ""
    seconds: float | None = None
    rates: Rates | None = None

    @property
    def given(self) -> bool:
        """Whether there is a number."""
        return self.tokens_per_s is not None or self.seconds is not None

    @property
    def fraction(self) -> float | None:
        """Of the limit."""
        return None if self.tokens_per_s is None or self.limit is None else self.tokens_per_s / self.limit


# Most wanted first: what does not fit the time is left out from the end. What others have to compile comes after what is ours.
ROWS = (
    Row("Qwen3-8B", "decode"),
    Row("Qwen3-8B", "prefill", context=8192),
    Row("Qwen3-8B", "decode", batch=64),
    *(Row("Qwen3-8B", "sampling", batch=batch, context=0) for batch in (1, 256)),
    Row("Qwen3-8B", "decode", format="int4_group"),
    Row("Qwen3-8B", "decode", format="fp8_block"),
    Row("Qwen3-8B", "decode (without overlap)"),
    Row("Qwen3-8B", "decode (without overlap)", format="fp8_block"),
    Row("Qwen3-8B", "decode (deterministic)"),
    Row("Qwen3-8B", "start", context=0),
    Row("Qwen3-8B", "decode (transformers)"),
    Row("Qwen3-0.6B", "throughput", batch=256),
    Row("Qwen3-0.6B", "throughput (in order)", batch=256),
    Row("Qwen3-0.6B", "throughput (transformers)", batch=256),
    *(Row("Qwen3-30B-A3B", "decode", batch=batch) for batch in (1, 16, 64, 256)),
    *(Row("Moonlight-16B-A3B", "decode", batch=batch) for batch in (1, 16, 64, 256)),
    *(Row("Qwen3.6-35B-A3B", "decode", batch=batch) for batch in (1, 16, 64, 256)),
    Row("Qwen3-14B", "throughput", batch=256),
    Row("Qwen3-14B", "throughput (transformers)", batch=256),
)


def table(results: Sequence[Measured]) -> Table:
    """The results as printed, under the rates measured first."""
    rates = next((item.rates for item in results if item.rates is not None), None)
    title = None
    if rates is not None:
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
