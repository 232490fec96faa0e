"""`parity verify`, `parity capture` and `parity pack`: arguments, progress, and what is printed."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ..core.errors import EngineError, ParityError, UsageError
from .capture import capture, plan_for
from .gates import load_rules
from .levels import LEVELS
from .outcome import Outcome
from .packs import Pack
from .packs.signature import Signer
from .record import Plan
from .report.write import read_report, write_report
from .run import ORACLE, verify
from .settings import Settings
from .sides.choose import is_pack, open_side, refuse_packing
from .sides.http import Limits
from .suites import Suite, load, names

log = logging.getLogger("parity")

_RECIPES = ("q8", "q4")
_WORDS = """exit codes:
  0  IDENTICAL, EQUIVALENT or WITHIN PRECISION
  1  DIFFERENT
  2  it could not be done
  3  INCONCLUSIVE"""


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parity verify`."""
    parser.epilog = _WORDS
    parser.add_argument("a", metavar="A", help="the side that is trusted: a stack (cpu, cuda, cpu:reference), a URL, or a pack")
    parser.add_argument("b", metavar="B", help="the side in question")
    asked, stacks, endpoints, written = _add_common(parser)
    asked.add_argument("--oracle", default="auto", help=f"a third side in float32 ({ORACLE}), a pack, auto or none")
    asked.add_argument("--gates", type=Path, metavar="FILE", help="a JSON file of thresholds instead of ours")
    asked.add_argument("--keep-going", action="store_true", help="do not stop at the first level that fails")
    stacks.add_argument("--quantize-b", choices=(*_RECIPES, "none"), help="the same for B, if not --quantize")
    endpoints.add_argument("--key-env-b", metavar="NAME", help="the variable that holds the key of B, if not --key-env")
    endpoints.add_argument("--endpoint-model-b", metavar="NAME", help="the name to ask B for, if not --endpoint-model")
    written.add_argument("--out", type=Path, default=Path("parity-verify"), metavar="DIR", help="folder for packs and reports")
    written.add_argument("--signed-by", metavar="HEX", help="refuse packs that this Ed25519 public key did not sign")


