"""What a run refuses before it computes anything, and whose weights it packs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.core.chat import Message
from parity.core.errors import ParityError
from parity.verify import command, run
from parity.verify.capture import plan_for
from parity.verify.run import verify
from parity.verify.settings import Settings
from parity.verify.sides.local import LocalSide
from parity.verify.suites import Item, load

from .suite import write_suite
from .tiny import TEMPLATE, write_checkpoint


@pytest.mark.parametrize(("a", "b"), [("cpu:reference", "bogus"), ("bogus", "cpu:reference")])
def test_a_wrong_name_costs_no_capture(a: str, b: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "open_side", lambda *_: pytest.fail("a side was opened"))
    with pytest.raises(ParityError, match="no stack is called 'bogus'"):
        run.verify(a, b, Settings(out=tmp_path))


def test_a_wrong_oracle_costs_no_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "open_side", lambda *_: pytest.fail("a side was opened"))
    for oracle, says in (("bogus", "no stack is called 'bogus'"), (str(tmp_path / "no.pack"), "cannot read the pack")):
        with pytest.raises(ParityError, match=says):
            run.verify("cpu:reference", "cpu:reference", Settings(out=tmp_path, oracle=oracle))


@pytest.mark.parametrize("quantize", [("q8", "q8"), (None, "q8")])
def test_only_a_local_stack_packs_weights(
    quantize: tuple[str | None, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "open_side", lambda *_: pytest.fail("a side was opened"))
    a = "http://127.0.0.1:9" if quantize[0] else "cpu"
    with pytest.raises(ParityError, match="--quantize packs the weights that a local stack loads"):
        run.verify(a, "http://127.0.0.1:9", Settings(out=tmp_path, quantize=quantize))
    with pytest.raises(ParityError, match="--quantize packs"):
        command.main(["capture", "http://127.0.0.1:9", "-o", str(tmp_path / "a.pack"), "--quantize", "q4"])


def test_sides_pack_their_weights_as_they_are_told(tmp_path: Path) -> None:
    folder, suite = write_checkpoint(tmp_path / "model"), write_suite(tmp_path / "tiny.jsonl")
    options = {"num_pages": 128, "page_size": 16, "max_num_seqs": 8}

    def settings(name: str, *quantize: str | None) -> Settings:
        one, two = quantize
        out = tmp_path / name
        return Settings(model=str(folder), suite=str(suite), levels=(0, 1, 3), out=out, quantize=(one, two), options=options)

    same = verify("cpu:reference", "cpu", settings("both", "q8", "q8"))
    assert same.evidence.b.identity.dtype == "packed"
    assert same.verdict.word == "EQUIVALENT"
    other = verify("cpu:reference", "cpu", settings("one", None, "q8"))
    assert (other.verdict.word, other.levels) == ("DIFFERENT", (0,))
    assert "weights differ in 23 tensors" in " ".join(event for finding in other.findings for event in finding.events)
    assert command._quantize("q8", None) == ("q8", "q8")
    assert command._quantize("q8", "none") == ("q8", None)
    assert command._quantize(None, "q4") == (None, "q4")


def test_what_cannot_be_rendered_is_not_sampled(tmp_path: Path) -> None:
    """One conversation that the template refuses does not end the whole capture."""
    folder, suite = write_checkpoint(tmp_path / "model"), load(str(write_suite(tmp_path / "tiny.jsonl")))
    chats = [item for item in suite.items if item.kind == "chat"]
    assert chats
    side = LocalSide("cpu:reference", str(folder), num_pages=64, chat_template="{{ raise_exception('not this one') }}")
    try:
        assert side.sample(chats, plan_for(suite, "", num_samples=2)) == [None] * len(chats)
        assert set(side.unreached()) == {f"prompt {item.id}" for item in chats}
    finally:
        side.close()


@pytest.mark.parametrize("thinks", [False, True])
def test_a_switch_that_a_model_has_not_is_not_told_of(thinks: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_checkpoint(tmp_path / "model")
    if not thinks:
        file = folder / "tokenizer_config.json"
        plain = TEMPLATE.replace(TEMPLATE[TEMPLATE.index("{% if enable_thinking") :], "{% endif %}")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": plain}))
    side = LocalSide("cpu:reference", str(folder), num_pages=64, page_size=16)
    turns = (Message("user", "x"),)
    on, off, unsaid = side.tokens([Item(str(state), "chat", messages=turns, thinking=state) for state in (True, False, None)])
    side.close()
    assert (list(on.ids) == list(unsaid.ids), list(off.ids) == list(unsaid.ids)) == (True, not thinks)
    assert not [record for record in caplog.records if "thinking" in record.message]
