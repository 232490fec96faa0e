"""Plants a fault, verifies, and says what was seen: how the verifier itself is verified."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..capture import capture, plan_for
from ..gates import load_rules
from ..outcome import Outcome, compare_packs
from ..packs import Pack
from ..record import Plan
from ..run import ORACLE
from ..suites import Suite
from .catalogue import Fault
from .patches import Patch

OPTIONS: Mapping[str, Any] = {"num_pages": 128, "page_size": 16, "max_num_seqs": 8}
_LEVELS = (1, 2, 3, 4, 5, 6, 7)


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one fault. `level` is the first that failed, `place` the first operation out of its band."""

    fault: Fault
    word: str
    level: int | None
    place: str | None

    @property
    def caught(self) -> bool:
        """Whether the verdict is DIFFERENT."""
        return self.word == "DIFFERENT"

    @property
    def place_right(self) -> bool | None:
        """Whether the place is the fault's own; None for a fault without one."""
        if self.fault.place is None:
            return None
        return self.place is not None and re.search(rf", ({self.fault.place})", self.place) is not None


def capture_local(
    folder: Path,
    suite: Suite,
    plan: Plan,
    path: Path,
    *,
    patch: Patch | None = None,
    reference: Pack | None = None,
    **options: Any,
) -> Pack:
    """A pack of a checkpoint on the reference table, with the model changed first if asked."""
    from ..sides.local import LocalSide

    side = LocalSide(ORACLE, str(folder), **{**OPTIONS, **options})
    try:
        if patch is not None:
            patch(side.llm)
        capture(side, suite, plan, path, reference=reference)
    finally:
        side.close()
    return Pack(path)


def plan_of(suite: Suite) -> Plan:
    """The plan of trials: every level but identity, since a fault is in the stack and the files are the same."""
    return replace(plan_for(suite, load_rules().hash), levels=_LEVELS)


def try_fault(fault: Fault, checkpoint: Path, right: Pack, suite: Suite, out: Path) -> Trial:
    """Plants a fault in a copy of a checkpoint and compares it with `right`, a pack of the checkpoint as it is."""
    out.mkdir(parents=True, exist_ok=True)
    folder = out / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint, folder)
    if fault.edit is not None:
        fault.edit(folder)
    plan = plan_of(suite)
    if fault.base is not None:
        right = capture_local(checkpoint, suite, plan, out / "base.pack", patch=fault.base)
    wrong = capture_local(folder, suite, plan, out / "wrong.pack", patch=fault.patch, reference=right, **fault.options)
    return read_trial(fault, compare_packs(right, wrong, suite=suite, rules=load_rules(), levels=_LEVELS))


def read_trial(fault: Fault, outcome: Outcome) -> Trial:
    """The first level that failed, and the place."""
    failed = [finding.level for finding in outcome.findings if finding.outcome == "fail" and finding.level != 7]
    layers = next((finding for finding in outcome.findings if finding.gate == "layers"), None)
    place = layers.events[0] if layers is not None and layers.events else None
    return Trial(fault, outcome.verdict.word, min(failed, default=7 if place else None), place)
