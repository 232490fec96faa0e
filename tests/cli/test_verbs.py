"""Flags, help and exit codes, without a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from parity.cli import VERBS, build_parser

from .conftest import Run
from .fake_llm import FakeLLM

FAKE = [sys.executable, "-m", "tests.cli.fake_llm"]
ROOT = Path(__file__).parents[2]


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, parity.cli; parity.cli.main(sys.argv[1:]); print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    for words in (["--help"], ["chat", "--help"], ["generate", "--help"], ["models", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
        loaded = set(done.stdout.splitlines()[-1].split())
        assert not loaded & {"torch", "numpy", "rich", "transformers", "tokenizers", "jinja2", "huggingface_hub", "scipy"}


def test_every_verb_has_help(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for verb, summary in VERBS.items():
        assert verb in out and summary[:20] in out  # noqa: PT018  # one fact
        assert run(verb, "--help")[0] == 0


def test_no_command_prints_help(run: Run) -> None:
    code, out, _ = run()
    assert code == 0
    assert "usage: parity" in out


def test_version(run: Run) -> None:
    import parity

    assert run("--version") == (0, f"parity {parity.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["chta"], "did you mean chat?"),
        (["chat", "--max-token", "3"], "did you mean --max-tokens?"),
        (["chat", "--temp", "warm"], "invalid float value"),
        (["chat", "--max-num-seqs", "0"], "whole number of at least 1"),
        (["chat", "--chat-template-kwargs", "{"], "is not JSON"),
        (["chat", "-f", "no/such/file"], "is no file"),
        (["generate", "-p", "x", "-i", "y"], "is no file"),
        (["models", "shwo"], "did you mean show?"),
    ],
)
def test_wrong_flags_say_what_is_right(run: Run, words: list[str], told: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert told in err
    assert "--help" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", VERBS)
def test_flags_are_spelled_one_way(verb: str) -> None:
    (verbs,) = [action for action in build_parser(verb)._actions if action.choices]
    flags = [flag for action in verbs.choices[verb]._actions for flag in action.option_strings]  # type: ignore[index]
    assert len(flags) == len(set(flags))
    assert not [flag for flag in flags if "_" in flag or flag != flag.lower()]


def test_one_answer(run: Run, fake: type[FakeLLM]) -> None:
    code, out, err = run("chat", "-p", "say: hello there", "--system", "be kind", "--temp", "0", "--max-num-seqs", "3")
    assert (code, out, err) == (0, "hello there \n", "")
    (call,) = fake.calls
    assert [(m.role, m.content) for m in call["messages"]] == [("system", "be kind"), ("user", "say: hello there")]
    assert call["params"].temperature == 0


def test_the_model_decides_what_is_not_given(run: Run, fake: type[FakeLLM]) -> None:
    run("chat", "-p", "x", "--top-k", "5", "--chat-template-kwargs", '{"enable_thinking": false}')
    (call,) = fake.calls
    assert (call["params"].temperature, call["params"].top_k) == (0.7, 5)
    assert call["template"] == {"enable_thinking": False}


def test_thinking_stays_out_of_pipes(run: Run, fake: type[FakeLLM]) -> None:
    assert run("chat", "-p", "think")[1] == "think \n"


def test_a_pipe_is_the_prompt_or_goes_below_it() -> None:
    done = subprocess.run([*FAKE, "chat"], cwd=ROOT, input="say: from a pipe", capture_output=True, text=True, check=True)
    assert done.stdout == "from a pipe \n"
    done = subprocess.run(
        [*FAKE, "chat", "-p", "say: above"], cwd=ROOT, input="below", capture_output=True, text=True, check=True
    )
    assert done.stdout == "above\n\nbelow \n"


def test_nothing_to_answer(run: Run, fake: type[FakeLLM]) -> None:
    done = subprocess.run([*FAKE, "chat"], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no prompt" in done.stderr


@pytest.mark.parametrize("words", [["chat", "-p", ""], ["chat", "-p", "  \n"], ["generate", "-p", ""]])
def test_empty_prompt(run: Run, fake: type[FakeLLM], words: list[str]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "the prompt is empty" in err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--temperature", "-1"),
        ("--top-p", "0"),
        ("--top-p", "2"),
        ("--max-tokens", "-3"),
        ("--min-p", "nan"),
        ("--seed", "1" + "0" * 30),
    ],
)
def test_impossible_sampling_values(run: Run, fake: type[FakeLLM], flag: str, value: str) -> None:
    code, _, err = run("chat", "-p", "x", flag, value)
    assert code == 2
    assert flag.strip("-").replace("-", "_") in err
    assert "must be" in err
    assert not fake.calls


def test_refusals_have_no_traceback(run: Run, fake: type[FakeLLM]) -> None:
    assert run("chat", "-p", "fail") == (2, "", "parity: error: this prompt is refused; ask another\n")
    code, _, err = run("chat", "-p", "word " * 300)
    assert code == 2
    assert "--max-model-len" in err


def test_json(run: Run, fake: type[FakeLLM]) -> None:
    code, out, _ = run("generate", "-p", "say: a b", "--json", "--logprobs", "1")
    found = json.loads(out)
    assert code == 0
    assert (found["text"], found["tokens"], found["finish_reason"]) == ("a b ", [1, 2], "stop")
    assert found["usage"] == {"prompt_tokens": 2, "cached_tokens": 1, "completion_tokens": 2}
    assert found["timings"] == {"first_token_s": 0.1, "total_s": 0.2, "tokens_per_second": 20.0}
    assert found["logprobs"][0] == {"token": 1, "logprob": -0.5, "rank": 1, "top": [{"token": 1, "logprob": -0.5}]}


def test_raw_and_samples(run: Run, fake: type[FakeLLM]) -> None:
    assert run("generate", "-p", "say: a b") == (0, "a b \n", "")
    assert fake.calls[0]["raw"]
    assert run("generate", "-p", "say: a b", "--n", "2")[1] == "a b \na b \n"
    assert run("generate", "-p", "x", "--chat", "--n", "2")[0] == 2


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{' '.join(FAKE)} chat -p 'say: slow words for long' | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 141


@pytest.mark.parametrize("words", ["chat", "chat -p -", "generate"])
def test_standard_input_that_is_closed(words: str) -> None:
    command = f"{' '.join(FAKE)} {words} <&-"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)
    assert "there is no prompt" in done.stderr or "the prompt is empty" in done.stderr


def test_standard_output_that_is_closed() -> None:
    command = f"{' '.join(FAKE)} models list >&-"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_character_that_the_output_does_not_have() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    words = [*FAKE, "chat", "-p", "say: caf\xe9 \u4f60 on"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"caf\xe9 ? on \n", b"")


def test_log_probabilities_are_not_left_out_in_silence(run: Run, fake: type[FakeLLM]) -> None:
    for flag in ("--logprobs", "--prompt-logprobs"):
        code, out, err = run("generate", "-p", "x", flag, "2")
        assert (code, out) == (2, "")
        assert "add --json" in err


@pytest.mark.parametrize(("level", "code"), [("trace", 2), ("", 0), ("INFO", 0)])
def test_a_level_from_the_environment(
    run: Run, fake: type[FakeLLM], monkeypatch: pytest.MonkeyPatch, level: str, code: int
) -> None:
    monkeypatch.setenv("PARITY_LOG_LEVEL", level)
    found, _, err = run("chat", "-p", "x")
    assert found == code
    assert ("PARITY_LOG_LEVEL is trace; set it to one of debug" in err) is (code == 2)


def test_control_d_removes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("parity.hub.check_pulled", lambda _: None)
    monkeypatch.setattr("builtins.input", end)
    assert run("models", "rm", "some/model") == (0, "\nkept\n", "")


def test_no_such_home(run: Run, fake: type[FakeLLM]) -> None:
    code, _, err = run("generate", "-i", "~no-such-user/x", "-o", "y")
    assert code == 2
    assert "begins with ~" in err


def test_no_colour_in_pipes() -> None:
    environment = {**os.environ, "FORCE_COLOR": "", "NO_COLOR": "1"}
    done = subprocess.run([*FAKE, "chat", "-p", "think"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr
