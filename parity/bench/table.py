"""A benchmark's report as rows of text."""

from __future__ import annotations

from .run import Report, Row

HEADINGS = ("WORK", "TIME", "TOKENS/S", "LIMIT", "REACHED")


def headings(report: Report) -> tuple[str, ...]:
    """Of the columns; the peer's only if there was one."""
    return (*HEADINGS, report.peer.upper(), "RATIO") if report.peer else HEADINGS


def cells(report: Report) -> list[tuple[str, ...]]:
    """A row of text for each row."""
    return [_cells(row, report.peer is not None) for row in report.rows]


def summary(report: Report) -> str:
    """What was measured, where, and what the limit is."""
    device = ", ".join(f"{name} {value}" for name, value in report.device.items())
    first = min(report.step_bytes)
    size = report.step_bytes[first]
    return (
        f"{report.model} on {report.stack} ({report.dtype}): {device}\n"
        f"memory is read at {report.read_bytes_per_s / 1e9:.1f} GB/s; a step of {first} reads {size / 1e6:.0f} MB of weights, "
        f"so at most {report.read_bytes_per_s / size:.1f} steps a second; medians of {len(report.rounds)} rounds"
    )


def _cells(row: Row, peer: bool) -> tuple[str, ...]:
    ours = (row.work, _time(row.seconds), _rate(row.num_tokens, row.seconds), _rate(row.num_tokens, row.limit_s))
    reached = "" if row.fraction is None else f"{row.fraction:.0%}"
    if not peer:
        return (*ours, reached)
    return (*ours, reached, _rate(row.num_tokens, row.peer_s), "" if row.ratio is None else f"{row.ratio:.2f} x")


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def _rate(count: int, seconds: float | None) -> str:
    return "" if seconds is None else f"{count / seconds:.1f}"
