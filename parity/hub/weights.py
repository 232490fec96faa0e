"""Which checkpoint tensor fills which parameter: every parameter exactly once, every tensor used or deliberately ignored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from parity.core.errors import WeightError
from parity.core.weights import Ignore, Packed, Rename, Rule

from .checkpoint import Checkpoint

_SHOWN = 10
_NO_BIAS = "biases that GPTQ's tools write for matrices without one: zeros"
_CODES = ("float8_e4m3fn", "float8_e5m2", "int8", "uint8")
"""Formats of tensors that are numbers only with scales; together with those they have a packed format's name."""
_GROUP = re.compile(r"\((?!\?)[^()]*\)")
_REFERENCE = re.compile(r"\\(\d+)|\\g<(\w+)>")


@dataclass(frozen=True)
class Plan:
    """The outcome: `sources` parameter to checkpoint tensor; `ignored` the reason to the tensors left out for it.

    `zero` and `repeated` are among the ignored: they may be left out because all their numbers are zero, or those of another
    tensor (name to name), which reading them must show.
    """

    sources: Mapping[str, str]
    ignored: Mapping[str, tuple[str, ...]]
    zero: tuple[str, ...] = ()
    repeated: Mapping[str, str] = field(default_factory=dict)

    def check(self, checkpoint: Checkpoint) -> None:
        """Reads what is left out for its numbers.

        Raises:
            WeightError: it has others.
        """
        for name in self.zero:
            values = checkpoint.read(name)
            if not isinstance(values, torch.Tensor) or values.any():
                raise WeightError(f"{name} in {checkpoint.path} is not zero and has no place in the model")
        for name, other in self.repeated.items():
            same = _same(checkpoint.read(name), checkpoint.read(other))
            checkpoint.release(name)
            if not same:
                raise WeightError(
                    f"{name} in {checkpoint.path} is not {other}, though the config ties them (tie_word_embeddings): set that "
                    "to false in config.json if the model has a head of its own, or take the tensor out"
                )


def _same(one: torch.Tensor | Packed, other: torch.Tensor | Packed) -> bool:
    """Whether two weights are the same bytes."""
    if isinstance(one, Packed) and isinstance(other, Packed):
        return one.format == other.format and all(_same(array, other.arrays[role]) for role, array in one.arrays.items())
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return False


def to_model(name: str, rules: Iterable[Rule]) -> str:
    """Our name of a checkpoint tensor: the renames in order, each to the whole name that results from those before."""
    for rule in rules:
        if isinstance(rule, Rename):
            name = re.sub(rule.pattern, rule.replacement, name)
    return name


def all_to_model(names: Iterable[str], rules: Iterable[Rule]) -> dict[str, str]:
    """`to_model` of many names, each rule once over all of them: Kimi K3 has half a million."""
    given = list(names)
    if any("\n" in name for name in given):  # in no released checkpoint, and no reason to fail
        return {name: to_model(name, rules) for name in given}
    text = "\n".join(given)
    for rule in rules:
        if isinstance(rule, Rename):
            text = re.sub(rule.pattern, rule.replacement, text, flags=re.MULTILINE)
    return dict(zip(given, text.split("\n"), strict=True)) if given else {}


def to_checkpoint(name: str, rules: Sequence[Rule]) -> str:
    """The inverse of `to_model`: the checkpoint's name of a parameter."""
    for rule in reversed(rules):
        if isinstance(rule, Rename) and rule.back:
            back = inverse(rule)
            name = re.sub(back.pattern, back.replacement, name)
    return name


def inverse(rule: Rename) -> Rename:
    r"""The rename back. `layers\.(\d+)\.attn` to `model.layers.\1.self_attn` gives the two exchanged.

    Raises:
        ValueError: pattern and replacement do not use the same groups in order.
    """
    groups = _GROUP.findall(rule.pattern)
    used = _REFERENCE.findall(rule.replacement)
    if [int(number or 0) for number, _ in used] != list(range(1, len(groups) + 1)):
        raise ValueError(f"{rule.pattern!r} and {rule.replacement!r} do not use the same groups in order")
    texts = _REFERENCE.split(rule.replacement)[::3]
    start = "^" if rule.pattern.startswith("^") else ""
    end = "$" if rule.pattern.endswith("$") else ""
    pattern = "".join(re.escape(text) + group for text, group in zip(texts, [*groups, ""], strict=True))
    literal = rule.pattern.removeprefix("^").removesuffix("$")
    for number in range(1, len(groups) + 1):
        literal = _GROUP.sub(f"\x00{number}\x00", literal, count=1)
    literal = re.sub(r"\\(.)", r"\1", literal)
    replacement = re.sub("\x00(\\d+)\x00", r"\\g<\1>", literal.replace("\\", r"\\"))
    return Rename(start + pattern + end, replacement)


def account(
    expected: Mapping[str, tuple[int, ...]],
    checkpoint: Checkpoint,
    rules: Sequence[Rule] = (),
    targets: Mapping[str, str] | None = None,
) -> Plan:
    """Decides where every tensor goes, from names and shapes alone.

    Args:
        expected: every parameter's name and logical shape.
        rules: renames, and what is ignored (patterns match the beginning of the checkpoint's own name).
        targets: `all_to_model` of the checkpoint's names, where it is known already.

    Raises:
        WeightError: naming up to ten parameters that nothing or too much fills, tensors left over, and shapes that differ.
    """
    sources: dict[str, str] = {}
    ignored: dict[str, list[str]] = {}
    repeated: dict[str, str] = {}
    wrong: list[str] = []
    targets = all_to_model(checkpoint.tensors, rules) if targets is None else targets
    for name, info in checkpoint.tensors.items():
        target = targets[name]
        if target in expected:
            if target in sources:
                wrong.append(f"{target} is filled by both {sources[target]} and {name}")
            elif info.shape != tuple(expected[target]):
                wrong.append(f"{name} has shape {list(info.shape)}, the model wants {list(expected[target])}")
            elif info.format in _CODES:
                wrong.append(f"{name} is {info.format}, and the scales that say what it means are missing")
            sources.setdefault(target, name)
        elif (rule := _ignored(name, rules)) is not None:
            ignored.setdefault(rule.why, []).append(name)
            if rule.repeats is not None:
                repeated[name] = rule.repeats
        elif _of_gptq(name, checkpoint):
            ignored.setdefault(_NO_BIAS, []).append(name)
        else:
            wrong.append(f"{name} is in the checkpoint and has no place in the model")
    wrong += [f"{name} is missing" for name in expected if name not in sources]
    if wrong:
        more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        listed = "".join(f"\n  {line}" for line in wrong[:_SHOWN])
        raise WeightError(f"the weights in {checkpoint.path} do not fit the model ({len(wrong)} problems):{listed}{more}")
    repeated = {name: sources[other] for name, other in repeated.items()}
    return Plan(sources, {why: tuple(names) for why, names in ignored.items()}, tuple(ignored.get(_NO_BIAS, ())), repeated)


def _of_gptq(name: str, checkpoint: Checkpoint) -> bool:
    """Whether it is the bias of a GPTQ matrix: AutoGPTQ gives one to every matrix that it packs."""
    matrix = checkpoint.tensors.get(name.removesuffix("bias") + "weight")
    return name.endswith(".bias") and matrix is not None and matrix.format == "gptq"


def _ignored(name: str, rules: Iterable[Rule]) -> Ignore | None:
    return next((rule for rule in rules if isinstance(rule, Ignore) and re.match(rule.pattern, name)), None)
