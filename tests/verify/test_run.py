"""What a run refuses before it computes anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.core.errors import ParityError
from parity.verify import run
from parity.verify.run import Settings


@pytest.mark.parametrize(("a", "b"), [("cpu:reference", "bogus"), ("bogus", "cpu:reference")])
def test_a_wrong_name_costs_no_capture(a: str, b: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "open_side", lambda *_: pytest.fail("a side was opened"))
    with pytest.raises(ParityError, match="no stack is called 'bogus'"):
        run.verify(a, b, Settings(out=tmp_path))
