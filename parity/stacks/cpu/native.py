"""The compiled module, and what to say when it is not there."""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
import os
from pathlib import Path
from types import ModuleType

from ...core.errors import UsageError

log = logging.getLogger("parity")

REMEDY = "install a C++20 compiler (Debian: apt install g++), then Parity again, without PARITY_NATIVE=0"


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get("PARITY_NATIVE") == "0":
        return None, "native kernels are switched off by PARITY_NATIVE=0"
    try:
        _native = importlib.import_module(f"{__package__}._native")
    except ImportError as error:
        reason = f"the native kernels are not built ({error}); {REMEDY}"
        log.warning("cpu: %s. Going on with PyTorch's operators, which is slower.", reason)
        return None, reason
    if _interface() not in (None, getattr(_native, "interface", "")):
        raise UsageError("the native kernels were built from other sources than these: run pip install -e . again")
    if isa := os.environ.get("PARITY_ISA"):
        _native.set_isa(isa)
    threads = os.environ.get("PARITY_THREADS", "0")
    if not threads.isdecimal():
        raise UsageError(f"PARITY_THREADS={threads!r} is not a number of threads; leave it out to take all")
    _native.set_threads(int(threads))
    return _native, None


def _interface(sources: Path = Path(__file__).parents[3] / "native") -> str | None:
    """Hashes of the sources in a checkout that name the native calls and their arguments; None where there are no sources."""
    files = [sources / "bind.cpp", sources / "kernels.h"]
    if not all(file.is_file() for file in files):
        return None
    return "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def missing() -> str | None:
    """Why there are no native kernels, or None if there are."""
    return _load()[1]


def native() -> ModuleType:
    """The compiled module; only where `missing()` is None."""
    module = _load()[0]
    assert module is not None, "native() without native kernels"
    return module
