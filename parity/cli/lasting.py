"""Making what lasts as long as the process, without Python's search for objects that only refer to each other."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """What is made within stays until the process ends: nothing is looked for among it meanwhile, later, or at exit.

    PyTorch's modules alone are several hundred thousand objects, which would be looked through a dozen times while they are
    made, and a last time at exit: together a third of a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
