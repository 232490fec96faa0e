"""The kernels are compiled for GPUs that are not here: the interpreter forgives what a compiler does not.

A process of its own, since Triton decides when it is imported whether it interprets. With PARITY_TEST_COMPILE=1 every
kernel is compiled for an NVIDIA and an AMD target, which takes minutes; without it, a few for one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

ALL = bool(os.environ.get("PARITY_TEST_COMPILE"))
QUICK = "rotary,hot"


@pytest.mark.parametrize("target", ["sm_90", "gfx942"] if ALL else ["sm_90"])
def test_kernels_compile_without_a_gpu(target: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[3]), environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(script), target, "all" if ALL else QUICK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500 if ALL else 250, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(done.stdout.splitlines()) >= (60 if ALL else 3), done.stdout


if ALL:
    pytestmark = [pytestmark, pytest.mark.timeout(1600)]
