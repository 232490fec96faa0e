"""What the documents say is so: the help, the commands, the links, the examples."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from parity.cli import VERBS, build_parser

from .tree import FILES, ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_help_page_is_what_the_program_prints() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/write_help.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"&&|\||;", line.partition(" #")[0]):
                words = shlex.split(command.partition(">")[0].partition("<")[0])
                if words and words[0].rpartition("/")[2] == "parity":
                    assert words[1] in VERBS, command
                    for file in (word for word in words if word.endswith(".jsonl")):
                        Path(file).touch()
                    parsed, unknown = build_parser(words[1]).parse_known_args(words[1:])
                    assert not unknown, command
                    assert parsed.verb == words[1]


def test_python_in_the_readme_runs(default_model: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    _run_python("-c", code.replace('LLM("qwen2.5-coder-0.5b")', f"LLM({str(default_model)!r})"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_architecture_names_every_folder() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    folders = {file.parent.name for file in FILES if file.parent.parent == ROOT / "parity"}
    assert not [folder for folder in folders if f"`{folder}`" not in text and f"{folder}/" not in text]


def test_the_tests_run_by_ci_are_those_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (command,) = re.findall(r"<!-- test command -->\n```sh\n(.*?)\n```", text)
    assert "scripts/test" in command
    assert "\n" not in command


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_runs(example: Path, default_model: Path) -> None:
    _run_python(str(example), str(default_model))


def _run_python(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
