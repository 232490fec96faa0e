"""What all tests share: where the default model is, and that no test reaches the network."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parity import hub

# Whether Triton interprets is decided when it is first imported, which a library of another test may do.
if importlib.util.find_spec("triton") is not None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("triton.language")

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a warning at every subprocess

if "PARITY_TEST_GGUF" not in os.environ and (found := hub.find(hub.default_model())):
    os.environ["PARITY_TEST_GGUF"] = str(found)


LONGEST = ("tests/test_default_model_reference.py", "verify/test_faults.py", "models/test_released.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take the longest come first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The default model's GGUF file: $PARITY_TEST_GGUF, else the one that `parity pull` brought.

    Tests that take it are skipped where it is not; `scripts/test` pulls it first.
    """
    path = Path(os.environ.get("PARITY_TEST_GGUF", ""))
    if not path.is_file():
        pytest.skip("the default model is not here: run `parity pull`, or set PARITY_TEST_GGUF to its file")
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """PyTorch computes with one thread: tiny tensors gain nothing from more, and two that share cores with another process
    take three times the processor's time for the same product, waiting for each other."""
    import torch  # not where xdist only hands out the tests

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Connections to other machines fail as if the network were down."""

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test reached for the network: {address}")
        original(self, address)

    original = socket.socket.connect
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", connect)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """The command line sets up logging for its process; a test that runs it must not do so for the tests after it."""
    loggers = [logging.getLogger("parity"), logging.getLogger()]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers
