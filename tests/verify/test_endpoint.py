"""Endpoints of several dialects give the same numbers; hostile ones cost little and crash nothing."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.core.chat import Message
from parity.core.errors import UsageError
from parity.verify import suites
from parity.verify.capture import capture, plan_for
from parity.verify.packs import Pack
from parity.verify.run import verify
from parity.verify.settings import Settings
from parity.verify.sides.echo import echoed
from parity.verify.sides.endpoint import EndpointSide
from parity.verify.sides.http import EndpointError, Http, Limits
from parity.verify.sides.replies import chat_answer, content_row, generated_row, named, prompt_logprobs, token_of

from . import fake_server as fake

PATIENCE = Limits(timeout_s=0.15, max_bytes=1 << 20, attempts=1)
CHAT = suites.Item("c", "chat", messages=(Message("user", "Hello there"),), answer_tokens=6)
TEXT = suites.Item("t", "text", text="The quick brown fox")


def small_suite(tmp_path: Path, chats: int = 9) -> str:
    path = tmp_path / "small.jsonl"
    lines: list[dict[str, Any]] = [{"id": f"t{i}", "text": f"Line number {i} of the text"} for i in range(4)]
    lines += [
        {"id": f"c{i}", "messages": [{"role": "user", "content": f"Question {i}?"}], "answer_tokens": 8} for i in range(chats)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return str(path)


def along(side: EndpointSide, tokens: Any, plan: Any) -> Any:
    """What the side shows along TEXT, by path."""
    ((_, paths),) = side.capture([TEXT], [tokens], plan)
    return paths


def plan_of(**options: Any) -> Any:
    return dataclasses.replace(plan_for(suites.load("quick"), "0" * 64), **options)


@pytest.mark.parametrize("dialect", ["vllm", "echo", "text prompts", "shifted", "prefixes", "llamacpp"])
def test_distributions_are_read_in_every_dialect(dialect: str) -> None:
    with fake.serve(dialect) as server:
        side = EndpointSide(server.url + "/v1", words=fake.Words())
        tokens = np.array(fake.encode(TEXT.text), np.int32)
        positions = along(side, tokens, plan_of())["one_shot"]
    for row, place in enumerate(positions.at):
        wanted = fake.logprobs(tokens[: place + 1].tolist())
        used = positions.top.ids[row] >= 0
        ids = positions.top.ids[row][used]
        # A shifted echo shows the prompt's own token beside the likely ones, and cannot say whether it is the last of them.
        assert len(ids) >= (4 if dialect == "shifted" else 5)
        np.testing.assert_allclose(positions.top.logprobs[row][used], wanted[ids], atol=1e-5)
        assert ids[0] == wanted.argmax()


def test_an_echo_that_stands_one_token_behind_is_said_to() -> None:
    tokens = np.array(fake.encode(TEXT.text), np.int32)
    with fake.serve("shifted") as server:
        side = EndpointSide(server.url, words=fake.Words())
        positions = along(side, tokens, plan_of())["one_shot"]
        assert "one token behind" in side.unreached()["distributions"]
    # The end of the prompt is shown, too, which an echo at its place does not reach; the token without a text has no name.
    likely = {place: np.argsort(-fake.logprobs(tokens[: place + 1].tolist()))[:5] for place in range(1, len(tokens))}
    told = {place for place in likely if 95 not in likely[place] and tokens[place] not in likely[place]}
    assert told <= set(positions.at.tolist()) <= {place for place in likely if 95 not in likely[place]}
    assert len(told) >= len(tokens) - 8


def test_an_echo_that_belongs_to_no_token_is_not_judged(tmp_path: Path) -> None:
    """Rows that agree in no reading with what the server itself generates: another way is taken, or none, and it is named."""
    tokens = np.array(fake.encode(TEXT.text), np.int32)
    with fake.serve("scrambled") as server:
        side = EndpointSide(server.url, words=fake.Words())
        positions = along(side, tokens, plan_of())["one_shot"]
        assert side.unreached()["distributions"] == "reached by one token a prefix only"
        for row, place in enumerate(positions.at):
            assert positions.top.ids[row][0] == fake.logprobs(tokens[: place + 1].tolist()).argmax()
    with fake.serve("scrambled", mood=_without_generated_logprobs) as server:
        side = EndpointSide(server.url, words=fake.Words())
        assert along(side, tokens, plan_of()) == {}
        assert "not judged" in side.unreached()["distributions"]


def test_bytes_that_are_no_character_name_no_token() -> None:
    class Whole(fake.Words):
        """A vocabulary in which the replacement character is a token, too."""

        def id_of(self, text: str) -> int | None:
            return 7 if text == "\ufffd" else super().id_of(text)

    assert token_of({"token": "\ufffd"}, Whole()) is None
    assert token_of({"token": "\ufffd", "id": 7}, Whole()) == 7
    assert named({"\ufffd": -0.1, "A": -4.0}, Whole()) == [], "the likeliest token has no name"
    assert named({"\ufffd": -4.0, "A": -0.1}, Whole()) == [(33, -0.1)]


def test_what_is_left_of_a_tokens_text_without_half_a_character_is_no_name() -> None:
    class Halves(fake.Words):
        """Token 96 is a space and the first byte of some character."""

        def all_bytes(self) -> list[bytes]:
            return [*super().all_bytes(), b" \xe2"]

    assert token_of({"token": " "}, fake.Words()) == 0
    assert token_of({"token": " "}, Halves()) is None
    assert token_of({"token": " ", "bytes": [32]}, Halves()) == 0
    assert token_of({"token": "A"}, Halves()) == 33
    assert named({" ": -0.1, "A": -4.0}, Halves()) == [], "the likeliest token may be either"


def test_rows_whose_likeliest_token_has_no_name_are_left_out() -> None:
    """llama-cpp-python's server spells every special token as an empty text: the next best must not pass for the best."""
    likely = {"A": -2.0, "B": -3.0}
    assert named({"": -0.1, **likely}, fake.Words()) == []
    assert named({"": -9.0, **likely}, fake.Words()) == [], "an empty text may be any of several, and far likelier than it says"
    assert named({"": -9.0, "A": -0.5, "B": -3.0}, fake.Words()) == [(33, -0.5), (34, -3.0)], "the rest is too little for that"
    listed = {"tokens": ["a"] * 4, "token_logprobs": [None, -5.0, -6.0, -7.0]}
    tops = [None, likely | {"C": -4.0}, {"": -0.1, **likely}, likely | {"C": -4.0}]
    short = [None, likely | {"a": -5.0}, {"A": -3.0, "a": -6.0}, likely]
    rows = echoed({**listed, "top_logprobs": short}, np.array([1, 2, 3, 4], np.int32), fake.Words())[1]
    assert [bool(row) for row in rows] == [True, False, True], "one token fewer is listed: two were spelled alike"
    rows = echoed({**listed, "top_logprobs": tops}, np.array([1, 2, 3, 4], np.int32), fake.Words())[1]
    assert [[token for token, _ in row] for row in rows] == [[33, 34, 35, 2], [], [33, 34, 35, 4]]
    rows = echoed({**listed, "top_logprobs": [None] * 4}, np.array([1, 2, 3, 4], np.int32), fake.Words())[1]
    assert [[token for token, _ in row] for row in rows] == [[2], [3], [4]]
    choice = {"logprobs": {"tokens": ["A"], "token_logprobs": [-2.0], "top_logprobs": [{"": -0.1, **likely}]}}
    assert generated_row(choice, fake.Words()) == []
    shown = [{"token": text, "logprob": value} for text, value in {"A": -2.0, "": -0.1}.items()]
    assert content_row({**shown[0], "top_logprobs": shown}, fake.Words()) == []


