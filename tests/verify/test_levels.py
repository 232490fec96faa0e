"""Gates, verdicts and levels on packs whose differences are known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.core.chat import Message, Tool
from parity.core.errors import FormatError, UsageError
from parity.verify.comparison import compare_records
from parity.verify.gates import Finding, Measurement, decide, load_rules
from parity.verify.levels.tool_schema import fault
from parity.verify.outcome import Outcome, compare_packs
from parity.verify.packs import Pack, PackWriter
from parity.verify.record import Answer, Identity, Int32s, Plan, Positions, Record
from parity.verify.statistics.bounds import bootstrap_mean
from parity.verify.statistics.divergence import Top
from parity.verify.suites import Item, Suite
from parity.verify.verdict import EXIT_CODES, judge

RULES = load_rules()
PLAN = Plan("t", "0" * 64, RULES.hash)
LEVELS = (0, 1, 2, 3, 4, 5, 6)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
SUITE = Suite(
    "t",
    "none",
    tuple(Item(f"p{i}", "chat", messages=(Message("user", "x"),), tools=(Tool("f", "", SCHEMA),)) for i in range(20)),
    "0" * 64,
)


def heads(logits: np.ndarray, k: int = 16) -> Top:
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    ids = np.argsort(-logprobs, axis=1, kind="stable")[:, :k]
    head = np.take_along_axis(logprobs, ids, axis=1)
    tail = np.log(np.maximum(1 - np.exp(head).sum(axis=1), 1e-30))
    return Top(ids.astype(np.int32), head.astype(np.float32), tail.astype(np.float32))


def records(noise: float = 0.0, change: Callable[[Record], Record] = lambda record: record) -> list[Record]:
    """Twenty prompts; with `noise`, the logits of another computation of the same."""
    made = []
    for index in range(20):
        rng = np.random.Generator(np.random.Philox(key=index))
        logits = rng.normal(0, 3, (12, 60))
        logits = logits + noise * np.random.Generator(np.random.Philox(key=1000 + index)).normal(size=logits.shape)
        at: Int32s = np.arange(12, dtype=np.int32)
        top = heads(logits)
        tokens = tuple(int(token) for token in top.ids[:8, 0])
        answer = Answer("ok", "stop", tokens, top[:8], 8, (("f", '{"a": 1}'),))
        paths: dict[Any, Positions] = {"one_shot": Positions(at, top), "stepwise": Positions(at, heads(logits + 1e-6))}
        made.append(change(Record(f"p{index}", at, 12, paths, answer)))
    return made


def pack(path: Path, made: list[Record], dtype: str | None = "float32", plan: Plan = PLAN, **identity: Any) -> Pack:
    who = Identity(path.stem, "local", "m", "qwen2", "cpu", dtype, **identity)
    with PackWriter(path, made_by="test", identity=who, plan=plan) as writer:
        for record in made:
            writer.add(record)
    return Pack(path)


def outcome(tmp_path: Path, a: Pack, b: Pack, oracle: Pack | None = None, keep_going: bool = True) -> Outcome:
    return compare_packs(a, b, suite=SUITE, rules=RULES, levels=LEVELS, oracle=oracle, keep_going=keep_going)


def found(result: Outcome) -> dict[str, Finding]:
    return {finding.gate: finding for finding in result.findings}


def test_the_same_bits_are_identical(tmp_path: Path) -> None:
    a, b = pack(tmp_path / "a.pack", records()), pack(tmp_path / "b.pack", records())
    assert outcome(tmp_path, a, b).verdict.word == "IDENTICAL"


def test_rounding_noise_is_equivalent(tmp_path: Path) -> None:
    a, b = pack(tmp_path / "a.pack", records()), pack(tmp_path / "b.pack", records(1e-6))
    result = outcome(tmp_path, a, b)
    assert result.verdict.word == "EQUIVALENT"
    assert found(result)["float32_kl"].tight


def test_other_precision_is_within_precision(tmp_path: Path) -> None:
    a, b = pack(tmp_path / "a.pack", records()), pack(tmp_path / "b.pack", records(0.02), "bfloat16")
    result = outcome(tmp_path, a, b)
    assert found(result)["float32_kl"].outcome == "uncovered"
    assert found(result)["flips"].outcome == "precision"
    assert result.verdict.word == "WITHIN PRECISION"
    assert result.verdict.exit_code == 0


def test_packed_weights_are_judged_at_level_4(tmp_path: Path) -> None:
    a, b = pack(tmp_path / "a.pack", records()), pack(tmp_path / "b.pack", records(0.02), "packed")
    result = outcome(tmp_path, a, b)
    assert "packed" in found(result)["float32_kl"].text
    assert result.verdict.word == "WITHIN PRECISION"


def in_float32(exact: list[Record], served: list[Record]) -> list[Record]:
    """What a side shows that serves `served` and computes `exact` in float32."""
    return [dataclasses.replace(s, in_float32=e.paths) for s, e in zip(served, exact, strict=True)]


def test_a_rounding_side_is_equivalent_to_what_it_rounds(tmp_path: Path) -> None:
    """Level 3 on what both compute in float32, level 4 on what they serve; A's rounding, measured on A, explains changes."""
    a = pack(tmp_path / "a.pack", in_float32(records(), records(0.02)), "packed")
    b = pack(tmp_path / "b.pack", records(1e-6))
    result = outcome(tmp_path, a, b)
    assert found(result)["float32_kl"].tight
    assert found(result)["flips"].outcome == "pass"
    assert "explained by A's own rounding" in found(result)["flips"].text
    assert found(result)["ratio"].estimate == pytest.approx(0, abs=1e-6), "A in float32 is the oracle"
    assert result.verdict.word == "EQUIVALENT"


