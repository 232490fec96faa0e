"""The report: its JSON fits its schema, its page needs nothing from outside, and the commands print and exit as they should."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from parity.core.errors import FormatError, UsageError
from parity.verify.command import main, parse_levels
from parity.verify.gates import load_rules
from parity.verify.levels.tool_schema import fault
from parity.verify.outcome import compare_packs
from parity.verify.report import page, report_data

from ..browser import launched
from .test_levels import LEVELS, SUITE, pack, records


class Checker(HTMLParser):
    """Every tag is closed, and what refers to anything is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.refers: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.refers += [name for name, _ in attributes if name in ("src", "href", "action", "data", "xlink:href", "onload")]
        if tag in ("script", "link", "iframe", "img", "object"):
            self.refers.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def data_of(tmp_path: Path, noise: float) -> dict[str, Any]:
    a, b = pack(tmp_path / "a.pack", records()), pack(tmp_path / "b.pack", records(noise))
    outcome = compare_packs(a, b, suite=SUITE, rules=load_rules(), levels=LEVELS, keep_going=True)
    return report_data(outcome, "parity verify a.pack b.pack")


@pytest.mark.parametrize("noise", [0.0, 1e-6, 0.5])
def test_json_fits_its_schema_and_the_page_stands_alone(tmp_path: Path, noise: float) -> None:
    data = data_of(tmp_path, noise)
    text = json.dumps(data, allow_nan=False)
    schema = json.loads((Path(report_data.__code__.co_filename).parent / "schema.json").read_text())
    assert fault(text, schema) is None
    html = page(json.loads(text))
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert checker.refers == []
    assert not re.search(r"https?://|@import|url\(", html)
    assert data["verdict"]["word"] in html
    assert "<svg" in html


def test_what_models_say_is_shown_as_text(tmp_path: Path) -> None:
    data = data_of(tmp_path, 0.5)
    data["forks"] = [{"id": "<b>", "position": 1, "margin": None, "a": "<script>alert(1)</script>", "b": '"&'}]
    data["verdict"]["cause"] = "<img src=x>"
    html = page(data)
    assert "<script" not in html
    assert "<img" not in html


_HIDDEN = "[...document.querySelectorAll('details tr')].filter(row => !row.checkVisibility()).length"


def test_what_is_printed_is_whole_and_dark_on_white(tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    html.write_text(page(data_of(tmp_path, 0.5)), "utf-8")
    with launched() as browser:
        # A4 without its margins, at 96 dots an inch.
        sheet = browser.new_page(viewport={"width": 680, "height": 1000}, color_scheme="dark")
        sheet.goto(html.as_uri())
        hidden = sheet.evaluate(_HIDDEN)
        sheet.emulate_media(media="print")
        assert sheet.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert sheet.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), "cut at the edge"
        assert hidden > 0, "on the screen some rows are folded away"
        assert sheet.evaluate(_HIDDEN) == 0, "nothing can be unfolded on paper"


def test_two_packs_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(tmp_path / "a.pack", records())
    pack(tmp_path / "b.pack", records(0.3))
    same = main(["verify", str(tmp_path / "a.pack"), str(tmp_path / "a.pack"), "--out", str(tmp_path / "same")])
    assert same == 0
    assert "IDENTICAL" in capsys.readouterr().out
    other = main(["verify", str(tmp_path / "a.pack"), str(tmp_path / "b.pack"), "--out", str(tmp_path / "other")])
    assert other == 1
    assert "DIFFERENT" in capsys.readouterr().out
    written = json.loads((tmp_path / "other" / "report.json").read_text())
    assert written["verdict"]["exit_code"] == 1
    assert written["command"].startswith("parity verify")
    assert (tmp_path / "other" / "report.html").stat().st_size > 5000


def test_one_level_can_be_run_alone(tmp_path: Path) -> None:
    pack(tmp_path / "a.pack", records())
    assert main(["verify", *[str(tmp_path / "a.pack")] * 2, "--levels", "3", "--out", str(tmp_path)]) == 0
    levels = {level["level"]: level["outcome"] for level in json.loads((tmp_path / "report.json").read_text())["levels"]}
    assert levels[3] == "identical"
    assert levels[4] == levels[0] == "not run"


def test_pack_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(tmp_path / "a.pack", records())
    assert main(["pack", "show", str(tmp_path / "a.pack")]) == 0
    printed = capsys.readouterr().out
    assert "one_shot 240, stepwise 240" in printed
    assert "answers      20" in printed


def test_what_cannot_be_done_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.pack").write_bytes(b"nonsense")
    with pytest.raises(FormatError, match="not a parity pack"):
        main(["verify", str(tmp_path / "x.pack"), "cpu", "--out", str(tmp_path)])
    with pytest.raises(FormatError, match="cannot read"):
        main(["pack", "show", str(tmp_path / "none.pack")])
    pack(tmp_path / "a.pack", records())
    with pytest.raises(UsageError, match="is a pack already"):
        main(["capture", str(tmp_path / "a.pack"), "-o", str(tmp_path / "b.pack")])
    pack(tmp_path / "b.pack", records())
    with pytest.raises(UsageError, match="overwrite"):
        main(["verify", str(tmp_path / "b.pack"), "cpu", "--out", str(tmp_path)])
    with pytest.raises(UsageError, match="suite"):
        main(["verify", str(tmp_path / "a.pack"), "cpu", "--out", str(tmp_path)])


@pytest.mark.parametrize(("text", "levels"), [("0-7", tuple(range(8))), ("3", (3,)), ("0,1,4-6", (0, 1, 4, 5, 6))])
def test_levels_are_read(text: str, levels: tuple[int, ...]) -> None:
    assert parse_levels(text) == levels


@pytest.mark.parametrize("text", ["", "8", "a", "3-", "-1", "5-2"])
def test_bad_levels_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_levels(text)
