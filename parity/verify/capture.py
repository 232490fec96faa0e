"""Captures a side into a pack, a few prompts at a time, and goes on where an earlier run was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path as FilePath

import msgspec

from .packs import Pack, PackWriter
from .packs.pack import distinct_bytes
from .packs.parts import Parts, forget
from .packs.signature import Signer
from .record import Int32s, Layers, Plan, Record
from .sides.base import Side
from .suites import Item, Suite

MADE_BY = "parity"
_GROUP = 24
_FORCED = frozenset({3, 4, 5})
"""The levels that look at distributions along given tokens."""
_LAYER_TOKENS = 16
_LAYER_BYTES = 24 << 20
"""What the inside of the model may take in a pack: a wide model shows fewer tokens of it."""

Progress = Callable[[str, int, int], None]
"""Called with (what is going on, prompts done, prompts in all)."""


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


def capture(
    side: Side,
    suite: Suite,
    plan: Plan,
    path: FilePath,
    *,
    reference: Pack | None = None,
    progress: Progress = silent,
    signer: Signer | None = None,
    keep_parts: bool = False,
) -> None:
    """Asks the side for all that the plan wants and writes the pack.

    Args:
        side: who is asked.
        suite: the prompts.
        plan: the same for every side that will be compared.
        path: where the pack goes; what is done is kept beside it, in `<name>.parts`, until it is whole.
        reference: another side's pack: its token ids are used where this side shows none, and its inner values are fed
            to this side.
        progress: told after each prompt.
        signer: signs the pack, if given.
        keep_parts: leave to the caller to forget what is kept beside the pack.

    Raises:
        ParityError: the side cannot be asked at all.
    """
    progress(outlook(side, suite, plan), 0, len(suite.items))
    identity = side.identity()
    parts = Parts(path, [identity, plan], reference)
    _ask_all(_Asker(side, plan, reference, progress, suite, parts), suite, parts)
    with PackWriter(path, made_by=MADE_BY, identity=identity, plan=plan, signer=signer) as writer:
        _inside(side, suite, plan, writer, reference)
        exact = _ask_in_float32(side, suite, plan, path, reference, progress)
        for item in suite.items:
            record = parts.read_one(item.id)
            writer.add(replace(record, in_float32=exact.read_one(item.id).paths) if exact is not None else record)
        writer.unreached.update(side.unreached())
    if not keep_parts:
        forget(path)


def _ask_all(asker: _Asker, suite: Suite, parts: Parts) -> None:
    """All prompts, except those whose answers are kept already."""
    items = iter(suite.items)
    while group := list(islice(items, _GROUP)):
        if not parts.has(group):
            parts.write(asker.ask(group))
        asker.done += len(group)


def _ask_in_float32(
    side: Side, suite: Suite, plan: Plan, path: FilePath, reference: Pack | None, progress: Progress
) -> Parts | None:
    """The paths once more with everything in float32, where the side serves in less and level 3 is wanted."""
    if 3 not in plan.levels or not side.to_float32():
        return None
    only = replace(plan, levels=(3,), num_samples=0)
    parts = Parts(path, [side.identity(), only], reference)

    def named(what: str, done: int, total: int) -> None:
        progress(f"{what} in float32", done, total)

    _ask_all(_Asker(side, only, reference, named, suite, parts), suite, parts)
    return parts


class _Asker:
    """Asks for a group of prompts and tells how long the rest will take."""

    def __init__(self, side: Side, plan: Plan, reference: Pack | None, progress: Progress, suite: Suite, parts: Parts) -> None:
        self._side, self._plan, self._reference, self._parts = side, plan, reference, parts
        self._progress, self._total = progress, len(suite.items)
        self._sizes = [_size(item, side) for item in suite.items]
        self.done = 0

    def ask(self, group: Sequence[Item]) -> list[Record]:
        """The records of a group."""
        records = self._mixed(group, self._along(group, self._begun(group)))
        if {4, 5, 6} & set(self._plan.levels):
            self._progress("answers", self.done + len(group), self._total)
            before = time.monotonic()
            answers = self._side.generate(group, self._plan)
            share = (time.monotonic() - before) / max(1, sum(answer is not None for answer in answers))
            records = [
                record if answer is None else replace(record, answer=answer, seconds={**record.seconds, "answer": share})
                for record, answer in zip(records, answers, strict=True)
            ]
        return records

    def _begun(self, group: Sequence[Item]) -> list[Record]:
        """The prompts' tokens, and samples where they are wanted; what an earlier run knew of a prompt is taken as it is."""
        records = {item.id: record for item in group if (record := self._parts.begun(item.id)) is not None}
        new = [item for item in group if item.id not in records]
        chats = [item for item in new if item.kind == "chat"] if self._plan.num_samples else []
        samples = {item.id: drawn for item, drawn in zip(chats, self._side.sample(chats, self._plan), strict=True)}
        for item, own in zip(new, self._side.tokens(new), strict=True):
            count = own.count if own.ids is None else len(own.ids)
            records[item.id] = Record(item.id, own.ids, count, {}, None, samples.get(item.id))
        return [records[item.id] for item in group]

    def _along(self, group: Sequence[Item], records: Sequence[Record]) -> list[Record]:
        """With the distributions along those prompts that are scored."""
        found, known = list(records), self._known(group, records)
        wanted = [place for place, item in enumerate(group) if item.scored and known[place] is not None]
        wanted = [place for place in wanted if not records[place].paths]
        tokens = [ids for ids in (known[place] for place in wanted) if ids is not None]
        sizes = self._costs(group, wanted)
        read, left = 0, sum(sizes[place] for place in wanted) + sum(self._sizes[self.done + len(group) :])
        captured = self._side.capture([group[place] for place in wanted], tokens, self._plan)
        started = before = time.monotonic()
        for count, (index, paths) in enumerate(captured, start=1):
            place, now = wanted[index], time.monotonic()
            found[place] = replace(found[place], paths=paths, seconds={"distributions": now - before})
            if paths and not ("mixed" in self._side.paths and group[place].paths):
                # A batch with others begins with what the side still holds of its prompts: these are read again.
                self._parts.begin(found[place])
            before, read, left = now, read + sizes[place], left - sizes[place]
            rest = f", about {(now - started) / max(1, read) * left:.0f} s more" if left > 0 else ""
            self._progress(f"distributions{rest}", self.done + len(group) - len(wanted) + count, self._total)
        return found

    def _costs(self, group: Sequence[Item], wanted: Sequence[int]) -> list[int]:
        """Sizes by place in the group. Prompts on every path are decoded side by side, so that the first one that is done has
        taken the time of all."""
        sizes = self._sizes[self.done : self.done + len(group)]
        together = [place for place in wanted if group[place].paths] if len(self._side.paths) > 1 else []
        for place in together[1:]:
            sizes[together[0]] += sizes[place]
            sizes[place] = 0
        return sizes

    def _mixed(self, group: Sequence[Item], records: Sequence[Record]) -> list[Record]:
        if not _FORCED & set(self._plan.levels):
            return list(records)
        found = self._side.mixed(group, self._known(group, records), self._plan)
        return [
            record if mixed is None else replace(record, paths={**record.paths, "mixed": mixed})
            for record, mixed in zip(records, found, strict=True)
        ]

    def _known(self, group: Sequence[Item], records: Sequence[Record]) -> list[Int32s | None]:
        """The ids to score, where a level looks at them: the side's own, or else the reference's."""
        if not _FORCED & set(self._plan.levels):
            return [None] * len(group)
        return [
            self._reference.record(item.id).tokens
            if record.tokens is None and self._reference is not None and item.id in self._reference
            else record.tokens
            for item, record in zip(group, records, strict=True)
        ]