def _without_generated_logprobs(handler: fake.Handler, body: dict[str, Any]) -> bool:
    if "logprobs" in body and not body.get("echo"):
        handler.reply({"choices": [{"text": "x"}], "usage": {"prompt_tokens": len(body["prompt"])}})
        return True
    return False


def test_prompt_logprobs_of_another_position_are_refused() -> None:
    ids = np.array([3, 5, 7], np.int32)
    row = {"logprob": -1.0}
    assert prompt_logprobs([None, {"5": row}, {"7": row, "1": row}], ids)
    with pytest.raises(EndpointError, match="another position"):
        prompt_logprobs([None, {"7": row}, {"1": row}], ids)


@pytest.mark.parametrize(("dialect", "shown"), [("vllm", True), ("llamacpp", True), ("echo", False), ("texts", False)])
def test_token_ids_or_at_least_their_number(dialect: str, shown: bool) -> None:
    with fake.serve(dialect) as server:
        side = EndpointSide(server.url)
        for item in (TEXT, CHAT):
            (tokens,) = side.tokens([item])
            assert (tokens.ids is not None) is shown
            wanted = fake.encode(TEXT.text) if item is TEXT else fake.encode("<user>Hello there<assistant>")
            assert tokens.count == len(wanted)
            if tokens.ids is not None:
                assert tokens.ids.tolist() == wanted


