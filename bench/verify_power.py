"""How good is the verifier? Plants every fault of the catalogue, and runs many pairs that are equal.

    python bench/verify_power.py [--equal 100] [--only WORD] [--suite NAME] [--record FILE]

Runs on tiny random checkpoints; prints tables in Markdown. What is done is kept in the record, if one is named, and not done
again: a run that was stopped goes on where it was. `bench/verify_text.py` measures the tests that need texts only.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

import parity
from parity.verify import suites
from parity.verify.gates import load_rules
from parity.verify.outcome import compare_packs
from parity.verify.packs import Pack
from parity.verify.power import FAULTS, Fault
from parity.verify.power.trial import Trial, capture_local, plan_of, try_fault
from parity.verify.statistics.bounds import rate_lower, rate_upper
from tests.verify.suite import write_suite
from tests.verify.tiny import write_checkpoint

_EQUAL_KINDS = ("qwen2", "qwen3", "qwen3_moe", "deepseek_v3")
_EVERY_LEVEL = (0, 1, 2, 3, 4, 5, 6, 7)


@dataclass(frozen=True)
class Row:
    """What one pair was called; `level` and `place` are the first that failed."""

    name: str
    word: str
    level: int | None = None
    place: str | None = None


class Record:
    """Rows by name, each written to a file of JSON lines as soon as it is known.

    Args:
        path: the file, or None to keep nothing.
        made_with: what every row in it must have been made with: its first line.
    """

    def __init__(self, path: Path | None, made_with: Mapping[str, str]) -> None:
        self._path = path
        self.rows: dict[str, Row] = {}
        if path is None:
            return
        if not path.exists():
            path.write_bytes(msgspec.json.encode(made_with) + b"\n")
        first, *lines = path.read_bytes().splitlines()
        if msgspec.json.decode(first) != made_with:
            raise SystemExit(f"{path} was made with another program, suite or gates: name a new file")
        for line in lines:
            row = msgspec.json.decode(line, type=Row)
            self.rows[row.name] = row

    def add(self, row: Row) -> Row:
        """Keeps a row."""
        self.rows[row.name] = row
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")
        return row


class Bench:
    """Makes pairs of packs in a folder, asked with one suite."""

    def __init__(self, suite: suites.Suite, folder: Path, record: Record) -> None:
        self._suite, self._folder, self._record = suite, folder, record
        self._right: dict[str, Pack] = {}

    def faults(self, wanted: Sequence[Fault]) -> list[Trial]:
        """Every fault that is wanted, one line each."""
        print("| fault | seen in | verdict | level | expected | place named | right |\n|---|---|---|---:|---:|---|---|")
        trials = []
        for fault in wanted:
            row = self._record.rows.get(fault.name) or self._record.add(self._planted(fault))
            trial = Trial(fault, row.word, row.level, row.place)
            right = {True: "yes", False: "NO", None: ""}[trial.place_right]
            place = (trial.place or "").split(":")[0] if fault.place else ""
            print(
                f"| {fault.name} | {fault.seen} | {trial.word} | {trial.level} | {fault.level} | {place} | {right} |",
                flush=True,
            )
            trials.append(trial)
        return trials

    def _planted(self, fault: Fault) -> Row:
        checkpoint = self._folder / fault.kind
        if fault.kind not in self._right:
            write_checkpoint(checkpoint, fault.kind)
            right = self._folder / f"{fault.kind}.pack"
            self._right[fault.kind] = capture_local(checkpoint, self._suite, plan_of(self._suite), right)
        trial = try_fault(fault, checkpoint, self._right[fault.kind], self._suite, self._folder / "trial")
        return Row(fault.name, trial.word, trial.level, trial.place)

    def equal(self, count: int) -> list[str]:
        """The verdicts on pairs that are the same model."""
        words = []
        for number in range(count):
            name = f"equal {number}"
            row = self._record.rows.get(name) or self._record.add(Row(name, self._equal_pair(number)))
            words.append(row.word)
        return words

    def _equal_pair(self, number: int) -> str:
        """Other weights each time, and B with other pages, batches and threads."""
        checkpoint, plan = self._folder / "equal", plan_of(self._suite)
        shutil.rmtree(checkpoint, ignore_errors=True)
        write_checkpoint(checkpoint, _EQUAL_KINDS[number % len(_EQUAL_KINDS)], seed=1000 + number)
        a = capture_local(checkpoint, self._suite, plan, self._folder / "equal-a.pack")
        torch.set_num_threads(2)
        other: dict[str, Any] = {"page_size": 32, "max_num_batched_tokens": 40, "enforce_eager": True}
        b = capture_local(checkpoint, self._suite, plan, self._folder / "equal-b.pack", reference=a, **other)
        torch.set_num_threads(1)
        return compare_packs(a, b, suite=self._suite, rules=load_rules(), levels=_EVERY_LEVEL).verdict.word


def _rate(hits: int, total: int) -> str:
    if not total:
        return "0 of 0"
    low, high = 100 * rate_lower(hits, total, 0.975), 100 * rate_upper(hits, total, 0.975)
    return f"{hits} of {total} (95 %: {low:.1f} to {high:.1f} %)"


def _program() -> str:
    """SHA-256 of the package's sources."""
    folder = Path(parity.__file__).parent
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".json", ".jsonl"))
    return hashlib.sha256(b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)).hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; returns 1 if a fault was missed, a place was wrong or an equal pair was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--equal", type=int, default=20, help="equal pairs to run")
    parser.add_argument("--only", default="", help="faults with this word in their name")
    parser.add_argument("--suite", help="such as quick: the prompts that must show the faults, instead of ten short ones")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keeps what is done, and goes on from there")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite = suites.load(arguments.suite or str(write_suite(folder / "tiny.jsonl")))
        record = Record(arguments.record, {"program": _program(), "suite": suite.hash, "gates": load_rules().hash})
        bench = Bench(suite, folder, record)
        trials = bench.faults([fault for fault in FAULTS if arguments.only in fault.name])
        words = bench.equal(arguments.equal)
    caught, places = [trial.caught for trial in trials], [t.place_right for t in trials if t.place_right is not None]
    print(f"\ncaught {_rate(sum(caught), len(caught))}; place right {_rate(sum(places), len(places))}")
    seen = ", ".join(f"{word} {number}" for word, number in sorted(Counter(words).items()))
    alarms = words.count("DIFFERENT")
    print(f"equal pairs: {len(words)} ({seen}); false alarms {_rate(alarms, len(words))}")
    print(f"suite {suite.name} {suite.hash[:16]}, gates {load_rules().hash[:16]}, program {_program()[:16]}")
    return int(alarms > 0 or not all(caught) or not all(places))


if __name__ == "__main__":
    raise SystemExit(main())
