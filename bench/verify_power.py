"""How good is the verifier? Plants every fault of the catalogue, runs many equal pairs, and measures text-only tests.

    python bench/verify_power.py [--equal 100] [--first N] [--only WORD] [--suite NAME] [--text]

Runs on tiny random checkpoints; prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.verify import suites
from parity.verify.faults import FAULTS, rounded, tensors
from parity.verify.gates import load_rules
from parity.verify.pack import Pack
from parity.verify.run import ORACLE, compare_packs
from parity.verify.statistics.bounds import rate_lower, rate_upper
from parity.verify.statistics.divergence import Top, logsumexp, margins
from parity.verify.statistics.samples import discrepancy, uniform_ranks, uniformity
from parity.verify.trial import OPTIONS, Trial, capture_local, plan_of, try_fault
from tests.verify.suite import write_suite
from tests.verify.tiny import write_checkpoint

_EQUAL_KINDS = ("qwen2", "qwen3", "qwen3_moe", "deepseek_v3")


def faults(suite: suites.Suite, folder: Path, only: str) -> list[Trial]:
    """Every fault, one row each."""
    packs: dict[str, Pack] = {}
    trials = []
    print("| fault | seen in | verdict | level | expected | place named | right |\n|---|---|---|---:|---:|---|---|")
    for fault in [fault for fault in FAULTS if only in fault.name]:
        checkpoint = folder / fault.kind
        if fault.kind not in packs:
            write_checkpoint(checkpoint, fault.kind)
            packs[fault.kind] = capture_local(checkpoint, suite, plan_of(suite), folder / f"{fault.kind}.pack")
        trial = try_fault(fault, checkpoint, packs[fault.kind], suite, folder / "trial")
        trials.append(trial)
        right = {True: "yes", False: "NO", None: ""}[trial.place_right]
        place = (trial.place or "").split(":")[0] if fault.place else ""
        print(f"| {fault.name} | {fault.seen} | {trial.word} | {trial.level} | {fault.level} | {place} | {right} |", flush=True)
    caught, places = sum(t.caught for t in trials), [t.place_right for t in trials if t.place_right is not None]
    print(f"\ncaught {_rate(caught, len(trials))}; place right {_rate(sum(places), len(places))}\n")
    return trials


def equal_runs(suite: suites.Suite, folder: Path, count: int, first: int = 0) -> int:
    """Pairs that are the same model: other weights each time, and B with other pages, batches and threads.

    Args:
        first: the pair to begin with, so that many can be run in parts.
    """
    alarms, words = 0, dict[str, int]()
    for run in range(first, first + count):
        kind = _EQUAL_KINDS[run % len(_EQUAL_KINDS)]
        checkpoint = folder / "equal"
        shutil.rmtree(checkpoint, ignore_errors=True)
        write_checkpoint(checkpoint, kind, seed=1000 + run)
        a = capture_local(checkpoint, suite, plan_of(suite), folder / "equal-a.pack")
        torch.set_num_threads(2)
        other: dict[str, Any] = {"page_size": 32, "max_num_batched_tokens": 40, "enforce_eager": True}
        b = capture_local(checkpoint, suite, plan_of(suite), folder / "equal-b.pack", reference=a, **other)
        torch.set_num_threads(1)
        word = compare_packs(a, b, suite=suite, rules=load_rules(), levels=(0, 1, 2, 3, 4, 5, 6, 7)).verdict.word
        words[word] = words.get(word, 0) + 1
        alarms += word == "DIFFERENT"
    seen = ", ".join(f"{word} {number}" for word, number in sorted(words.items()))
    print(f"equal runs: {count} ({seen}); false alarms {_rate(alarms, count)}\n", flush=True)
    return alarms


def text_only(folder: Path, repetitions: int = 200, num_prompts: int = 400) -> None:
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


def _rate(hits: int, total: int) -> str:
    if not total:
        return "0 of 0"
    low, high = 100 * rate_lower(hits, total, 0.975), 100 * rate_upper(hits, total, 0.975)
    return f"{hits} of {total} (95 %: {low:.1f} to {high:.1f} %)"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; returns 1 if a fault was missed or an equal pair refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--equal", type=int, default=20, help="equal pairs to run")
    parser.add_argument(
        "--first", type=int, default=0, help="the equal pair to begin with: 25 at a time make 100 in four parts"
    )
    parser.add_argument("--only", default="", help="faults with this word in their name")
    parser.add_argument("--suite", help="such as quick: the prompts that must show the faults, instead of ten short ones")
    parser.add_argument("--text", action="store_true", help="also the table of text-only tests")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite = suites.load(arguments.suite or str(write_suite(folder / "tiny.jsonl")))
        trials = faults(suite, folder, arguments.only)
        alarms = equal_runs(suite, folder, arguments.equal, arguments.first) if arguments.equal else 0
        if arguments.text:
            text_only(folder)
    print(json.dumps({"seconds": round(time.monotonic() - started), "gates": load_rules().hash}))
    return int(alarms > 0 or not all(trial.caught for trial in trials))


if __name__ == "__main__":
    raise SystemExit(main())
