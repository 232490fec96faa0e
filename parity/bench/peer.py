"""Another engine on the same file, in a process of its own that measures when it is told to."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from ..core.errors import UsageError
from .work import Work

_INSTALL = "install it (pip install llama-cpp-python), or name a Python that has it with --peer-python"


class Peer:
    """llama.cpp.

    Args:
        model: the GGUF file.
        threads: as many as ours.
        python: an interpreter that has llama-cpp-python; None is this one.

    Raises:
        UsageError: there is no such interpreter, it has no llama-cpp-python, or the file is not GGUF.
    """

    def __init__(self, model: Path, threads: int, python: str | None = None) -> None:
        if model.suffix != ".gguf":
            raise UsageError(f"--vs llama.cpp needs a GGUF file, and {model} is none; `parity convert --to gguf` writes one")
        if python is None and importlib.util.find_spec("llama_cpp") is None:
            raise UsageError(f"llama-cpp-python is not installed here; {_INSTALL}")
        if python is not None and shutil.which(python) is None:
            raise UsageError(f"--peer-python {python} is no program")
        command = [python or sys.executable, str(Path(__file__).with_name("llama_cpp_worker.py")), str(model), str(threads)]
        # It says much; a pipe that nobody reads would stop it.
        self._words = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed when we are
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, text=True)
        self._answer()

    def measure(self, work: Work) -> dict[str, float]:
        """Seconds of each row: `prefill`, `decode_N` for each number of streams, `throughput`.

        Raises:
            UsageError: it failed; the text has its last words.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: its last words say why
            self._process.stdin.write(json.dumps({**asdict(work), "decode": work.decode_rows()}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._words.seek(0)
            last = self._words.read().strip().rpartition("\n")[2]
            self.close()
            more = f"; {_INSTALL}" if "No module named 'llama_cpp'" in last else ""
            raise UsageError(f"llama.cpp ended without a result: {last or 'no reason given'}{more}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.communicate()
        self._words.close()
