"""What the suite found: one line an op, and the failures by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Failure:
    """One case that went wrong: `what` says how."""

    op: str
    case: str
    dtype: str
    what: str


@dataclass(frozen=True, slots=True)
class OpReport:
    """One op's line.

    Args:
        op: its name.
        origin: the module that it comes from.
        num_cases: cases run, over all dtypes.
        failures: those that went wrong.
        worst: the largest error met, in units of the tolerance; over 1 is a failure.
        invariant: whether a row alone gives the same bits as in its batch, in all cases; None where that was not asked.
        note: the stack's own word on the op.
    """

    op: str
    origin: str
    num_cases: int
    failures: tuple[Failure, ...]
    worst: float
    invariant: bool | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The suite's result for a stack. `rich` prints it as a table; `ok` is what an exit code needs."""

    stack: str
    rows: tuple[OpReport, ...]

    @property
    def ok(self) -> bool:
        """Whether every case of every op passed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All of them, in the table's order."""
        return tuple(failure for row in self.rows for failure in row.failures)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self.stack} against the reference", title_justify="left")
        for name in ("op", "origin", "cases", "worst error / tolerance", "row alone", "note"):
            table.add_column(name, justify="right" if name.startswith(("cases", "worst")) else "left")
        for row in self.rows:
            passed = f"{row.num_cases - len(row.failures)}/{row.num_cases}"
            alone = {True: "same bits", False: "differs", None: "-"}[row.invariant]
            style = "red" if row.failures else ""
            table.add_row(row.op, row.origin, passed, f"{row.worst:.2g}", alone, row.note, style=style)
        yield table
        for failure in self.failures[:_SHOWN]:
            yield Text(f"{failure.op} [{failure.case}, {failure.dtype}]: {failure.what}", style="red")
        if len(self.failures) > _SHOWN:
            yield Text(f"and {len(self.failures) - _SHOWN} more")
        total = sum(row.num_cases for row in self.rows)
        yield Text(f"{total - len(self.failures)} of {total} cases passed")
