"""The levels 0 to 7: what is measured at each. Thresholds are in `gates.json`; outcomes are decided in `gates.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..gates import Measurement
from .behaviour import behaviour
from .evidence import Evidence
from .forced import implementation, production
from .identity import exact, identity, tokens
from .inside import layer_measurements
from .running import free_running

__all__ = ["LEVELS", "Evidence", "measure"]

LEVELS: Mapping[int, str] = {
    0: "identity",
    1: "tokens",
    2: "exact probes",
    3: "implementation",
    4: "production",
    5: "free running",
    6: "behaviour",
    7: "drill-down",
}


def measure(evidence: Evidence, level: int) -> list[Measurement]:
    """The measurements of one level."""
    return _LEVELS[level](evidence)


def _drill(evidence: Evidence) -> list[Measurement]:
    return layer_measurements(evidence.a, evidence.b, evidence.rules)


_LEVELS: Mapping[int, Callable[[Evidence], list[Measurement]]] = {
    0: identity,
    1: tokens,
    2: exact,
    3: implementation,
    4: production,
    5: free_running,
    6: behaviour,
    7: _drill,
}