def add_capture_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parity capture`."""
    parser.add_argument("a", metavar="A", help="a stack or a URL")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the pack to write")
    parser.add_argument("--against", type=Path, metavar="PACK", help="another side's pack, whose tokens and inner values serve")
    _add_common(parser)


def add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parity pack`."""
    parser.add_argument("action", choices=["show"], help="what to do with it")
    parser.add_argument("file", type=Path, help="a pack, or a report.json")


def _add_common(parser: argparse.ArgumentParser) -> tuple[argparse._ArgumentGroup, ...]:
    """The arguments of every capture, in four groups."""
    asked = parser.add_argument_group("what is asked")
    asked.add_argument("--model", help="what local stacks run; its vocabulary also helps to read endpoints")
    asked.add_argument("--suite", default="quick", help=f"{', '.join(names())}, or a JSONL file")
    asked.add_argument("--levels", default="0-7", help="such as 0-7, 3 or 0,1,4")
    asked.add_argument(
        "--samples", type=int, default=0, metavar="N", help="sampled answers a prompt, for endpoints that show texts only"
    )
    stacks = parser.add_argument_group("local stacks")
    stacks.add_argument("--threads", type=int, metavar="N", help="threads that they compute with (default: all)")
    stacks.add_argument("--quantize", choices=_RECIPES, help="pack the matrices of a plain model while loading")
    endpoints = parser.add_argument_group("endpoints")
    endpoints.add_argument("--key-env", metavar="NAME", help="the environment variable that holds the key")
    endpoints.add_argument("--endpoint-model", metavar="NAME", help="the name to ask for")
    endpoints.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="for one answer")
    endpoints.add_argument("--at-once", type=int, default=4, metavar="N", help="requests in flight")
    endpoints.add_argument("--requests-per-second", type=float, metavar="N", help="most requests a second")
    written = parser.add_argument_group("what is written")
    written.add_argument("--sign", type=Path, metavar="KEY", help="sign it with this Ed25519 key, a PEM file")
    return asked, stacks, endpoints, written


def run_verify(arguments: argparse.Namespace) -> int:
    """Runs `parity verify`; returns the exit code: 0 the same, 1 different, 3 undecided.

    Raises:
        ParityError: it could not be done (exit code 2).
    """
    settings = _settings(arguments)
    try:
        outcome = verify(arguments.a, arguments.b, settings, _Terminal(sys.stderr))
    except EngineError as error:
        # An engine's own exit code is 1, which here means that the sides differ.
        raise ParityError(f"a side failed: {error}") from error
    except KeyboardInterrupt:
        print(f"\nstopped: the same command goes on with what is kept in {settings.out}", file=sys.stderr)
        raise
    report = write_report(outcome, settings.out, reproduction(arguments), settings.signer)
    _print(outcome, report, sys.stdout)
    return outcome.verdict.exit_code


def run_capture(arguments: argparse.Namespace) -> int:
    """Runs `parity capture`."""
    if is_pack(arguments.a):
        raise UsageError(f"{arguments.a} is a pack already; name a stack or a URL")
    settings = _settings(arguments)
    refuse_packing([arguments.a] if arguments.quantize else [])
    reference = Pack(arguments.against) if arguments.against else None
    suite, plan = _plan(settings, reference)
    side = open_side(arguments.a, settings)
    try:
        progress = _Terminal(sys.stderr)
        capture(side, suite, plan, arguments.output, reference=reference, progress=progress, signer=settings.signer)
    except KeyboardInterrupt:
        print(f"\nstopped: the same command goes on with what is kept in {arguments.output}.parts", file=sys.stderr)
        raise
    finally:
        side.close()
    print(f"wrote {arguments.output}: {arguments.output.stat().st_size / 2**20:.1f} MiB, {Pack(arguments.output).hash}")
    return 0


def _plan(settings: Settings, reference: Pack | None) -> tuple[Suite, Plan]:
    suite = load(settings.suite)
    if reference is None:
        return suite, plan_for(suite, load_rules().hash, levels=settings.levels, num_samples=settings.num_samples)
    if reference.plan.suite_hash != suite.hash:
        raise UsageError(f"the pack was made with the suite {reference.plan.suite!r}: name it with --suite")
    return suite, reference.plan


def run_pack(arguments: argparse.Namespace) -> int:
    """Runs `parity pack show`."""
    if arguments.file.suffix == ".json":
        return _show_report(arguments.file)
    pack = Pack(arguments.file)
    identity, plan = pack.identity, pack.plan
    print(f"pack         {pack.hash}")
    print(f"signed by    {pack.signed_by or 'nobody'}")
    for name in ("side", "model", "architecture", "stack", "dtype", "weights", "config", "tokenizer", "template"):
        value = getattr(identity, name)
        print(f"{name:<13}{'not known' if value is None else value}")
    print(f"suite        {plan.suite} {plan.suite_hash}, {len(pack.summary.prompts)} prompts")
    paths: dict[str, int] = {}
    answers = 0
    for record in pack:
        answers += record.answer is not None
        for path, positions in record.paths.items():
            paths[path] = paths.get(path, 0) + len(positions.at)
    print(f"positions    {', '.join(f'{path} {count}' for path, count in paths.items()) or 'none'}")
    print(f"answers      {answers}")
    layers = pack.layers()
    print(f"inside       {'not captured' if layers is None else f'{len(layers.sites)} sites'}")
    for name, why in pack.summary.unreached.items():
        print(f"lacks        {name}: {why}")
    return 0


def _show_report(path: Path) -> int:
    data, signed_by = read_report(path)
    print(f"report       {data['verdict'].get('word')}, made at {data.get('made_at')}")
    print(f"signed by    {signed_by or 'nobody'}")
    return 0


def parse_levels(text: str) -> tuple[int, ...]:
    """`0-7`, `3` or `0,1,4-6` as levels.

    Raises:
        UsageError: it is not of that form, or there is no such level.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"{text!r} does not name levels: write 0-7, 3 or 0,1,4")
        found |= set(range(int(first), int(last if dash else first) + 1))
    if not found or not found <= set(LEVELS):
        raise UsageError(f"{text!r} names levels that do not exist: there are 0 to {max(LEVELS)}")
    return tuple(sorted(found))


