"""The memory that the C library keeps for itself."""

from __future__ import annotations

import ctypes
import os


def give_back() -> None:
    """Hands what was used and freed, such as a vocabulary's texts, back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
