"""What all tests share: where the default model is, and no network and no state of the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# No test may reach the network, whatever library it goes through.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The default model's GGUF file: $PARITY_TEST_GGUF, else the one that `parity pull` brought.

    Tests that take it are skipped where it is not; `scripts/test` pulls it first.
    """
    from parity.hub import default_model as name
    from parity.hub import find

    given = os.environ.get("PARITY_TEST_GGUF")
    path = Path(given) if given else find(name())
    if path is None or not path.is_file():
        pytest.skip("the default model is not here: run `parity pull`, or set PARITY_TEST_GGUF to its file")
    return path