def _size(item: Item, side: Side) -> int:
    """What an item costs, roughly, in bytes read: a forward pass, and for some four more and tokens one by one."""
    return (_text_size(item) + 400 * len(item.tools) + 60) * (len(side.paths) if item.paths else 1) * item.scored


def _text_size(item: Item) -> int:
    return len(item.text.encode()) + sum(len(message.content.encode()) for message in item.messages)


def outlook(side: Side, suite: Suite, plan: Plan) -> str:
    """What a capture will do, said before it begins."""
    answers = [item.answer_tokens for item in suite.items if item.answer_tokens]
    text = f"{len(suite.items)} prompts of about {sum(map(_text_size, suite.items)):,} bytes"
    if len(side.paths) > 1:
        text += f", {sum(item.paths for item in suite.items)} of them on every path"
    if answers and {4, 5, 6} & set(plan.levels):
        text += f"; {len(answers)} answers of up to {max(answers)} tokens"
    return text


def _inside(side: Side, suite: Suite, plan: Plan, writer: PackWriter, reference: Pack | None) -> None:
    """The exact probes and the inside of the model."""
    if 2 in plan.levels:
        exact = side.exact(plan)
        if exact is not None:
            writer.add_exact(exact)
    if 7 not in plan.levels or not plan.layers:
        return
    known = reference.layers() if reference is not None else None
    tokens = known.tokens if known is not None else _layer_tokens(side, suite)
    layers = _layers(side, tokens, shorten=known is None) if tokens is not None else None
    if layers is not None:
        writer.add_layers(layers)
    if layers is not None and known is not None and reference is not None:
        isolated = side.isolated(known, reference.layers_hash() or "")
        if isolated is not None:
            writer.add_isolated(isolated)


def _layers(side: Side, tokens: Int32s, *, shorten: bool) -> Layers | None:
    """The inside on these tokens, or on as many of them as a pack has room for."""
    layers = side.layers(tokens)
    if layers is None or not shorten or distinct_bytes(layers) <= _LAYER_BYTES:
        return layers
    return side.layers(tokens[: max(2, len(tokens) * _LAYER_BYTES // distinct_bytes(layers))])


def _layer_tokens(side: Side, suite: Suite) -> Int32s | None:
    """The first tokens of the first prompt."""
    (tokens,) = side.tokens(suite.items[:1])
    return None if tokens.ids is None else tokens.ids[:_LAYER_TOKENS]


def plan_for(suite: Suite, gates_hash: str, **options: object) -> Plan:
    """The plan for a suite."""
    return msgspec.convert({"suite": suite.name, "suite_hash": suite.hash, "gates_hash": gates_hash, **options}, Plan)
