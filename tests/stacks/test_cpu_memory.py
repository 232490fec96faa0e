"""The kernels where memory or threads run out: an exception that says what was asked for, and the process goes on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from parity.stacks.cpu.native import missing

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason="the kernels are not built"),
    pytest.mark.skipif(sys.platform != "linux", reason="limits of address space as on Linux"),
]

LIMITED = """
import resource
import torch
from parity.stacks.cpu.native import native

def limit(more):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, resource.RLIM_INFINITY))

def gated_linear(x, out):
    weight = torch.ones(2, 16, 32)
    halves = [(weight[i].data_ptr(), 0, 16) for i in range(2)]
    kernels.gated_linear(x.data_ptr(), 32, len(x), 32, halves, 0, out.data_ptr(), 16, False, 0, 0.0, 0.0, 0.0)
    return out

def small():
    return gated_linear(torch.ones(100, 32), torch.zeros(100, 16))

kernels = native()
"""


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", LIMITED + code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_working_memory_that_cannot_be_had_is_an_error_and_not_the_end() -> None:
    """Each thread asks for 128 bytes a token: 256 MiB here, of which one thread gets its own and the next does not."""
    out = python("""
kernels.set_threads(3)
expected = small()
x, out = torch.empty(1 << 21, 32), torch.empty(1 << 21, 16)  # there before the limit
limit(400 << 20)
try:
    gated_linear(x, out)
except MemoryError as error:
    print(error)
print(torch.equal(small(), expected), expected[0, 0].item())
""")
    lines = out.splitlines()
    assert lines[0].startswith("no memory for the kernels of the cpu stack: 268")
    assert "bytes were asked for by each thread" in lines[0]
    assert lines[1] == "True 1024.0"


def test_threads_that_cannot_be_started_are_an_error_and_not_the_end() -> None:
    out = python("""
kernels.set_threads(1)
expected = small()
limit(40 << 20)  # a few stacks of eight MiB
kernels.set_threads(64)
try:
    small()
except RuntimeError as error:
    print(error)
kernels.set_threads(2)
print(torch.equal(small(), expected))
""")
    lines = out.splitlines()
    assert lines[0].startswith("of 64 threads of the cpu stack only ")
    assert "fewer, by PARITY_THREADS or --threads" in lines[0]
    assert lines[1] == "True"


def test_threads_have_processors_of_their_own_where_they_are_as_many_as_those() -> None:
    """Fewer are the system's to place, since other processes would be given the same first processors; so are more."""
    count = len(os.sched_getaffinity(0))
    if count == 1:
        pytest.skip("one processor has no threads beside the caller's")
    out = python(f"""
import os
for threads in ({count - 1}, {count}, {count + 1}):
    kernels.set_threads(threads)
    small()
    print(sum(len(os.sched_getaffinity(int(task))) == 1 for task in os.listdir("/proc/self/task")))
""")
    assert out.split() == ["0", str(count - 1), "0"]