@pytest.mark.parametrize("dialect", ["vllm", "echo"])
def test_answers_with_token_ids(dialect: str) -> None:
    with fake.serve(dialect) as server:
        (answer,) = EndpointSide(server.url, words=fake.Words()).generate([CHAT], plan_of())
    assert answer is not None
    assert answer.tokens is not None
    assert answer.text == "".join(fake.piece(token) for token in answer.tokens)
    assert answer.top is not None
    prefix = fake.encode("<user>Hello there<assistant>")
    np.testing.assert_allclose(answer.top.logprobs[0][0], fake.logprobs(prefix).max(), atol=1e-5)


def test_text_only_servers_are_asked_without_logprobs() -> None:
    with fake.serve("texts") as server:
        side = EndpointSide(server.url)
        (answer,) = side.generate([CHAT], plan_of())
        assert answer is not None
        assert answer.tokens is None
        assert answer.text
        assert along(side, np.arange(5, dtype=np.int32), plan_of()) == {}
        assert {"distributions", "answers' log-probabilities"} <= set(side.unreached())


def test_texts_are_cut_again_where_the_server_counted_as_many_tokens() -> None:
    """With the vocabulary at hand an answer's tokens can be judged by the other side's margins; never by guessing."""
    with fake.serve("echo") as shown, fake.serve("texts") as hidden:
        (wanted,) = EndpointSide(shown.url, words=fake.Words()).generate([CHAT], plan_of())
        (answer,) = EndpointSide(hidden.url, words=fake.Words()).generate([CHAT], plan_of())
    assert answer is not None
    assert wanted is not None
    assert answer.top is None
    assert answer.tokens == wanted.tokens
    reply = {"choices": [{"message": {"content": "ab"}, "finish_reason": "length"}], "usage": {"completion_tokens": 3}}
    assert chat_answer(reply, fake.Words()).tokens is None
    reply["choices"][0]["finish_reason"] = "stop"  # type: ignore[index]
    assert chat_answer(reply, fake.Words()).tokens == (65, 66, 95)
    del reply["usage"]
    assert chat_answer(reply, fake.Words()).tokens is None


def run(a: str, b: str, tmp_path: Path, **options: Any) -> Any:
    settings = Settings(suite=small_suite(tmp_path), out=tmp_path / "out", limits=Limits(timeout_s=5), **options)
    return verify(a, b, settings)


def test_the_same_server_twice_is_within_precision_or_better(tmp_path: Path) -> None:
    with fake.serve() as one, fake.serve() as two:
        outcome = run(one.url, two.url, tmp_path)
    assert outcome.verdict.word in ("IDENTICAL", "EQUIVALENT")
    assert outcome.verdict.exit_code == 0


def test_another_model_behind_the_same_name_is_different(tmp_path: Path) -> None:
    with fake.serve() as one, fake.serve(noise=0.5) as two:
        outcome = run(one.url, two.url, tmp_path)
    assert outcome.verdict.word == "DIFFERENT"
    assert outcome.verdict.exit_code == 1
    assert "level 4" in outcome.verdict.cause


def test_a_hidden_system_prompt_is_found_by_counts(tmp_path: Path) -> None:
    with fake.serve("texts") as one, fake.serve("texts", lie=17) as two:
        outcome = run(one.url, two.url, tmp_path)
    assert outcome.verdict.word == "DIFFERENT"
    assert "level 1" in outcome.verdict.cause


def test_texts_alone_are_never_called_equivalent(tmp_path: Path) -> None:
    with fake.serve("texts") as one, fake.serve("texts") as two:
        outcome = run(one.url, two.url, tmp_path)
    assert outcome.verdict.word == "INCONCLUSIVE"
    assert outcome.verdict.exit_code == 3