def test_a_rounding_side_is_within_precision_of_what_does_not_round(tmp_path: Path) -> None:
    """In the other direction the rounding is B's, and a side in question is no witness for itself."""
    a = pack(tmp_path / "a.pack", records())
    b = pack(tmp_path / "b.pack", in_float32(records(1e-6), records(0.02)), "packed")
    result = outcome(tmp_path, a, b)
    assert found(result)["float32_kl"].outcome == "pass"
    assert found(result)["flips"].outcome == "precision"
    assert result.verdict.word == "WITHIN PRECISION"


def test_rounding_excuses_nothing_where_float32_differs(tmp_path: Path) -> None:
    """A wrong computation cannot pass for a coarse one: level 3 fails, and the presumed band is all that is left."""
    a = pack(tmp_path / "a.pack", in_float32(records(), records(0.02)), "packed")
    b = pack(tmp_path / "b.pack", in_float32(records(0.01), records(0.02)), "packed")
    result = outcome(tmp_path, a, b)
    assert found(result)["float32_kl"].outcome == "fail"
    assert result.evidence.rounding_band == 0
    assert "level 3" in result.verdict.cause


def test_a_coarser_side_than_the_one_that_rounds_is_seen(tmp_path: Path) -> None:
    """Same in float32, but B serves four times as coarse: the triangle, with A in float32 for its oracle, says so."""
    a = pack(tmp_path / "a.pack", in_float32(records(), records(0.01)), "packed")
    b = pack(tmp_path / "b.pack", in_float32(records(1e-6), records(0.04)), "packed")
    result = outcome(tmp_path, a, b)
    assert found(result)["float32_kl"].outcome == "pass"
    assert found(result)["ratio"].outcome == "fail"


def test_the_same_noise_in_float32_is_a_difference(tmp_path: Path) -> None:
    a, b = pack(tmp_path / "a.pack", records()), pack(tmp_path / "b.pack", records(0.02))
    result = outcome(tmp_path, a, b, keep_going=False)
    assert result.verdict.word == "DIFFERENT"
    assert result.verdict.exit_code == 1
    assert result.levels == (0, 1, 2, 3), "stops at the first level that fails"


def test_the_triangle_sees_a_coarser_side_than_promised(tmp_path: Path) -> None:
    oracle = pack(tmp_path / "r.pack", records())
    a = pack(tmp_path / "a.pack", records(0.01), "bfloat16")
    assert found(outcome(tmp_path, a, pack(tmp_path / "b.pack", records(0.011), "bfloat16"), oracle))["ratio"].outcome == "pass"
    result = outcome(tmp_path, a, pack(tmp_path / "c.pack", records(0.04), "bfloat16"), oracle)
    assert found(result)["ratio"].outcome == "fail"
    assert found(result)["ratio"].estimate == pytest.approx(16, rel=0.3)


def test_other_weights_are_named(tmp_path: Path) -> None:
    a = pack(tmp_path / "a.pack", records(), weights="aa", tensors={"x": "1", "model.norm": "2"})
    b = pack(tmp_path / "b.pack", records(), weights="bb", tensors={"x": "1", "model.norm": "3"})
    assert "weights differ in 1 tensors, such as model.norm" in outcome(tmp_path, a, b).verdict.cause


