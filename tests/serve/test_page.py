"""The chat page in a real browser without a screen."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from parity.serve.page import page_routes

from ..browser import launched
from .conftest import PATIENCE_S, client_of
from .scripted import ScriptedService, answering, make_desk

PAGE = Path(__file__).parents[2] / "parity" / "serve" / "page"
SHOTS = os.environ.get("PARITY_SCREENSHOTS")

RICH = """Here is **how** to add, with `x + y`:

```python
def add(x: int, y: int) -> int:
    \"\"\"Adds two numbers.\"\"\"
    return x + y  # 42
```

1. First
   - inner *item*
2. Second

| name | value |
|------|-------|
| a    | 1     |

> A quote, and [a link](https://example.org) but not [this](javascript:alert(1)) or <img src=x onerror=alert(1)>.
"""
ENDLESS = "more and " * 10_000  # nobody waits for its end
SCRIPT = answering(
    {
        "tool:sunny": "It is sunny.",
        "weather": '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>',
        "ponder": "<think>First this, then that.</think>The answer is 42.",
        "rich": RICH,
        "columns": "| " + "unbreakable | " * 9 + "\n|" + "-|" * 9 + "\n| " + "x | " * 9,
        "endless": ENDLESS,
    },
    otherwise="Good day to you.",
)


async def test_the_page_needs_nothing_from_elsewhere():
    async with client_of(make_desk()) as client:
        for route in page_routes():
            answer = await client.get(route.path)
            assert answer.status_code == 200
            assert "default-src 'none'" in answer.headers["content-security-policy"]
    for file in PAGE.glob("*.*"):
        if file.suffix in (".html", ".css", ".js"):
            links = re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}", file.read_text("utf-8"))
            assert [link for link in links if "www.w3.org" not in link] == [], file


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser, serve):
    context = browser.new_context(viewport={"width": 1200, "height": 800}, color_scheme="light")
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.problems.append(request.url) if "127.0.0.1" not in request.url[:20] else None)
    page.url_of_server = serve(ScriptedService(SCRIPT, step_s=0.01))
    page.goto(page.url_of_server)
    yield page
    context.close()
    assert [problem for problem in page.problems if not problem.startswith("data:")] == []


def ask(page, text):
    page.get_by_label("Your question").fill(text)
    page.keyboard.press("Enter")


def finished(page):
    page.wait_for_selector("#send:not([hidden])", state="attached")


def shot(page, name):
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


def test_a_question_streams_an_answer_that_is_there_after_a_reload(page):
    shot(page, "welcome")
    ask(page, "Hello there")
    answer = page.locator(".message.assistant .content")
    answer.wait_for()
    page.wait_for_function("() => document.querySelector('.message.assistant .content').textContent.length > 3")
    finished(page)
    assert answer.inner_text() == "Good day to you."
    page.reload()
    assert page.locator(".message.assistant .content").inner_text() == "Good day to you."
    assert page.locator("#title").inner_text() == "Hello there"
    page.goto(page.url_of_server)
    assert page.locator(".message").count() == 0
    page.locator("#conversations button").first.click()
    assert page.locator(".message.user .content").inner_text() == "Hello there"


def test_a_wide_table_scrolls_by_itself_and_keeps_its_words_whole(page):
    page.set_viewport_size({"width": 360, "height": 740})
    ask(page, "columns")
    finished(page)
    widths = "(table) => [table.scrollWidth > table.clientWidth, document.documentElement.scrollWidth]"
    assert page.locator(".table").evaluate(widths) == [True, 360]
    one_line = page.locator("td").first.bounding_box()["height"]
    assert page.locator("th").first.bounding_box()["height"] == pytest.approx(one_line, abs=2)


def test_an_answer_can_be_stopped_and_keeps_what_came(page):
    ask(page, "endless please")
    page.wait_for_function("() => document.querySelector('.message.assistant .content')?.textContent.length > 40")
    page.wait_for_selector(".message.streaming")
    page.get_by_role("button", name="Stop").click()
    finished(page)
    kept = page.locator(".message.assistant .content").inner_text()
    assert 40 < len(kept) < len(ENDLESS) / 2
    assert page.locator(".message.assistant .note").inner_text() == "Stopped."
    page.reload()
    assert page.locator(".message.assistant .content").inner_text() == kept
    ask(page, "Hello")
    finished(page)
    assert page.locator(".message.assistant .content").last.inner_text() == "Good day to you."
    ask(page, "endless again")
    page.wait_for_function("() => document.querySelectorAll('.message.assistant .content')[2]?.textContent.length > 10")
    page.keyboard.press("Escape")
    finished(page)


def test_markdown_code_and_what_must_not_run(page):
    ask(page, "rich")
    finished(page)
    shot(page, "rich-light")
    content = page.locator(".message.assistant .content")
    assert content.locator("strong").inner_text() == "how"
    assert content.locator("pre .keyword").first.inner_text() == "def"
    assert content.locator("pre .comment").inner_text() == "# 42"
    assert content.locator("ol > li > ul > li em").inner_text() == "item"
    assert content.locator("td").all_inner_texts() == ["a", "1"]
    assert content.locator("a").count() == 1
    assert content.locator("img").count() == 0
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    content.get_by_role("button", name="Copy the code").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("def add(x")
    page.get_by_role("button", name="Light or dark").click()
    shot(page, "rich-dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"


def test_thought_is_folded(page):
    ask(page, "ponder this")
    finished(page)
    thought = page.locator(".message.assistant .reasoning")
    assert thought.get_attribute("open") is None
    thought.locator("summary").click()
    assert thought.locator(".prose").inner_text() == "First this, then that."
    assert page.locator(".message.assistant .content").inner_text() == "The answer is 42."


def test_a_tool_call_is_shown_and_answered(page):
    page.get_by_role("button", name="Settings").click()
    shot(page, "settings")
    page.get_by_label("Tools, as JSON").fill("[1")
    page.get_by_role("button", name="Done").click()
    assert "The tools are not right" in page.locator("#settings-error").inner_text()
    tools = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'
    page.get_by_label("Tools, as JSON").fill(tools)
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_role("button", name="Done").click()
    ask(page, "the weather")
    finished(page)
    assert page.locator(".call code").inner_text() == "weather"
    assert '"city": "Rome"' in page.locator(".call pre").inner_text()
    page.get_by_label("What weather answered").fill("sunny")
    page.get_by_role("button", name="Go on").click()
    page.wait_for_function("() => document.querySelectorAll('.message.assistant').length === 2")
    finished(page)
    assert page.locator(".message.assistant .content").last.inner_text() == "It is sunny."
    shot(page, "tools")


def test_an_error_is_told(page):
    ask(page, "x" * 6000)
    finished(page)
    assert "the maximum context length is 4096" in page.locator(".note.error").inner_text()
    page.problems.clear()  # the browser logs the 400


def test_the_keyboard_alone_suffices(page):
    ask(page, "Hello")
    finished(page)
    page.keyboard.press("Alt+n")
    assert page.locator(".message").count() == 0
    page.keyboard.type("line one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line two")
    page.keyboard.press("Enter")
    finished(page)
    assert page.locator(".message.user .content").inner_text() == "line one\nline two"
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    assert {"question", "new", "theme", "open-settings", "Copy the message", "Answer again"} <= reached


def test_an_empty_page_offers_a_beginning(page):
    starter = page.locator("#starters button").first
    starter.focus()
    page.keyboard.press("Enter")
    finished(page)
    assert page.locator(".message.user .content").inner_text() == "Write a function that merges two sorted lists, with tests."
    assert not page.locator("#welcome").is_visible()
    assert page.evaluate("document.activeElement.id") == "question"


def test_on_a_phone(page):
    page.set_viewport_size({"width": 375, "height": 700})
    page.emulate_media(color_scheme="dark")
    ask(page, "rich")
    finished(page)
    shot(page, "phone-dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.get_by_role("button", name="Conversations").click()
    page.wait_for_selector("#sidebar", state="visible")
    shot(page, "phone-list")
    page.get_by_role("button", name="New conversation").click()
    page.wait_for_selector("#sidebar", state="hidden")
    assert page.locator(".message").count() == 0


def test_the_status_view_counts(page):
    page.wait_for_function("() => document.getElementById('status-stack').textContent === 'null, float32'")
    assert page.locator("#status-pages").inner_text() == "0 of 1024"
    ask(page, "endless")
    page.wait_for_function("() => document.getElementById('status-requests').textContent.startsWith('1')")
    page.keyboard.press("Escape")
    finished(page)


def test_a_key_is_asked_for_by_the_browser_itself(browser, serve):
    url = serve(ScriptedService(SCRIPT), api_keys=("secret",))
    context = browser.new_context(http_credentials={"username": "me", "password": "secret"})
    page = context.new_page()
    page.goto(url)
    ask(page, "Hello")
    page.wait_for_function("() => document.querySelector('.message.assistant .content')?.textContent === 'Good day to you.'")
    context.close()
