"""The cuda stack against the cpu's reference: tiny random checkpoints of every architecture, made as the tests make them.

In float32 logits have to agree to 1e-4. In bfloat16 the reference itself is computed twice, in bfloat16 and in float32: the
difference is the noise that the dtype makes, and the stack may not make more than twice as much. Noise is the median over
the rows of some prompts: where a router or a selection is all but even, rounding alone sends a row elsewhere, and that row
says nothing about the stack. With a batch-invariant table, requests computed together have to bring the tokens that they
bring alone.

`bench/cuda_stack.py` runs this on a GPU. Without one, the same under Triton's interpreter on the host, slowly:

    python bench/cuda_parity.py --interpreted [NAME]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from parity.stacks import registry

_REPOSITORY = Path(__file__).parents[1]
_NOISE = 2.0  # times the reference's own
_FLOAT32 = 1e-4
LENGTHS = (37, 12, 3)
_SEEDS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Agreement:
    """What one architecture showed: relative errors, and what is wrong, if anything."""

    architecture: str
    float32: float | None = None
    bfloat16: float | None = None
    noise: float | None = None
    invariant: bool | None = None
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether all that was tried is within its limit."""
        return not self.problem


def architectures() -> dict[str, Callable[[Path], object]]:
    """Name to what makes a tiny checkpoint of it, from the tests of this repository."""
    if str(_REPOSITORY) not in sys.path:
        sys.path.insert(0, str(_REPOSITORY))
    from tests.models.makers import MAKERS

    return dict(MAKERS)


def agreement(name: str, stack: str) -> Agreement:
    """How a stack does on an architecture."""
    has_fixed = "deterministic" in registry.open_stack(stack)[0].tables
    with tempfile.TemporaryDirectory() as folder:
        architectures()[name](Path(folder))
        return _agreement(name, Path(folder), stack, has_fixed)


def compare(stack: str, chosen: str = "") -> Iterator[Agreement]:
    """One agreement for each architecture whose name has `chosen` in it; a failure is one too."""
    for name in (name for name in architectures() if chosen in name):
        try:
            yield agreement(name, stack)
        except Exception as error:  # one architecture's failure is a line of the table
            yield Agreement(name, problem=f"failed: {type(error).__name__}: {str(error)[:160]}")


def _agreement(name: str, folder: Path, stack: str, has_fixed: bool) -> Agreement:
    from tests.models import tiny

    def logits(spec: str) -> list[np.ndarray]:
        engine = tiny.open_engine(folder, stack=spec)
        return [tiny.logits(engine, tiny.prompt(LENGTHS[0], engine.info.vocab_size, seed)) for seed in _SEEDS]

    def noise_of(spec: str) -> float:
        errors = [
            np.linalg.norm(found - right, axis=-1) / np.linalg.norm(right, axis=-1)
            for found, right in zip(logits(spec), exact, strict=True)
        ]
        return float(np.median(np.concatenate(errors)))

    exact = logits("cpu:reference:float32")
    full = max(map(tiny.relative_error, logits(f"{stack}:float32"), exact))
    half, noise = noise_of(f"{stack}:bfloat16"), noise_of("cpu:reference:bfloat16")
    found = Agreement(name, full, half, noise, _invariant(folder, stack) if has_fixed else None)
    problems = [
        *([f"float32 is off by {full:.1e}, above {_FLOAT32:.0e}"] if not full <= _FLOAT32 else []),
        *([f"bfloat16 is off by {half:.1e}, the reference by {noise:.1e}"] if not half <= _NOISE * noise else []),
        *(["tokens depend on the batch"] if found.invariant is False else []),
    ]
    return replace(found, problem="; ".join(problems))


def _invariant(folder: Path, stack: str) -> bool:
    """Whether requests bring the same tokens together and alone."""
    from tests.models import tiny

    def tokens(numbers: tuple[int, ...]) -> list[list[int]]:
        engine = tiny.open_engine(folder, stack=stack, deterministic=True)
        prompts = {n: tiny.prompt(LENGTHS[n], engine.info.vocab_size, seed=n + 2) for n in numbers}
        outputs = tiny.finish(engine, [tiny.greedy(str(n), prompt, 8) for n, prompt in prompts.items()])
        return [tiny.generated(outputs[str(n)]) for n in numbers]

    together = tokens((0, 1, 2))
    return all(tokens((n,))[0] == together[n] for n in range(3))


def main() -> int:
    """Prints a line for each architecture; 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="", help="a part of an architecture's name (default: all)")
    parser.add_argument("--stack", default="cuda", help="what to hold to the reference (default: cuda)")
    parser.add_argument("--interpreted", action="store_true", help="the tables of cuda under Triton's interpreter")
    arguments = parser.parse_args()
    if arguments.interpreted:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
        sys.path.insert(0, str(_REPOSITORY))
        from tests.stacks.cuda.interpreted import POINT

        known = registry.names()
        registry.names = lambda: {**known, POINT.name: POINT}
        arguments.stack = POINT.name
    fine = True
    for found in compare(arguments.stack, arguments.name):
        fine = fine and found.ok
        numbers = ", ".join(
            f"{label} {value:.1e}"
            for label, value in (("float32", found.float32), ("bfloat16", found.bfloat16), ("the reference's", found.noise))
            if value is not None
        )
        print(f"{found.architecture}: {found.problem or 'agrees'} ({numbers})", flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
