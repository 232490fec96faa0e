"""One verification from beginning to end: capture both sides, compare level by level, stop at the first failure, report."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import FormatError, UsageError
from .capture import Progress, capture, plan_for, silent
from .compare import PromptResult, compare
from .container import MAGIC
from .gates import Finding, Measurement, Rules, decide, load_rules
from .levels import LEVELS, Evidence, measure
from .pack import Pack
from .record import Plan
from .sides.base import Side
from .sides.endpoint import EndpointSide
from .sides.http import Limits
from .signature import Signer, require
from .suites import Suite, load, names
from .verdict import Verdict, judge

ORACLE = "cpu:reference:float32"
_FIRST = (0, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to verify.

    Args:
        model: for local sides; and its vocabulary serves endpoints. None is the default model.
        suite: a name or a JSONL file.
        levels: which are wanted.
        out: folder of packs and reports.
        oracle: a third side in float32 that A and B are measured against; `auto` takes a side that is the reference in
            float32, or A in float32 where it shows that, and else captures one; `none` never does.
        gates: a file of thresholds, instead of ours.
        num_samples: sampled answers a prompt.
        keep_going: do not stop at the first level that fails.
        key_variables: the environment variables that hold the keys of A's and B's endpoints.
        endpoint_models: the names to ask A's and B's endpoints for.
        quantize: the recipes that A's and B's weights are packed by while loading; an oracle's are packed as A's.
        limits: what an endpoint may cost.
        options: more for `LLM`.
        signer: signs the packs that are made.
        signed_by: the public key that packs which are given must be signed with, in hex.
    """

    model: str | None = None
    suite: str = "quick"
    levels: tuple[int, ...] = tuple(LEVELS)
    out: Path = Path("parity-verify")
    oracle: str = "auto"
    gates: Path | None = None
    num_samples: int = 0
    keep_going: bool = False
    key_variables: tuple[str | None, str | None] = (None, None)
    endpoint_models: tuple[str | None, str | None] = (None, None)
    quantize: tuple[str | None, str | None] = (None, None)
    limits: Limits = field(default_factory=Limits)
    options: Mapping[str, Any] = field(default_factory=dict)
    signer: Signer | None = None
    signed_by: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A finished verification. `levels` are those that were judged; `seconds` by what was done."""

    verdict: Verdict
    findings: Sequence[Finding]
    results: Sequence[PromptResult]
    evidence: Evidence
    suite: Suite | None
    levels: tuple[int, ...]
    seconds: Mapping[str, float]


def verify(a: str, b: str, settings: Settings, progress: Progress = silent) -> Outcome:
    """Whether B is the same model as A.

    Args:
        a, b: a stack, an http(s) URL, or a pack's path.
        settings: see `Settings`.
        progress: told what is going on.

    Raises:
        ParityError: it could not be done; the text says why.
    """
    rules = load_rules(settings.gates) if settings.gates else load_rules()
    settings.out.mkdir(parents=True, exist_ok=True)
    specs, paths = (a, b), (settings.out / "a.pack", settings.out / "b.pack")
    _refuse_early(specs, paths, settings.quantize)
    suite, plan = _agree(a, b, settings, rules)
    clock = _Clock()
    # An endpoint may show no token ids: the other side goes first and lends it its own.
    order = (1, 0) if _is_url(a) and not _is_url(b) else (0, 1)
    # A wrong name or key should not cost a long capture of the other side.
    endpoints = {place: open_side(specs[place], settings, place) for place in order if _is_url(specs[place])}
    packs: dict[int, Pack] = {}
    for place in order:
        if is_pack(specs[place]):
            packs[place] = _given(specs[place], settings)
            continue
        assert suite is not None
        other = packs.get(1 - place)
        side = endpoints.get(place) or open_side(specs[place], settings, place)
        try:
            if other is not None and not settings.keep_going:
                plan = _shortened(side, place, suite, plan, other, paths, rules)
            with clock.time(f"capture {'AB'[place]}"):
                named = _named(progress, "AB"[place])
                capture(side, suite, plan, paths[place], reference=other, progress=named, signer=settings.signer)
        finally:
            side.close()
        packs[place] = Pack(paths[place])
    with clock.time("capture oracle"):
        oracle = _oracle(packs, suite, plan, settings, progress)
    with clock.time("compare"):
        wanted = {*plan.levels, *({7} & set(settings.levels))}
        outcome = compare_packs(
            packs[0], packs[1], suite=suite, rules=rules, levels=tuple(wanted), oracle=oracle, keep_going=settings.keep_going
        )
    return replace(outcome, seconds=clock.seconds)


def _refuse_early(specs: tuple[str, str], paths: tuple[Path, Path], quantize: tuple[str | None, str | None]) -> None:
    """Raises what would else be raised after a long capture: a pack that would be written over, an unknown stack, or weights
    that nobody packs."""
    refuse_packing([spec for spec, recipe in zip(specs, quantize, strict=True) if recipe is not None])
    for spec, other, elsewhere in zip(specs, reversed(specs), reversed(paths), strict=True):
        if not is_pack(spec) and not _is_url(spec):
            from .sides.local import refuse_unknown

            refuse_unknown(spec)
        if is_pack(spec) and not is_pack(other) and Path(spec).resolve() == elsewhere.resolve():
            raise UsageError(f"the other side's pack would overwrite {spec}: choose another --out")


def refuse_packing(specs: Sequence[str]) -> None:
    """Raises if none of the sides that are given a recipe packs weights: one for both is for those that can.

    Raises:
        UsageError: all are endpoints or packs, which are what they are.
    """
    if specs and all(is_pack(spec) or _is_url(spec) for spec in specs):
        raise UsageError(f"--quantize packs the weights that a local stack loads, and {' and '.join(specs)} loads none here")


def _agree(a: str, b: str, settings: Settings, rules: Rules) -> tuple[Suite | None, Plan]:
    """The suite and the plan: a pack brings its own, and everything else follows it."""
    for spec in (a, b):
        if is_pack(spec):
            made = Pack(Path(spec)).plan
            plan = replace(made, levels=tuple(level for level in settings.levels if level in made.levels))
            suite = find_suite(plan, settings.suite)
            if suite is None and not (is_pack(a) and is_pack(b)):
                raise UsageError(f"the pack's suite {plan.suite!r} is not here: name its file with --suite")
            return suite, plan
    suite = load(settings.suite)
    return suite, plan_for(suite, rules.hash, levels=settings.levels, num_samples=settings.num_samples)


def find_suite(plan: Plan, given: str) -> Suite | None:
    """The suite that a pack was made with, if it is at hand: the one given, or one of ours, with the same contents."""
    candidates = [load(name) for name in dict.fromkeys((given, *names())) if name in names() or Path(name).is_file()]
    return next((suite for suite in candidates if suite.hash == plan.suite_hash), None)


def is_pack(spec: str) -> bool:
    """Whether a side is a file that begins as a pack does, or is named like one."""
    path = Path(spec)
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC or path.suffix == ".pack"
    except OSError as error:
        if path.suffix == ".pack":
            raise FormatError(f"cannot read the pack {spec}: {error.strerror}") from None
        return False


def _given(spec: str, settings: Settings) -> Pack:
    """A pack that was named, signed by whom it must be."""
    pack = Pack(Path(spec))
    if settings.signed_by is not None:
        require(pack.signed_by, settings.signed_by, f"the pack {spec}")
    return pack


def _is_url(spec: str) -> bool:
    return spec.startswith(("http://", "https://"))


def open_side(spec: str, settings: Settings, place: int = 0) -> Side:
    """A side that can be captured.

    Raises:
        ParityError: no such stack, model or endpoint.
    """
    if _is_url(spec):
        variable = settings.key_variables[place]
        key = os.environ.get(variable) if variable else None
        if variable and not key:
            raise UsageError(f"the environment variable {variable} holds no key")
        words = None
        if settings.model:
            from .sides.local import load_vocabulary

            words = load_vocabulary(settings.model)
        return EndpointSide(spec, model=settings.endpoint_models[place], key=key, limits=settings.limits, words=words)
    from .sides.local import LocalSide

    recipe = settings.quantize[place]
    packing = {} if recipe is None else {"quantize": recipe}
    return LocalSide(spec, settings.model, **settings.options, **packing)


def _shortened(side: Side, place: int, suite: Suite, plan: Plan, other: Pack, paths: tuple[Path, Path], rules: Rules) -> Plan:
    """The plan, or only its first levels where identity, tokens or exact probes differ already: the long capture is spared."""
    first = replace(plan, levels=tuple(level for level in plan.levels if level in _FIRST))
    if not first.levels:
        return plan
    path = paths[place].with_name(f"{paths[place].stem}-first.pack")
    capture(side, suite, first, path, reference=other)
    try:
        mine = Pack(path)
        a, b = (other, mine) if place else (mine, other)
        evidence = Evidence(a, b, list(compare(a, b)), rules, {})
        findings = decide([m for level in first.levels for m in measure(evidence, level)], rules)
        return first if any(finding.outcome == "fail" for finding in findings) else plan
    finally:
        path.unlink(missing_ok=True)


def _oracle(packs: Mapping[int, Pack], suite: Suite | None, plan: Plan, settings: Settings, progress: Progress) -> Pack | None:
    """The third side of the triangle."""
    spec = settings.oracle
    if 4 not in plan.levels or spec == "none" or suite is None:
        return None
    if is_pack(spec):
        return _given(spec, settings)
    if spec == "auto":
        at_hand = next((pack for pack in packs.values() if _is_oracle(pack)), None)
        if at_hand is not None or _shows_float32(packs[0]):
            return at_hand
        if not any(pack.identity.kind == "local" for pack in packs.values()) or settings.model is None:
            return None
        spec = ORACLE
    side = open_side(spec, settings)
    path = settings.out / "oracle.pack"
    try:
        capture(side, suite, replace(plan, levels=(4,)), path, reference=packs[0], progress=_named(progress, "oracle"))
    finally:
        side.close()
    return Pack(path)


def _is_oracle(pack: Pack) -> bool:
    """Whether a side is the oracle itself."""
    return pack.identity.dtype == "float32" and (pack.identity.stack or "").endswith(":reference")


def _shows_float32(pack: Pack) -> bool:
    """Whether A can be its own oracle: it serves in float32, or shows what it computes in it beside what it serves."""
    prompts = pack.summary.prompts[:1]
    return pack.identity.dtype == "float32" or any(pack.record(prompt).in_float32 for prompt in prompts)


def compare_packs(
    a: Pack,
    b: Pack,
    *,
    suite: Suite | None,
    rules: Rules,
    levels: tuple[int, ...],
    oracle: Pack | None = None,
    keep_going: bool = False,
) -> Outcome:
    """Level by level, up to the first that fails; the drill-down, if wanted, always.

    Raises:
        UsageError: the packs were not made for each other.
    """
    if a.plan.suite_hash != b.plan.suite_hash:
        raise UsageError(f"the packs were made with different suites ({a.plan.suite} and {b.plan.suite}): capture one again")
    if a.plan.seed != b.plan.seed or a.plan.sketch_size != b.plan.sketch_size:
        raise UsageError("the packs were made with different seeds or sketch sizes: capture one again")
    items = {item.id: item for item in suite.items} if suite is not None else {}
    results = list(compare(a, b, oracle))
    evidence = Evidence(a, b, results, rules, items, oracle)
    seen: list[Measurement] = []
    judged: list[int] = []
    for level in sorted(set(levels) - {7}):
        seen += measure(evidence, level)
        judged.append(level)
        if not keep_going and any(f.outcome == "fail" and f.level == level for f in decide(seen, rules)):
            break
    if 7 in levels:
        seen += measure(evidence, 7)
        judged.append(7)
    findings = decide(seen, rules)
    return Outcome(judge(findings), findings, results, evidence, suite, tuple(judged), {})


def _named(progress: Progress, side: str) -> Progress:
    return lambda what, done, total: progress(f"{side}: {what}", done, total)


class _Clock:
    """Seconds by what was done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str) -> _Lap:
        """Measures a `with` block."""
        return _Lap(self.seconds, name)


class _Lap:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name, self._started = seconds, name, 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = time.monotonic() - self._started
