"""The conformance suite: every op of a stack against the reference. `parity stacks --check NAME` runs it on any stack."""

from __future__ import annotations

from .report import Failure, OpReport, Report
from .run import check

__all__ = ["Failure", "OpReport", "Report", "check"]
