"""Puts a report into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from ...core.errors import FormatError
from ...core.whole import write_whole
from ..outcome import Outcome
from ..packs.container import parse_json
from ..packs.signature import Signer, check, read_signature
from .data import FORMAT, report_data
from .page import page


def write_report(outcome: Outcome, folder: Path, command: str, signer: Signer | None = None) -> Path:
    """Writes `report.json` and `report.html`, the former signed if there is a signer; returns the page's path."""
    data = report_data(outcome, command)
    if signer is not None:
        data |= {"signature": msgspec.to_builtins(signer.sign(data))}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.json", f"{json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode())
    write_whole(folder / "report.html", page(data).encode())
    return folder / "report.html"


def read_report(path: Path) -> tuple[dict[str, Any], str | None]:
    """A report, and the public key that signed it; None where nobody did, or it could not be checked.

    Raises:
        FormatError: it is no report.
        HashMismatch: it was changed after it was signed.
    """
    what = f"the report {path}"
    try:
        data = parse_json(path.read_bytes(), what)
    except OSError as error:
        raise FormatError(f"cannot read {what}: {error.strerror}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("verdict"), dict):
        raise FormatError(f"{path} is not a report of format {FORMAT}")
    if "signature" not in data:
        return data, None
    found = read_signature(data.pop("signature"), what)
    return data, found.public_key if check(found, data, what) else None
