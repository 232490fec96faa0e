"""What a reference computed that is too large to install for every test run: recorded, and compared again where it is there.

`PARITY_RECORD=1 scripts/test tests/models`, with the extra `reference` installed, writes the recordings anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "recorded"


def recorded(name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The recording `name` of what `compute` gives; where the reference can be imported, both must be equal.

    Raises:
        AssertionError: the reference, or what it is given, is no longer what it was.
    """
    path = FOLDER / f"{name}.npy"
    try:
        values = compute()
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("mlx"):
            raise
        return np.load(path)  # type: ignore[no-any-return]
    if os.environ.get("PARITY_RECORD"):
        np.save(path, values.astype(np.float32))
    stored: np.ndarray = np.load(path)
    assert stored.shape == values.shape
    assert np.linalg.norm(stored - values) < 1e-5 * np.linalg.norm(stored), f"{name} is not what it was when recorded"
    return values
