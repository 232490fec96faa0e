"""One verification from beginning to end: capture both sides, compare level by level, stop at the first failure, report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..core.errors import UsageError
from .capture import Progress, capture, plan_for, silent
from .comparison import compare
from .gates import Rules, decide, load_rules
from .levels import Evidence, measure
from .outcome import Outcome, compare_packs
from .packs import Pack
from .packs.parts import forget
from .packs.signature import require
from .record import Plan
from .settings import Settings
from .sides.base import Side
from .sides.choose import is_pack, is_url, open_side, refuse_packing
from .suites import Suite, load, names

ORACLE = "cpu:reference:float32"
_FIRST = (0, 1, 2)


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
    _refuse_early(specs, paths, settings)
    suite, plan = _agree(a, b, settings, rules)
    seconds: dict[str, float] = {}
    # An endpoint may show no token ids: the other side goes first and lends it its own.
    order = (1, 0) if is_url(a) and not is_url(b) else (0, 1)
    # A wrong name or key should not cost a long capture of the other side.
    endpoints = {place: open_side(specs[place], settings, place) for place in order if is_url(specs[place])}
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
            with _timed(seconds, f"capture {'AB'[place]}"):
                named = _named(progress, "AB"[place])
                # A's parts stay until B is done: who stops in between goes on from there.
                capture(
                    side, suite, plan, paths[place], reference=other, progress=named, signer=settings.signer, keep_parts=True
                )
        finally:
            side.close()
        packs[place] = Pack(paths[place])
    with _timed(seconds, "capture oracle"):
        oracle = _oracle(packs, suite, plan, settings, progress)
    with _timed(seconds, "compare"):
        wanted = {*plan.levels, *({7} & set(settings.levels))}
        outcome = compare_packs(
            packs[0], packs[1], suite=suite, rules=rules, levels=tuple(wanted), oracle=oracle, keep_going=settings.keep_going
        )
    for path in paths:
        forget(path)
    return replace(outcome, seconds=seconds)


def _refuse_early(specs: tuple[str, str], paths: tuple[Path, Path], settings: Settings) -> None:
    """Raises what would else be raised after a long capture: a pack that would be written over or cannot be read, an unknown
    stack, or weights that nobody packs."""
    refuse_packing([spec for spec, recipe in zip(specs, settings.quantize, strict=True) if recipe is not None])
    for spec in (*specs, *({settings.oracle} - {"auto", "none"})):
        if is_pack(spec):
            _given(spec, settings)
        elif not is_url(spec):
            from .sides.local import refuse_unknown

            refuse_unknown(spec)
    for spec, other, elsewhere in zip(specs, reversed(specs), reversed(paths), strict=True):
        if is_pack(spec) and not is_pack(other) and Path(spec).resolve() == elsewhere.resolve():
            raise UsageError(f"the other side's pack would overwrite {spec}: choose another --out")


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


def _given(spec: str, settings: Settings) -> Pack:
    """A pack that was named, signed by whom it must be."""
    pack = Pack(Path(spec))
    if settings.signed_by is not None:
        require(pack.signed_by, settings.signed_by, f"the pack {spec}")
    return pack


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


def _named(progress: Progress, side: str) -> Progress:
    return lambda what, done, total: progress(f"{side}: {what}", done, total)


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Notes how long the block took."""
    started = time.monotonic()
    yield
    seconds[what] = time.monotonic() - started
