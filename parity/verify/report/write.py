"""Puts a report into a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..run import Outcome
from .data import report_data
from .page import page


def write_report(outcome: Outcome, folder: Path, command: str) -> Path:
    """Writes `report.json` and `report.html`; returns the page's path."""
    data = report_data(outcome, command)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "report.json", json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _replace(folder / "report.html", page(data))
    return folder / "report.html"


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
