"""How much do texts alone tell? The power of the tests for endpoints that show no log-probabilities.

    python bench/verify_text.py [--repetitions 200] [--prompts 400]

A tiny random model is served as itself and with its weights rounded; prints how often each test at 1 % notices.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.verify.gates import load_rules
from parity.verify.power.edits import rounded, tensors
from parity.verify.power.trial import OPTIONS
from parity.verify.run import ORACLE
from parity.verify.statistics.divergence import Top, logsumexp, margins
from parity.verify.statistics.samples import discrepancy, uniform_ranks, uniformity
from tests.verify.tiny import write_checkpoint


def text_only(folder: Path, repetitions: int, num_prompts: int) -> None:
    """Power of the tests that need text only, at 1 %: a quantised model served as the original."""
    right = folder / "text"
    write_checkpoint(right, "qwen3", seed=5)
    pattern = r"model\.layers\..*proj\.weight"
    served = {"the same model": None, "8-bit weights": 8, "4-bit weights": 4, "3-bit weights": 3}
    prompts = np.random.default_rng(3).integers(3, 250, (num_prompts, 12))
    reference = _last_logits(right, prompts)
    tests = "rank test, 100 prompts | 400 | samples test, 20 prompts x 10 | greedy, 100 tokens | 1000"
    print(f"| served instead | KL | tokens that change | {tests} |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, bits in served.items():
        folder_b = folder / "text-b"
        shutil.rmtree(folder_b, ignore_errors=True)
        shutil.copytree(right, folder_b)
        if bits:
            tensors(pattern, rounded(bits))(folder_b)
        _power_row(name, reference, _last_logits(folder_b, prompts), repetitions)


def _last_logits(folder: Path, prompts: Any) -> Any:
    from parity import LLM

    with LLM(folder, stack=ORACLE, **OPTIONS) as llm:
        return np.stack([llm.logits(row.tolist())[-1] for row in prompts]).astype(np.float64)


def _power_row(name: str, a: Any, b: Any, repetitions: int) -> None:
    log_p, log_q = a - logsumexp(a)[:, None], b - logsumexp(b)[:, None]
    p, q = np.exp(log_p), np.exp(log_q)
    ids = np.argsort(-log_p, axis=1)[:, :64]
    head = np.take_along_axis(log_p, ids, axis=1)
    top = Top(ids, head, np.log(np.maximum(1 - np.exp(head).sum(1), 1e-12)))
    generator = np.random.default_rng(11)
    hits = dict.fromkeys(("rank 100", "rank 400", "samples", "greedy 100", "greedy 1000"), 0)
    gaps = margins(top, b.argmax(axis=1))
    telling = gaps > load_rules().band("float32")
    for run in range(repetitions):
        drawn = _draw(generator, q, 1)[:, 0]
        for count in (100, 400):
            rows = generator.permutation(len(a))[:count]
            part = Top(top.ids[rows], top.logprobs[rows], top.log_tail[rows])
            hits[f"rank {count}"] += uniformity(uniform_ranks(part, drawn[rows], seed=run)) < 0.01
        rows = generator.permutation(len(a))[:20]
        one, two = _draw(generator, p[rows], 10)[:, :, None], _draw(generator, q[rows], 10)[:, :, None]
        hits["samples"] += discrepancy(one, two, seed=run, num_permutations=199)[1] < 0.01
        for count in (100, 1000):
            hits[f"greedy {count}"] += bool(generator.choice(telling, count).any())
    kl = float((p * (log_p - log_q)).sum(1).mean())
    cells = [f"{100 * value / repetitions:.0f} %" for value in hits.values()]
    print(f"| {name} | {kl:.2g} | {100 * (gaps > 0).mean():.1f} % | {' | '.join(cells)} |", flush=True)


def _draw(generator: Any, p: Any, count: int) -> Any:
    places = p.cumsum(axis=1)[:, None, :] < generator.random((len(p), count, 1))
    return np.minimum(places.sum(axis=2), p.shape[1] - 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200, help="how often each test is tried")
    parser.add_argument("--prompts", type=int, default=400, help="prompts to draw from; at least 400")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        text_only(Path(name), arguments.repetitions, max(400, arguments.prompts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