def test_a_pack_and_an_endpoint(tmp_path: Path) -> None:
    suite = suites.load(small_suite(tmp_path))
    plan = plan_for(suite, "0" * 64)
    with fake.serve() as server:
        capture(EndpointSide(server.url), suite, plan, tmp_path / "a.pack")
        outcome = run(str(tmp_path / "a.pack"), server.url, tmp_path)
    assert outcome.verdict.exit_code == 0


MOODS = {
    "silence": fake.silence,
    "drip": fake.drip,
    "headers without end": fake.drip_headers,
    "flood": fake.flood,
    "hang up": fake.hang_up,
    "not json": fake.always(b"<html>hello</html>"),
    "empty": fake.always(b""),
    "deep": fake.always(b"[" * 50_000),
    "a list": fake.always([]),
    "a number": fake.always(7),
    "null": fake.always(None),
    "no choices": fake.always({"choices": []}),
    "wrong types": fake.always({"choices": [{"message": {"content": 5}, "logprobs": {"content": 3}}], "tokens": "abc"}),
    "nan": fake.always(b'{"choices": [{"logprobs": {"token_logprobs": [NaN]}}]}'),
    "positive": fake.always({"choices": [{"prompt_logprobs": [None] + [{"1": {"logprob": 5.0}}] * 7}]}),
    "bools": fake.always({"tokens": [True, False], "choices": [{"prompt_logprobs": [None, {"1": {"logprob": True}}]}]}),
    "negative ids": fake.always({"tokens": [-5, 3]}),
    "huge ids": fake.always({"tokens": [2**63]}),
    "redirect": fake.always({}, 302, {"Location": "http://127.0.0.1:1/"}),
    "refusal": fake.always({"error": {"message": "no"}}, 401),
    "error that is a list": fake.always([1, 2], 400),
    "always busy": fake.always({}, 503, {"Retry-After": "0"}),
    "retry in a year": fake.always({}, 400, {"Retry-After": "31536000"}),
}


@pytest.mark.parametrize("name", MOODS)
def test_hostile_endpoints_cost_little_and_crash_nothing(name: str) -> None:
    plan = plan_of(num_samples=1, sample_tokens=4)
    with fake.serve(mood=MOODS[name]) as server:
        side = EndpointSide(server.url, limits=PATIENCE, words=fake.Words())
        tracemalloc.start()
        begin = time.perf_counter()
        (tokens,) = side.tokens([TEXT])
        assert tokens.ids is None
        assert along(side, np.arange(8, dtype=np.int32), plan) == {}
        (answer,) = side.generate([CHAT], plan)
        assert answer is not None
        assert answer.error
        assert answer.finish == "error"
        assert side.sample([CHAT], plan) == [None]
        assert time.perf_counter() - begin < 25
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
        tracemalloc.stop()


def test_a_web_page_is_called_one() -> None:
    with fake.serve(mood=fake.always(b"\n<!doctype html><p>Welcome")) as server, pytest.raises(EndpointError, match="web page"):
        Http(server.url, None, PATIENCE).post("/v1/completions", {})


def test_lying_lengths_are_refused() -> None:
    def short(handler: Any, body: dict[str, Any]) -> bool:
        if "prompt_logprobs" in body:
            handler.reply({"choices": [{"prompt_logprobs": [None, {"1": {"logprob": -1.0}}]}]})
            return True
        return False

    with fake.serve(mood=short) as server:
        side = EndpointSide(server.url, limits=PATIENCE)
        found = along(side, np.array(fake.encode(TEXT.text), np.int32), plan_of())
    assert len(found["one_shot"].at) == 12, "falls back to one token a prefix"


def test_busy_servers_are_tried_again_and_refusals_are_not() -> None:
    with fake.serve(mood=fake.busy(2)) as server:
        (answer,) = EndpointSide(server.url, limits=Limits(attempts=3)).generate([CHAT], plan_of())
        assert answer is not None
        assert answer.text
    with fake.serve(mood=fake.always({}, 401)) as server:
        with pytest.raises(EndpointError, match="401"):
            Http(server.url, None, Limits(attempts=5)).post("/v1/completions", {})
        assert len(server.seen) == 1


def test_requests_are_paced() -> None:
    with fake.serve() as server:
        http = Http(server.url, None, Limits(requests_per_s=50))
        begin = time.perf_counter()
        for _ in range(6):
            http.get("/v1/models")
        assert time.perf_counter() - begin >= 5 / 50


def test_keys_are_sent_and_appear_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setenv("A_KEY", "sk-secret-123")
    caplog.set_level(logging.DEBUG)
    echo_key = fake.always({"error": {"message": "bad key sk-secret-123"}}, 403)
    with fake.serve() as one, fake.serve(mood=echo_key) as two:
        settings = Settings(
            suite=small_suite(tmp_path), out=tmp_path / "out", key_variables=("A_KEY", "A_KEY"), limits=PATIENCE
        )
        outcome = verify(one.url, two.url, settings)
        assert one.seen[0][1]["Authorization"] == "Bearer sk-secret-123"
        assert any(answer and "***" in (answer.error or "") for r in outcome.results for answer in r.answers)
    assert "sk-secret" not in caplog.text
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"sk-secret" not in path.read_bytes()


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://user:pass@host/v1", "http://host:99999999/v1", "http://h?key=1"])
def test_bad_urls_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Http(url, None, Limits())
    assert "pass@" not in str(caught.value)


def test_no_key_in_the_environment(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NO_SUCH_KEY"):
        verify("http://127.0.0.1:9", "cpu", Settings(out=tmp_path, key_variables=("NO_SUCH_KEY", None)))


def test_a_stopped_capture_goes_on(tmp_path: Path) -> None:
    suite = suites.load(small_suite(tmp_path, chats=40))
    plan = plan_for(suite, "0" * 64)
    calls = []

    class Stop(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        calls.append(done)
        if done == 40:
            raise Stop

    path = tmp_path / "a.pack"
    with fake.serve() as server:
        with pytest.raises(Stop):
            capture(EndpointSide(server.url), suite, plan, path, progress=stop)
        assert not path.exists()
        before = len(server.seen)
        capture(EndpointSide(server.url), suite, plan, path, progress=lambda *_: None)
        second = len(server.seen) - before
        whole = tmp_path / "b.pack"
        before = len(server.seen)
        capture(EndpointSide(server.url), suite, plan, whole)
        assert second < (len(server.seen) - before) / 2
    one, two = Pack(path), Pack(whole)
    assert one.summary.prompts == two.summary.prompts
    for left, right in zip(one, two, strict=True):
        assert left.answer is None or left.answer.text == right.answer.text  # type: ignore[union-attr]
    assert not (tmp_path / "a.pack.parts").exists()


def test_who_stops_waits_for_no_answer_and_loses_none(tmp_path: Path) -> None:
    """As Ctrl-C does, while a server takes its time."""
    suite, path = suites.load(small_suite(tmp_path, chats=0)), tmp_path / "a.pack"
    plan, left, waited = plan_for(suite, "0" * 64, levels=(4,)), threading.Event(), []
    last, first = ([*fake.encode(item.text)] for item in (suite.items[-1], suite.items[0]))

    def mood(handler: Any, body: dict[str, Any]) -> bool:
        if body.get("prompt") == last and not left.is_set():
            waited.append(left.wait(20))
        return False

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("distributions") and done == total - 1:  # asked for side by side: all but the last have come
            raise KeyboardInterrupt

    with fake.serve(mood=mood) as server:
        with pytest.raises(KeyboardInterrupt):
            capture(EndpointSide(server.url), suite, plan, path, progress=stop)
        left.set()
        asked: list[Any] = []
        server.mood = lambda _, body: asked.append(body.get("prompt"))
        capture(EndpointSide(server.url), suite, plan, path)
    assert False not in waited
    assert last in asked
    assert first not in asked
    assert len(Pack(path).record(suite.items[0].id).paths["one_shot"].at) == len(first) - 1


def test_who_stops_while_b_is_asked_loses_nothing_of_a(tmp_path: Path) -> None:
    settings = Settings(suite=small_suite(tmp_path), levels=(1, 4, 5), out=tmp_path / "out", oracle="none")

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("B: distributions"):
            raise KeyboardInterrupt

    with fake.serve() as a, fake.serve() as b:
        with pytest.raises(KeyboardInterrupt):
            verify(a.url, b.url, settings, stop)
        assert any("completions" in path for path, _ in a.seen)
        a.seen.clear()
        outcome = verify(a.url, b.url, settings)
        assert not any("completions" in path for path, _ in a.seen)
    assert outcome.verdict.word == "IDENTICAL"
    assert not list(tmp_path.glob("out/*.parts"))
