"""Making what lasts as long as the process, without Python's search for objects that only refer to each other."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """What is made within stays until the process ends: nothing is looked for among it meanwhile or later.

    PyTorch's modules alone are several hundred thousand objects, which would be looked through a dozen times while they are
    made. At exit they are looked through once, as ever: bindings report what is left then as leaks.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)
