"""Plots as inline SVG. Colours are CSS variables, so that they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 14, 40
_INNER_WIDTH, _INNER_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_SMALLEST = 1e-14


def histogram(data: dict[str, Any], limits: Sequence[tuple[float, str]]) -> str:
    """Share of positions by decade of KL, a line of bars a series, and the gates' limits with what they are."""
    decades, series = data["decades"], {name: counts for name, counts in data["series"].items() if sum(counts)}
    if not series:
        return ""
    slot = _INNER_WIDTH / len(decades)
    parts = []
    for index, (name, counts) in enumerate(series.items()):
        total, width = sum(counts), slot * 0.8 / len(series)
        for place, count in enumerate(counts):
            if count:
                height = max(1.5, _INNER_HEIGHT * count / total)
                x = _LEFT + place * slot + slot * 0.1 + index * width
                title = f"{name}: {count} positions with a KL near 1e{decades[place]}"
                parts.append(_bar(x, _TOP + _INNER_HEIGHT - height, width, height, f"s{index}", title))
    for place, decade in enumerate(decades):
        label = f"≤1e{decade}" if place == 0 else f"1e{decade}"
        if place % 2 == 0:
            parts.append(_text(_LEFT + (place + 0.5) * slot, _HEIGHT - _BOTTOM + 16, label, "middle"))
    for limit, words in limits:
        x = _LEFT + (math.log10(limit) - decades[0]) * slot
        parts.append(_line(x, _TOP, x, _TOP + _INNER_HEIGHT, "limit", f"{words}: {limit:g}"))
        parts.append(_text(x - 5, _TOP + 10, words, "end"))
    parts.append(_text(_LEFT + _INNER_WIDTH / 2, _HEIGHT - 4, "KL at a position, nats", "middle"))
    return _svg(parts, "How many positions differ by how much") + _legend(list(series))


def over_positions(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and largest KL over positions."""
    if not rows:
        return ""
    points = [("mean", "s0"), ("most", "s1")]
    values = [max(row[key], _SMALLEST) for row in rows for key, _ in points]
    low, high = _decades(values)
    step = _INNER_WIDTH / max(1, len(rows) - 1)
    parts = _log_axis(low, high)
    for key, css in points:
        coordinates = [(_LEFT + index * step, _log_y(max(row[key], _SMALLEST), low, high)) for index, row in enumerate(rows)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in coordinates)
        parts.append(f'<polyline class="line {css}" points="{line}"/>')
        for (x, y), row in zip(coordinates, rows, strict=True):
            title = f"positions {row['first']} to {row['last']}: {key} {row[key]:.3g}"
            parts.append(f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(title)}</title></circle>')
    for index, row in enumerate(rows):
        if index % max(1, len(rows) // 12) == 0:
            parts.append(_text(_LEFT + index * step, _HEIGHT - _BOTTOM + 16, str(row["first"]), "middle"))
    parts.append(_text(_LEFT + _INNER_WIDTH / 2, _HEIGHT - 4, "position in the prompt", "middle"))
    return _svg(parts, "Divergence over positions") + _legend(["mean KL", "largest KL"])


def over_layers(sites: Sequence[dict[str, Any]], band: float) -> str:
    """Each operation's own error, in the order computed; those out of their band stand out."""
    if not sites:
        return ""
    values = [max(site["error"] if site["error"] is not None else 1.0, 1e-9) for site in sites]
    low, high = _decades([*values, band])
    step = _INNER_WIDTH / len(sites)
    parts = _log_axis(low, high)
    for index, (site, value) in enumerate(zip(sites, values, strict=True)):
        top = _log_y(value, low, high)
        css = "bad" if site["error"] is None or site["error"] > band else "s0"
        title = f"layer {site['layer']}, {site['site']}: {value:.3g}"
        parts.append(_bar(_LEFT + index * step, top, max(step * 0.9, 0.6), max(_TOP + _INNER_HEIGHT - top, 1), css, title))
    y = _log_y(band, low, high)
    parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "limit", f"band {band:g}"))
    last = None
    for index, site in enumerate(sites):
        if site["layer"] != last and site["layer"] % max(1, (sites[-1]["layer"] + 1) // 12) == 0:
            parts.append(_text(_LEFT + index * step, _HEIGHT - _BOTTOM + 16, str(site["layer"]), "start"))
        last = site["layer"]
    parts.append(_text(_LEFT + _INNER_WIDTH / 2, _HEIGHT - 4, "layer (each bar one operation, fed A's input)", "middle"))
    return _svg(parts, "Error of each operation by itself")


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return (low, high) if high > low else (low - 1, high + 1)


def _log_y(value: float, low: int, high: int) -> float:
    return _TOP + _INNER_HEIGHT * (1 - (math.log10(value) - low) / (high - low))


def _log_axis(low: int, high: int) -> list[str]:
    parts = []
    for decade in range(low, high + 1, max(1, (high - low) // 6)):
        y = _log_y(10.0**decade, low, high)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "grid", ""))
        parts.append(_text(_LEFT - 6, y + 4, f"1e{decade}", "end"))
    return parts


def _bar(x: float, y: float, width: float, height: float, css: str, title: str) -> str:
    shape = f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">'
    return f"{shape}<title>{escape(title)}</title></rect>"


def _line(x1: float, y1: float, x2: float, y2: float, css: str, title: str) -> str:
    shape = f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}">'
    return f"{shape}<title>{escape(title)}</title></line>"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], title: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _legend(names: Sequence[str]) -> str:
    marks = "".join(f'<span><i class="s{index}"></i>{escape(name)}</span>' for index, name in enumerate(names))
    return f'<p class="legend">{marks}</p>'
