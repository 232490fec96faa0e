"""The exact probes on a stack of this process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path as FilePath

from ....core.errors import ParityError
from ....llm import LLM
from ....stacks.check.exact import op_digests
from ....stacks.ops import Ops
from ....stacks.registry import open_stack
from ... import exact as probes
from ...record import Exact


def exact_probes(spec: str, unreached: dict[str, str]) -> dict[str, Exact]:
    """Every op on whole numbers, and the integer-valued checkpoints, at once and token by token; all in float32.

    Args:
        spec: the stack, without a dtype.
        unreached: told by name what could not be had, and why.
    """
    stack, _ = open_stack(spec)
    found, failed = _probed(spec, stack.ops, tuple(sorted(stack.device.describe().items())))
    unreached.update(failed)
    return dict(found)


@cache
def _probed(spec: str, ops: Ops, device: tuple[tuple[str, str], ...]) -> tuple[Mapping[str, Exact], Mapping[str, str]]:
    """(what was found, what could not be had): once in a process for the same table on the same device, whatever model it
    serves. `ops` and `device` only tell whether it is the same."""
    stack, _ = open_stack(spec)
    found = {f"op {name}": Exact(*digests) for name, digests in op_digests(stack)}
    failed: dict[str, str] = {}
    for kind in probes.ARCHITECTURES:
        with tempfile.TemporaryDirectory() as name:
            probes.write(kind, FilePath(name))
            try:
                found |= _checkpoint(kind, name, spec)
            except ParityError as error:
                failed[f"exact probe {kind}"] = str(error)
    return found, failed


def _checkpoint(kind: str, folder: str, spec: str) -> dict[str, Exact]:
    found: dict[str, Exact] = {}
    with LLM(folder, stack=spec, dtype="float32", num_pages=16, max_num_seqs=4) as llm:
        for path, chunk in (("one_shot", None), ("stepwise", 1)):
            logits = [llm.logits(list(prompt), chunk=chunk) for prompt in probes.PROMPTS]
            found[f"{kind}/{path}"] = Exact(probes.digest(logits), probes.expected_digest(kind))
    return found
