"""`generate --input`: many prompts, written as they finish, taken up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run
from .fake_llm import FakeLLM
from .test_verbs import FAKE, ROOT

pytestmark = pytest.mark.usefixtures("fake")


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return sorted((json.loads(line) for line in path.read_text("utf-8").splitlines()), key=lambda row: row["index"])


def test_all_kinds_of_lines(run: Run, tmp_path: Path, fake: type[FakeLLM]) -> None:
    prompts = write(
        tmp_path / "in.jsonl",
        "say: one two",
        {"prompt": "say: three four", "id": "b", "max_tokens": 1},
        {"tokens": [5, 6]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "say: m"}]},
    )
    out = tmp_path / "out.jsonl"
    assert run("generate", "-i", str(prompts), "-o", str(out)) == (0, "", "")
    rows = read(out)
    assert [row["text"] for row in rows] == ["one two ", "three ", "5 6 ", "m "]
    assert [row["id"] for row in rows] == [0, "b", 2, 3]
    assert [message.role for message in fake.calls[0]["messages"]] == ["system", "user"]


def test_only_what_is_missing_is_computed(run: Run, tmp_path: Path, fake: type[FakeLLM]) -> None:
    rows = [{"prompt": f"say: {number}", "id": number} for number in range(30)]
    prompts, out = write(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl"
    words = ("generate", "--chat", "-i", str(prompts), "-o", str(out))
    assert run(*words)[0] == 0
    whole = read(out)
    # Killed while writing line 12: eleven whole lines and a piece.
    kept = out.read_text("utf-8").splitlines(keepends=True)
    out.write_text("".join(kept[:11]) + kept[11][:9], "utf-8")
    fake.calls.clear()
    assert run(*words)[0] == 0
    assert len(fake.calls) == 19
    assert read(out) == whole
    fake.calls.clear()
    assert run(*words)[0] == 0
    assert not fake.calls
    assert run(*words, "--overwrite")[0] == 0
    assert len(fake.calls) == 30


def test_a_prompt_that_fails_leaves_the_others_and_is_tried_again(run: Run, tmp_path: Path) -> None:
    prompts, out = write(tmp_path / "in.jsonl", "say: a", "fail", "say: b"), tmp_path / "out.jsonl"
    for _ in range(2):
        code, _, err = run("generate", "-i", str(prompts), "-o", str(out))
        assert code == 2
        assert "1 of 3 prompts have no answer" in err
        rows = read(out)
        assert [row.get("error") for row in rows] == [None, "this prompt is refused; ask another", None]


def test_answers_to_something_else_are_not_touched(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    first, second = write(tmp_path / "1.jsonl", "say: a"), write(tmp_path / "2.jsonl", "say: b")
    assert run("generate", "-i", str(first), "-o", str(out))[0] == 0
    before = out.read_bytes()
    for words in ((str(second), "-o", str(out)), (str(first), "-o", str(out), "--temp", "0")):
        code, _, err = run("generate", "-i", *words)
        assert code == 2
        assert "--overwrite" in err
        assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2"),
        ("7", "neither a string nor an object"),
        ("{}", "one of prompt, tokens, messages"),
        ('{"prompt": "x", "tokens": [1]}', "one of prompt, tokens, messages"),
        ('{"prompt": ""}', "empty"),
        ('{"prompt": "x", "temprature": 1}', "'temprature'"),
        ('{"prompt": "x", "temperature": -1}', "temperature must be"),
        ('{"tokens": ["a"]}', "token ids"),
        ('{"messages": [{"rôle": "user"}]}', "line 2"),
        ('{"messages": []}', "messages"),
        ('{"messages": [5]}', "messages[0]: expected object"),
        ('{"messages": [{"role": "user", "content": null}]}', "messages[0].content"),
        ('{"messages": [{"role": "fool", "content": "x"}]}', "messages[0].role: 'fool'"),
        ('{"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}', "messages[0].tool_calls[0].function"),
        ('{"prompt": "x", "id": [1]}', "id is neither"),
        ('{"prompt": "x", "logit_bias": 5}', "logit_bias must map"),
        ('{"prompt": "x", "logit_bias": {"a": 5}}', "'a' is not one"),
        ('{"prompt": "x", "logit_bias": {"5": "much"}}', "logit_bias must map"),
        ('{"prompt": "x", "stop": 5}', "stop must be a list"),
        ('{"prompt": "x", "stop_token_ids": "abc"}', "stop_token_ids must hold token ids"),
        ('{"prompt": "x", "ignore_eos": "no"}', "ignore_eos must be true or false"),
    ],
)
def test_a_wrong_line_is_named(run: Run, tmp_path: Path, line: str, told: str) -> None:
    prompts = tmp_path / "in.jsonl"
    prompts.write_text(f'"say: fine"\n{line}\n', "utf-8")
    code, _, err = run("generate", "-i", str(prompts), "-o", str(tmp_path / "out.jsonl"))
    assert code == 2
    assert told in err
    assert f"{prompts}, line 2" in err


def test_a_line_ends_where_json_lines_do(run: Run, tmp_path: Path, fake: type[FakeLLM]) -> None:
    texts = ["say: one\u2028two", "say: three\x85four\u2029five"]
    prompts, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("".join(json.dumps(text, ensure_ascii=False) + "\r\n" for text in texts), "utf-8", newline="")
    words = ("generate", "--chat", "-i", str(prompts), "-o", str(out))
    assert run(*words)[0] == 0
    before = out.read_bytes()
    rows = [json.loads(line) for line in before.decode().split("\n")[:-1]]
    assert sorted(row["text"] for row in rows) == ["one\u2028two ", "three\x85four\u2029five "]
    fake.calls.clear()
    assert run(*words)[0] == 0
    assert (fake.calls, out.read_bytes()) == ([], before)


def test_a_bias_by_token_as_json_writes_it(run: Run, tmp_path: Path, fake: type[FakeLLM]) -> None:
    row = {"messages": [{"role": "user", "content": "say: a"}], "logit_bias": {"5": -1}}
    prompts = write(tmp_path / "in.jsonl", row)
    assert run("generate", "-i", str(prompts), "-o", str(tmp_path / "out.jsonl"))[0] == 0
    assert fake.calls[0]["params"].logit_bias == {5: -1}


@pytest.mark.parametrize("held", ["my notes\nand more\n", "my notes", '{"prompt": "x"}\n', '["x"]\n', '{"index": [1]}\n'])
def test_a_file_that_holds_something_else_is_not_touched(run: Run, tmp_path: Path, held: str) -> None:
    prompts, out = write(tmp_path / "in.jsonl", "say: a"), tmp_path / "out.jsonl"
    out.write_text(held, "utf-8")
    code, _, err = run("generate", "-i", str(prompts), "-o", str(out))
    assert code == 2
    assert "holds something else" in err
    assert out.read_text("utf-8") == held


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_the_prompts_are_not_written_over(run: Run, tmp_path: Path, flags: tuple[str, ...]) -> None:
    prompts = write(tmp_path / "in.jsonl", "say: a")
    before = prompts.read_bytes()
    code, _, err = run("generate", "-i", str(prompts), "-o", f"{tmp_path}/./in.jsonl", *flags)
    assert code == 2
    assert "--output is the --input itself" in err
    assert prompts.read_bytes() == before


def test_answers_from_otherwise_packed_weights_are_other_answers(run: Run, tmp_path: Path) -> None:
    prompts, out = write(tmp_path / "in.jsonl", "say: a"), tmp_path / "out.jsonl"
    assert run("generate", "-i", str(prompts), "-o", str(out))[0] == 0
    assert run("generate", "-i", str(prompts), "-o", str(out), "--quantize", "q4")[0] == 2


def test_prompts_from_a_pipe_and_answers_to_one(tmp_path: Path) -> None:
    prompts = write(tmp_path / "in.jsonl", "say: a")
    line = f"{' '.join(FAKE)} generate -i <(cat {prompts}) -o /dev/stdout | cat"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ)
    assert (json.loads(done.stdout)["text"], done.stderr) == ("a ", "")


def test_files_that_do_not_do(run: Run, tmp_path: Path) -> None:
    prompts = write(tmp_path / "in.jsonl", "say: a")
    empty = write(tmp_path / "empty.jsonl")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    twice = write(tmp_path / "twice.jsonl", {"prompt": "a", "id": 1}, {"prompt": "b", "id": 1})
    for words, told in (
        ((str(prompts),), "--output"),
        ((str(empty), "-o", str(tmp_path / "out")), "no prompts"),
        ((str(binary), "-o", str(tmp_path / "out")), "UTF-8"),
        ((str(twice), "-o", str(tmp_path / "out")), "same id twice"),
        ((str(prompts), "-o", str(tmp_path / "no" / "folder")), "cannot be written"),
    ):
        code, _, err = run("generate", "-i", *words)
        assert code == 2
        assert told in err


def test_interrupted_and_resumed(tmp_path: Path) -> None:
    prompts, out = write(tmp_path / "in.jsonl", "say: quick", "say: slow and long"), tmp_path / "out.jsonl"
    words = [*FAKE, "generate", "-i", str(prompts), "-o", str(out)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        while not (out.exists() and out.read_text("utf-8")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert [row["text"] for row in read(out)] == ["quick "]
