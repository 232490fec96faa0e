"""`parity chat` at a real terminal: a pseudo-terminal of 30 columns and up."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from .test_verbs import ROOT

PROMPT = ">>> "


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")}
    return {**clean, "TERM": "xterm-256color", "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}


def start(environment: dict[str, str], *words: str, columns: int = 100) -> pexpect.spawn[str]:
    program = ["-m", "tests.cli.fake_llm", *(words or ("chat",))]
    return pexpect.spawn(
        sys.executable, program, cwd=ROOT, env=environment, encoding="utf-8", timeout=30, dimensions=(24, columns)
    )


@pytest.fixture
def chat(environment: dict[str, str]) -> Iterator[pexpect.spawn[str]]:
    child = start(environment, columns=200)  # wide enough for a line with a path in it
    child.expect_exact(PROMPT)
    yield child
    child.close(force=True)


def leave(child: pexpect.spawn[str]) -> int | None:
    child.expect(pexpect.EOF)
    child.close()
    status: int | None = child.exitstatus
    return status


def test_turns_and_history(chat: pexpect.spawn[str]) -> None:
    assert "context 200 tokens" in chat.before
    chat.sendline("say: hello you")
    chat.expect_exact("hello you ")
    chat.expect(r"2 tokens \| \S+ tokens/s")
    chat.expect_exact(PROMPT)
    chat.sendline("say: again")
    chat.expect_exact("again ")
    # The words of both questions and of the answer between them.
    chat.expect_exact("prompt 7 tokens")
    chat.expect_exact(PROMPT)
    chat.sendline("/quit")
    assert leave(chat) == 0


def test_commands(chat: pexpect.spawn[str], tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    for line, told in (
        ("/help", "/system [TEXT]"),
        ("/system be brief", "system: be brief"),
        ("say: hello", "hello "),
        ("/stats", "generated  1 tokens"),
        (f"/save {saved}", "saved 2 messages"),
        (f"/save {saved}", "exists; name another file"),
        ("/clear", "forgotten"),
        ("/wat", "there is no command /wat"),
        ("/think", "thinking: as the model likes"),
        ("/think off", "thinking: off"),
        ("/think maybe", "/think is on or off, not maybe"),
        ("fail", "error: this prompt is refused"),
        ("word " * 250, "/clear makes room"),
        ("say: still here", "still here "),
    ):
        chat.sendline(line)
        chat.expect_exact(told)
        chat.expect_exact(PROMPT)
    chat.sendeof()
    assert leave(chat) == 0
    assert json.loads(saved.read_text("utf-8"))["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "say: hello"},
        {"role": "assistant", "content": "hello "},
    ]


def test_a_path_or_a_comment_is_no_command(chat: pexpect.spawn[str]) -> None:
    for line in ("/* say: one */", "/etc/say: two", "// say: three"):
        chat.sendline(line)
        chat.expect(r"prompt \d+ tokens")
        chat.expect_exact(PROMPT)
    chat.sendeof()
    assert leave(chat) == 0


def test_control_c_stops_the_answer_and_not_the_program(chat: pexpect.spawn[str]) -> None:
    chat.sendline("say: slow answer")
    chat.expect_exact("slow answer slow")
    chat.sendintr()
    chat.expect_exact("stopped")
    chat.expect_exact(PROMPT)
    chat.sendline("say: alive")
    chat.expect_exact("alive ")
    chat.expect_exact(PROMPT)
    chat.sendintr()
    chat.expect_exact("Ctrl-C again")
    chat.expect_exact(PROMPT)
    chat.sendintr()
    assert leave(chat) == 0


def test_control_c_ends_a_single_answer(environment: dict[str, str]) -> None:
    child = start(environment, "chat", "-p", "say: slow answer")
    child.expect_exact("slow answer slow")
    child.sendintr()
    assert leave(child) == 130
    assert "Traceback" not in child.before


def test_lines_go_on_and_are_remembered(environment: dict[str, str]) -> None:
    child = start(environment)
    child.expect_exact(PROMPT)
    child.sendline("say: one\\")
    child.expect_exact("... ")
    child.sendline("two")
    child.expect_exact("one\r\ntwo ")
    child.expect_exact(PROMPT)
    child.sendline("/quit")
    assert leave(child) == 0
    child = start(environment)
    child.expect_exact(PROMPT)
    child.send("\x1b[A\x1b[A\x1b[A")  # up three: before /quit and the second line
    child.expect_exact("say: one\\")
    child.close(force=True)


def test_a_model_cannot_steer_the_terminal(chat: pexpect.spawn[str]) -> None:
    chat.sendline("say: red\\u001b[31m")
    chat.expect_exact(PROMPT)
    assert "\x1b[31m" not in chat.before


@pytest.mark.parametrize("no_color", [False, True])
def test_colour(environment: dict[str, str], no_color: bool) -> None:
    child = start({**environment, **({"NO_COLOR": "1"} if no_color else {})}, "chat", "-p", "think")
    child.expect(pexpect.EOF)
    assert "pondering" in child.before
    assert bool(re.search(r"\x1b\[[\d;]+m", child.before)) is not no_color


def test_narrow_terminal(environment: dict[str, str]) -> None:
    child = start(environment, "models", columns=30)
    child.expect(pexpect.EOF)
    lines = re.sub(r"\x1b\[[\d;]*m", "", child.before).splitlines()
    assert "model: " not in lines[0]
    assert any(line.startswith("licence: ") for line in lines)
    assert max(map(len, lines)) <= 30


def test_bar_of_a_download(environment: dict[str, str]) -> None:
    child = start(environment, "pull", "some/model")
    child.expect_exact("weights.bin")
    child.expect_exact("100.0/100.0 MB")
    assert leave(child) == 0
    assert child.before.strip().endswith("some/model")


def test_progress_of_many_prompts(environment: dict[str, str], tmp_path: Path) -> None:
    prompts, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('"say: a"\n"say: b"\n', "utf-8")
    child = start(environment, "generate", "-i", str(prompts), "-o", str(out))
    child.expect_exact("2 prompts, 0 already answered")
    child.expect_exact("2/2")
    assert leave(child) == 0
    assert len(out.read_text("utf-8").splitlines()) == 2