def test_other_sampling_defaults_are_named(tmp_path: Path) -> None:
    a = pack(tmp_path / "a.pack", records(), sampling={"temperature": 0.7})
    b = pack(tmp_path / "b.pack", records(), sampling={"temperature": 0.7, "repetition_penalty": 1.05})
    assert "repetition_penalty is None and 1.05" in outcome(tmp_path, a, b).verdict.cause


def test_other_tokens_are_a_difference_and_not_compared_further(tmp_path: Path) -> None:
    b = pack(tmp_path / "b.pack", records(change=lambda r: dataclasses.replace(r, tokens=np.arange(1, 13, dtype=np.int32))))
    result = outcome(tmp_path, pack(tmp_path / "a.pack", records()), b)
    assert "level 1" in result.verdict.cause
    assert all(not r.kl for r in result.results)


def test_a_cache_of_another_precision_shows_on_its_path_alone(tmp_path: Path) -> None:
    def worse(record: Record) -> Record:
        rng = np.random.Generator(np.random.Philox(key=int(record.id[1:])))
        logits = rng.normal(0, 3, (12, 60))
        logits += 0.02 * rng.normal(size=logits.shape)
        stepwise = Positions(record.paths["stepwise"].at, heads(logits))
        return dataclasses.replace(record, paths={**record.paths, "stepwise": stepwise})

    result = outcome(tmp_path, pack(tmp_path / "a.pack", records()), pack(tmp_path / "b.pack", records(change=worse)))
    assert found(result)["float32_paths"].outcome == "fail"
    assert "stepwise" in found(result)["float32_worst"].text


def test_a_fork_without_a_near_tie_is_unexplained(tmp_path: Path) -> None:
    def other(record: Record) -> Record:
        assert record.answer is not None
        assert record.answer.top is not None
        second = int(record.answer.top.ids[4, 5])
        tokens = (*record.answer.tokens[:4], second, *record.answer.tokens[5:])  # type: ignore[index]
        return dataclasses.replace(record, answer=dataclasses.replace(record.answer, tokens=tokens))

    result = outcome(tmp_path, pack(tmp_path / "a.pack", records()), pack(tmp_path / "b.pack", records(change=other)))
    assert found(result)["forks"].outcome == "fail"
    assert "answer position 4" in found(result)["forks"].events[0]


def test_a_side_may_keep_the_token_that_ends_an_answer_to_itself(tmp_path: Path) -> None:
    def unshown(finish: str) -> Any:
        def change(record: Record) -> Record:
            assert record.answer is not None
            assert record.answer.tokens is not None
            assert record.answer.top is not None
            tokens, top = record.answer.tokens[:-1], record.answer.top[: len(record.answer.tokens) - 1]
            return dataclasses.replace(record, answer=dataclasses.replace(record.answer, tokens=tokens, top=top, finish=finish))

        return change

    def ended(record: Record) -> Record:
        assert record.answer is not None
        return dataclasses.replace(record, answer=dataclasses.replace(record.answer, finish="stop"))

    whole = pack(tmp_path / "a.pack", records(change=ended))
    result = outcome(tmp_path, whole, pack(tmp_path / "b.pack", records(change=unshown("stop"))))
    assert found(result)["forks"].outcome in ("pass", "identical")
    result = outcome(tmp_path, whole, pack(tmp_path / "b.pack", records(change=unshown("length"))))
    assert found(result)["forks"].outcome == "fail"


def test_broken_tool_calls_are_counted(tmp_path: Path) -> None:
    def broken(record: Record) -> Record:
        assert record.answer is not None
        return dataclasses.replace(record, answer=dataclasses.replace(record.answer, tool_calls=(("f", '{"b": 1}'),)))

    result = outcome(tmp_path, pack(tmp_path / "a.pack", records()), pack(tmp_path / "b.pack", records(change=broken)))
    assert found(result)["schemas"].outcome == "fail"
    assert "lack 'a'" in found(result)["schemas"].events[0]


def test_endless_repetition_is_seen(tmp_path: Path) -> None:
    def stuck(record: Record) -> Record:
        assert record.answer is not None
        return dataclasses.replace(record, answer=dataclasses.replace(record.answer, text="and then " * 30))

    result = outcome(tmp_path, pack(tmp_path / "a.pack", records()), pack(tmp_path / "b.pack", records(change=stuck)))
    assert found(result)["degenerate"].outcome == "fail"


def test_packs_that_were_not_made_for_each_other(tmp_path: Path) -> None:
    a = pack(tmp_path / "a.pack", records())
    for changed in ({"suite_hash": "1" * 64}, {"seed": 5}):
        b = pack(tmp_path / "b.pack", records(), plan=dataclasses.replace(PLAN, **changed))
        with pytest.raises(UsageError, match="capture one again"):
            outcome(tmp_path, a, b)


def test_too_few_prompts_are_not_evidence(tmp_path: Path) -> None:
    a, b = pack(tmp_path / "a.pack", records()[:2]), pack(tmp_path / "b.pack", records(1e-6)[:2])
    result = outcome(tmp_path, a, b)
    assert found(result)["kl"].outcome == "uncovered"
    assert "needs 8 prompts" in found(result)["kl"].text


def test_a_wide_spread_is_inconclusive_and_says_what_would_decide() -> None:
    values = np.array([0.0] * 9 + [0.095])
    (finding,) = decide([Measurement("kl", 10, statistic=bootstrap_mean(values, seed=1))], RULES)
    assert finding.outcome == "inconclusive"
    assert finding.needed is not None
    assert finding.needed > 10
    verdict = judge([finding])
    assert (verdict.word, verdict.exit_code) == ("INCONCLUSIVE", 3)
    assert verdict.needs.startswith(f"about {finding.needed:,} prompts, since what was found lies at its limit; sooner by")
    assert judge([dataclasses.replace(finding, needed=60)]).needs == "about 60 prompts"


def test_nothing_covered_is_inconclusive() -> None:
    assert judge([]).word == "INCONCLUSIVE"
    assert judge(decide([Measurement("identity", 5, identical=True)], RULES)).word == "INCONCLUSIVE"


def test_exit_codes() -> None:
    assert EXIT_CODES == {"IDENTICAL": 0, "EQUIVALENT": 0, "WITHIN PRECISION": 0, "DIFFERENT": 1, "INCONCLUSIVE": 3}


def test_gates_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "gates.json"
    with pytest.raises(FormatError, match="cannot read the gates"):
        load_rules(path)
    path.write_text(json.dumps({"family_error": 0.01}))
    with pytest.raises(FormatError, match="cannot read the gates"):
        load_rules(path)


def test_gates_are_the_levels_in_order() -> None:
    assert [gate.level for gate in RULES.gates] == sorted(gate.level for gate in RULES.gates)
    assert {gate.level for gate in RULES.gates} == set(range(8))


def test_oracle_of_other_tokens_is_left_out() -> None:
    one = records()[0]
    other = dataclasses.replace(one, tokens=np.arange(1, 13, dtype=np.int32))
    assert compare_records(one, one, other).oracle is None
    assert compare_records(one, one, one).oracle == (0.0, 0.0)


def test_what_follows_a_prompt_of_another_length_is_not_compared() -> None:
    """Where a side shows numbers of tokens only, these decide whether it is the same prompt."""
    (one, *_), (two, *_) = records(), records(noise=2.0)
    longer = compare_records(one, dataclasses.replace(two, tokens=None, num_tokens=13))
    assert (longer.tokens_equal, longer.counts) == (None, (12, 13))
    assert not longer.kl
    assert not longer.flips
    assert longer.fork is None
    equal = compare_records(one, dataclasses.replace(two, tokens=None))
    assert equal.kl
    assert equal.flips


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ('{"a": 1}', None),
        ('{"a": 1.0}', None),
        ('{"a": true}', "should be integer"),
        ("{}", "lack 'a'"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"a": 1, "b": {}}', None),
    ],
)
def test_schemas(arguments: str, word: str | None) -> None:
    wrong = fault(arguments, SCHEMA)
    assert (wrong is None) if word is None else (wrong is not None and word in wrong)


def test_nested_schemas() -> None:
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"xs": {"type": "array", "items": {"enum": ["a", "b"]}}, "n": {"type": ["string", "null"]}},
    }
    assert fault('{"xs": ["a", "c"]}', schema) == "the arguments.xs[1] should be one of ['a', 'b']"
    assert fault('{"n": null}', schema) is None
    assert fault('{"m": 1}', schema) == "the arguments have the unknown 'm'"