def _settings(arguments: argparse.Namespace) -> Settings:
    limits = Limits(arguments.timeout, at_once=arguments.at_once, requests_per_s=arguments.requests_per_second)
    if limits.timeout_s <= 0 or limits.at_once < 1 or (limits.requests_per_s is not None and limits.requests_per_s <= 0):
        raise UsageError("--timeout, --at-once and --requests-per-second must be above 0")
    if not 0 <= arguments.samples <= 10_000:
        raise UsageError("--samples must be between 0 and 10000")
    values = vars(arguments)
    return Settings(
        model=arguments.model,
        suite=arguments.suite,
        levels=parse_levels(arguments.levels),
        out=values.get("out") or Path("."),
        oracle=values.get("oracle") or "none",
        gates=values.get("gates"),
        num_samples=arguments.samples,
        keep_going=bool(values.get("keep_going")),
        key_variables=(arguments.key_env, values.get("key_env_b") or arguments.key_env),
        endpoint_models=(arguments.endpoint_model, values.get("endpoint_model_b") or arguments.endpoint_model),
        quantize=_quantize(arguments.quantize, values.get("quantize_b")),
        limits=limits,
        signer=Signer(arguments.sign) if arguments.sign else None,
        signed_by=values.get("signed_by"),
        options={} if arguments.threads is None else {"threads": arguments.threads},
    )


def _quantize(both: str | None, b: str | None) -> tuple[str | None, str | None]:
    """How A's and B's weights are packed."""
    return both, both if b is None else None if b == "none" else b


def reproduction(arguments: argparse.Namespace) -> str:
    """The command that does the same again; keys are named by their variables and so are not in it."""
    words: list[str] = ["parity", "verify", arguments.a, arguments.b]
    for name, value in vars(arguments).items():
        if name in ("a", "b", "verb", "log_level") or value in (None, False) or callable(value):
            continue
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return shlex.join(words)


def _print(outcome: Outcome, report: Path, stream: TextIO) -> None:
    verdict = outcome.verdict
    for finding in outcome.findings:
        numbers = ""
        if finding.estimate is not None and finding.threshold:
            numbers = f" {finding.estimate:.3g} (limit {finding.threshold:.3g})"
        print(f"  {finding.level}  {finding.gate:<14} {finding.outcome:<12}{numbers}", file=stream)
        for event in finding.events[:3]:
            print(f"       {event}", file=stream)
    print(f"{verdict.word}  {verdict.meaning}", file=stream)
    if verdict.cause:
        print(f"  {verdict.cause}", file=stream)
    if verdict.needs:
        print(f"  to decide it: {verdict.needs}", file=stream)
    print(f"  report: {report}", file=stream)


class _Terminal:
    """Progress on one line of a terminal, or now and then on lines of a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._told_s = stream, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        live = self._stream.isatty()
        if now - self._told_s < (0.1 if live else 10.0) and 0 < done < total:
            return
        self._told_s = now
        end = "" if live and 0 < done < total else "\n"
        start = "\r\x1b[K" if live else ""
        print(f"{start}{what} {done}/{total}", end=end, file=self._stream, flush=True)


def main(argv: Sequence[str]) -> int:
    """`verify ...`, `capture ...` or `pack ...` without the rest of the command line; for tests and benches."""
    parser = argparse.ArgumentParser(prog="parity")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, (add, _) in VERBS.items():
        add(verbs.add_parser(name))
    arguments = parser.parse_args(list(argv))
    code: int = VERBS[arguments.verb][1](arguments)
    return code


VERBS = {
    "verify": (add_verify_arguments, run_verify),
    "capture": (add_capture_arguments, run_capture),
    "pack": (add_pack_arguments, run_pack),
}
