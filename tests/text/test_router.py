"""The router: the same events however the text is cut, nothing lost, nothing raised, types by the schema."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.core.chat import Event, ReasoningDelta, TextDelta, Tool, ToolCallDelta, ToolCallEnd, ToolCallStart
from parity.core.errors import Unsupported
from parity.text.dialects import Dialect, dialect_by_name, dialect_for
from parity.text.dialects.registry import CALLS, THINKING
from parity.text.router import Router
from parity.text.tokenizer import Tokenizer

TOOLS = [
    Tool(
        "f",
        parameters={
            "type": "object",
            "properties": {
                "s": {"type": "string"},
                "n": {"type": "integer"},
                "x": {"type": "number"},
                "b": {"type": "boolean"},
                "o": {"type": "object"},
                "l": {"type": "array"},
                "u": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "m": {"type": ["string", "null"]},
                "r": {"$ref": "#/$defs/count"},
                "e": {"enum": [1, 2]},
            },
            "$defs": {"count": {"type": "integer"}},
        },
    ),
    Tool("get-weather"),
]
PAIRS = {
    "hermes": "qwen3",
    "qwen3_coder": "qwen3",
    "deepseek_v3": "deepseek_r1",
    "deepseek_v31": "deepseek_v3",
    "deepseek_v32": "deepseek_r1",
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v4",
    "kimi_k2": "kimi_k2",
    "kimi_k3": "kimi_k3",
}
names = pytest.mark.parametrize("name", sorted(PAIRS))


def dialect(name: str) -> Dialect:
    return dialect_by_name(name, PAIRS[name])


def route(form: Dialect, pieces: Iterable[str], **options: Any) -> list[Event]:
    router = Router(form, options.pop("tools", TOOLS), new_id=lambda index: f"id{index}", **options)
    events = [event for piece in pieces for event in router.push(piece)]
    return merged([*events, *router.finish()])


def merged(events: Iterable[Event]) -> list[Event]:
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            result[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            result[-1] = ReasoningDelta(last.text + event.text)
        elif isinstance(event, ToolCallDelta) and isinstance(last, ToolCallDelta):
            result[-1] = ToolCallDelta(last.index, last.arguments + event.arguments)
        else:
            result.append(event)
    return result


def cut(text: str, places: Iterable[int]) -> list[str]:
    edges = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def written(form: Dialect, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """Calls as the model would write them."""
    assert form.calls is not None
    each = [form.calls.write(name, arguments) for name, arguments in calls]
    if form.calls.write("f", {}).startswith(form.calls.tool_begin):
        return "\n".join(each)
    between = "" if form.calls.call_begin else "\n"
    return form.calls.tool_begin + between + between.join(each) + between + form.calls.tool_end


def answer(form: Dialect, thought: str, text: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    assert form.thinking is not None
    body = text
    if form.structure:
        body = form.structure[0] + text + form.structure[1]
    called = ("\n\n" if not form.structure else "") + written(form, calls) if calls else ""
    return f"{form.thinking.begin}\n{thought}\n{form.thinking.end}{body}{called}"


def arguments(events: list[Event]) -> list[Any]:
    return [json.loads(event.arguments) for event in events if isinstance(event, ToolCallEnd)]


VALUES: dict[str, Any] = {
    "s": 'a "quoted"\n\tpath\\to é </x> {"k": 1} 😀',
    "n": -5,
    "x": 2.5,
    "b": True,
    "o": {"k": [1, {"z": None}], "t": "<b>"},
    "l": [],
    "u": "x",
    "m": None,
    "r": 7,
    "e": 2,
}


@names
def test_an_answer_is_divided(name: str) -> None:
    form = dialect(name)
    text = answer(form, "hmm <b>", "Hello there", [("f", VALUES), ("get-weather", {})])
    events = route(form, [text])
    assert [type(event) for event in events] == [ReasoningDelta, TextDelta] + [ToolCallStart, ToolCallDelta, ToolCallEnd] * 2
    assert events[0] == ReasoningDelta("hmm <b>")
    assert events[1] == TextDelta("Hello there")
    assert [event.name for event in events if isinstance(event, ToolCallStart)] == ["f", "get-weather"]
    assert [event.index for event in events if isinstance(event, ToolCallStart)] == [0, 1]
    assert arguments(events) == [VALUES, {}]
    assert all(event.error is None for event in events if isinstance(event, ToolCallEnd))
    deltas = [event.arguments for event in events if isinstance(event, ToolCallDelta)]
    assert deltas == [event.arguments for event in events if isinstance(event, ToolCallEnd)]


@names
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_cut_gives_the_same_events(name: str, data: st.DataObject) -> None:
    form = dialect(name)
    text = answer(form, "a <thi", "b <tool_ca\n", [("f", VALUES), ("f", {"s": "\n\nx\n"})])
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    assert route(form, cut(text, places)) == route(form, text)


def pieces_of(name: str) -> list[str]:
    form = dialect(name)
    assert form.calls is not None
    assert form.thinking is not None
    marks = [mark for mark in form.marks if mark]
    return [
        *marks,
        *form.calls.openers,
        form.thinking.begin,
        form.thinking.end,
        written(form, [("f", {"s": "v", "n": 1})]),
        '{"name": "f", "arguments": {"s": "v"}}',
        '{"arguments": {"s": 1}, "name": "f"}',
        '"',
        "{",
        "}",
        "<",
        ">",
        "\\",
        "\n",
        " ",
        "text",
        "functions.f:0",
        "```json\n",
        "\n```",
        ' name="f">',
        "function=f>",
    ]


@names
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_nonsense_is_survived(name: str, data: st.DataObject) -> None:
    """Whatever comes: no exception, the same events for any cut, every call started is ended, and plain words are not lost."""
    form = dialect(name)
    text = "".join(data.draw(st.lists(st.sampled_from(pieces_of(name)), max_size=14)))
    start = data.draw(st.booleans())
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    events = route(form, [text], in_reasoning=start)
    assert route(form, cut(text, cuts), in_reasoning=start) == events
    assert route(form, text, in_reasoning=start) == events
    starts = [event.index for event in events if isinstance(event, ToolCallStart)]
    assert starts == [event.index for event in events if isinstance(event, ToolCallEnd)] == list(range(len(starts)))
    for end in (event for event in events if isinstance(event, ToolCallEnd)):
        parts = [event.arguments for event in events if isinstance(event, ToolCallDelta) and event.index == end.index]
        assert "".join(parts) == end.arguments
        assert end.error is not None or isinstance(json.loads(end.arguments), dict)


@names
@given(st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_text_without_marks_passes_unchanged(name: str, text: str) -> None:
    form = dialect(name)
    if any(mark in text for mark in form.marks):
        return
    events = route(form, text)
    assert events == ([TextDelta(text)] if text else [])


@names
def test_a_prompt_may_open_the_thinking(name: str) -> None:
    form = dialect(name)
    assert form.thinking is not None
    text = f"deep\n{form.thinking.end}\n\nanswer"
    assert route(form, text, in_reasoning=True) == [ReasoningDelta("deep"), TextDelta("answer")]
    assert route(form, "cut short\n", in_reasoning=True) == [ReasoningDelta("cut short\n")]


@names
def test_without_tools_calls_are_text(name: str) -> None:
    form = dialect(name)
    text = "see: " + written(form, [("f", {"n": 1})])
    assert route(form, text, tools=[]) == [TextDelta(text)]


@names
def test_a_call_cut_short_is_an_error_and_not_lost(name: str) -> None:
    form = dialect(name)
    whole = written(form, [("f", {"s": "a long sentence"})])
    text = whole[: whole.index("sentence")]
    events = route(form, text)
    end = events[-1]
    assert isinstance(end, ToolCallEnd)
    assert end.error == "the answer ended inside the call"
    assert "a long " in end.arguments


def test_thinking_marks_in_the_middle_are_text() -> None:
    form = dialect("hermes")
    assert route(form, "the <think> tag") == [TextDelta("the <think> tag")]
    assert route(form, "a </think> b") == [TextDelta("a </think> b")]


def test_calls_of_their_own_tokens_end_thinking() -> None:
    form = dialect("kimi_k2")
    events = route(form, "so" + written(form, [("f", {"n": 1})]), in_reasoning=True)
    assert [type(event) for event in events] == [ReasoningDelta, ToolCallStart, ToolCallDelta, ToolCallEnd]
    quoted = route(dialect("hermes"), "I could write <tool_call> here</think>done", in_reasoning=True)
    assert quoted == [ReasoningDelta("I could write <tool_call> here"), TextDelta("done")]


THOUGHT = "so\n<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>"


def test_a_call_of_qwens_tags_ends_thinking() -> None:
    """As Qwen3.5 does, and vLLM reads it; a tag alone is thought about."""
    form = dialect("qwen3_coder")
    events = route(form, THOUGHT, in_reasoning=True)
    assert [type(event) for event in events] == [ReasoningDelta, ToolCallStart, ToolCallDelta, ToolCallEnd]
    assert arguments(events) == [{"n": 1}]
    quoted = "I could write <tool_call> or <function=f> here"
    assert route(form, f"{quoted}</think>done", in_reasoning=True) == [ReasoningDelta(quoted), TextDelta("done")]


@names
def test_the_mark_of_thinking_may_be_written_again(name: str) -> None:
    form = dialect(name)
    assert form.thinking is not None
    for text in (f"{form.thinking.begin}a{form.thinking.end}b", f"\n{form.thinking.begin}\na\n{form.thinking.end}\n\nb"):
        assert route(form, text, in_reasoning=True) == [ReasoningDelta("a"), TextDelta("b")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<function=f>\n<parameter=n>\n1\n</parameter>\n</function>", {"n": 1}),
        ("<function=f>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>", {"n": 1}),
        (
            "<tool_call>\n<function=f>\n<parameter=n>\n1\n<parameter=s>\nx\n</parameter>\n</function>\n</tool_call>",
            {"n": 1, "s": "x"},
        ),
        ("<tool_call>\n<function=f>\n<parameter=s>\nx\n<parameter=n>\n1\n</function>\n</tool_call>", {"n": 1, "s": "x"}),
    ],
)
def test_tags_that_qwen_leaves_out(text: str, wanted: Any) -> None:
    form = dialect("qwen3_coder")
    events = route(form, f"a\n{text}\nb")
    assert arguments(events) == [wanted]
    assert next(event for event in events if isinstance(event, ToolCallEnd)).error is None
    assert (events[0], events[-1]) == (TextDelta("a"), TextDelta("b"))
    assert route(form, list(f"a\n{text}\nb")) == events


def test_a_function_that_is_not_offered_is_text_without_its_outer_tag() -> None:
    text = "write <function=g>\n</function> here"
    assert route(dialect("qwen3_coder"), text) == [TextDelta(text)]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_python_alone_calls_a_number_is_none(number: str) -> None:
    call = f"<tool_call>\n<function=f>\n<parameter=x>\n{number}\n</parameter>\n</function>\n</tool_call>"
    assert arguments(route(dialect("qwen3_coder"), call)) == [{"x": number}]
    events = route(dialect("hermes"), f'<tool_call>\n{{"name": "f", "arguments": {{"x": {number}}}}}\n</tool_call>')
    assert "no JSON number" in str(next(event for event in events if isinstance(event, ToolCallEnd)).error)


def test_kimi_keeps_the_models_own_ids() -> None:
    events = route(dialect("kimi_k2"), written(dialect("kimi_k2"), [("f", {})]))
    assert events[0] == ToolCallStart(0, "functions.f:0", "f")


@pytest.mark.parametrize(
    ("body", "wanted", "error"),
    [
        ('{"name": "f", "arguments": {"n": 1}}}', {"n": 1}, None),
        ('{"arguments": {"n": 1}, "name": "f"}', {"n": 1}, None),
        ('{"name": "f", "arguments": "{\\"n\\": 1}"}', {"n": 1}, None),
        ('{"name": "f", "parameters": {"n": 1}, "id": [1, "]"]}', {"n": 1}, None),
        ('{"name": "f"}', {}, None),
        ('{"name": "f", "arguments": {"s": "two\nlines"}}', {"s": "two\nlines"}, None),
        ('{"name": "f", "arguments": {"n": 1', None, "not JSON"),
        ('{"name": "f", "arguments": {"n": oops}}', None, "not JSON"),
        ('{"name": "f", "arguments": [1]}', None, "not a JSON object"),
        ('{"name": "zzz", "arguments": {}}', {}, "no tool named 'zzz'"),
    ],
)
def test_hermes_variants(body: str, wanted: Any, error: str | None) -> None:
    events = route(dialect("hermes"), f"<tool_call>\n{body}\n</tool_call>after")
    end = next(event for event in events if isinstance(event, ToolCallEnd))
    assert (end.error is None) if error is None else (error in str(end.error))
    if wanted is not None:
        assert json.loads(end.arguments) == wanted
    assert events[-1] == TextDelta("after")


BARE = '{"name": "f", "arguments": {"n": 1}}'
TEXTS = [
    f"Like this: {BARE}",
    '{"name": "Tom", "age": 3}',
    '{"name": "f"}',
    '{"name": ["f"]}',
    '{"n": 1}',
    '{"arguments": {}, "name": "f"}',
    '{"name": "f", "id": 1, "arguments": {}}',
    '{"name": "g", "arguments": {}}',
    '{"name": "exact", "arguments": {}}',
    '{"name": "f", "arguments": ["n", 1]}',
    '{"name": "f", "arguments": null}',
    '{"name": "f", "arguments": "n"}',
    "```\nx```",
    "```json\n",
    "{",
]


@pytest.mark.parametrize(
    ("text", "wanted", "rest"),
    [
        (BARE, ['{"n": 1}'], ""),
        (f"\n{BARE}\n{BARE}\n", ['{"n": 1}'] * 2, ""),
        (f"```json\n{BARE}\n```", ['{"n": 1}'], ""),
        (f"```\n{BARE}\n{BARE}\n```\nThere.", ['{"n": 1}'] * 2, "There."),
        (f"{BARE}\n\nI called it.", ['{"n": 1}'], "I called it."),
        (f"{BARE}<tool_call>\n{BARE}\n</tool_call>", ['{"n": 1}'] * 2, ""),
        ('{"name": "f", "parameters": "{\\"n\\": 1}"}', ['{"n": 1}'], ""),
        *((text, [], text) for text in TEXTS),
    ],
)
def test_calls_without_tags_begin_an_answer(text: str, wanted: list[str], rest: str) -> None:
    tools = [*TOOLS, Tool("exact", strict=True)]
    events = route(dialect("hermes"), text, tools=tools)
    assert [event.arguments for event in events if isinstance(event, ToolCallEnd)] == wanted
    assert "".join(event.text for event in events if isinstance(event, TextDelta)).strip() == rest.strip()
    thought = route(dialect("hermes"), f"hm</think>\n\n{text}", tools=tools, in_reasoning=True)
    assert [event.arguments for event in thought if isinstance(event, ToolCallEnd)] == wanted
    for cut in (1, 3):
        assert route(dialect("hermes"), [text[at : at + cut] for at in range(0, len(text), cut)], tools=tools) == events


def test_a_call_without_tags_that_is_broken_off_says_so() -> None:
    (*_, end) = route(dialect("hermes"), BARE[:-4])
    assert isinstance(end, ToolCallEnd)
    assert end.error == "the answer ended inside the call"


@pytest.mark.parametrize("body", ["no json", '{"nam', '{"name": 3}', '{"name": "\\x", "arguments": {}}', '["f"]', "{}", ""])
def test_hermes_without_a_name_is_text(body: str) -> None:
    text = f"a <tool_call>{body}</tool_call> b"
    joined = "".join(event.text for event in route(dialect("hermes"), text) if isinstance(event, TextDelta))
    assert joined == text


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        ("s", "5", "5"),
        ("s", "null", "null"),
        ("s", '{"a": 1}', '{"a": 1}'),
        ("n", "5", 5),
        ("n", "5.0", 5),
        ("n", "five", "five"),
        ("x", "5", 5),
        ("b", "True", True),
        ("b", "false", False),
        ("o", '{"a": [1]}', {"a": [1]}),
        ("l", "[1, 2]", [1, 2]),
        ("u", "5", 5),
        ("u", "five", "five"),
        ("m", "null", None),
        ("m", "x", "x"),
        ("r", "3", 3),
        ("e", "1", 1),
        ("unknown", "5", "5"),
    ],
)
def test_types_follow_the_schema(key: str, text: str, wanted: Any) -> None:
    call = f"<tool_call>\n<function=f>\n<parameter={key}>\n{text}\n</parameter>\n</function>\n</tool_call>"
    events = route(dialect("qwen3_coder"), call)
    assert arguments(events) == [{key: wanted}]
    assert type(arguments(events)[0][key]) is type(wanted)


def test_strings_stream_while_they_are_written() -> None:
    form = dialect("qwen3_coder")
    router = Router(form, TOOLS)
    router.push("<tool_call>\n<function=f>\n<parameter=s>\n")
    assert router.push("first words") == [ToolCallDelta(0, "first words")]
    router = Router(dialect("hermes"), TOOLS)
    router.push('<tool_call>\n{"name": "f", "arguments": {"s": "')
    assert router.push("first words") == [ToolCallDelta(0, "first words")]


def test_cost_is_linear() -> None:
    form = dialect("qwen3_coder")
    text = "word <" * 20_000 + written(form, [("f", {"s": "x\n" * 20_000})])
    events = route(form, [text[start : start + 3] for start in range(0, len(text), 3)])
    assert arguments(events) == [{"s": "x\n" * 20_000}]


@pytest.mark.parametrize(
    ("model_type", "template", "name", "thinks"),
    [
        ("qwen2", "{{ '<tool_call>' }}", "hermes", False),
        ("qwen3", "<tool_call> </think>", "hermes", True),
        ("qwen3_5_moe", "<tool_call> <function= </think>", "qwen3_coder", True),
        ("deepseek_v3", "<｜tool▁calls▁begin｜> ```json </think>", "deepseek_v3", True),
        ("deepseek_v3", "<｜tool▁calls▁begin｜> </think>", "deepseek_v31", True),
        ("kimi_k2", "<|tool_calls_section_begin|>", "kimi_k2", False),
        ("deepseek_v32", None, "deepseek_v32", True),
        ("deepseek_v4", None, "deepseek_v4", True),
        ("deepseek_v41", None, "deepseek_v41", True),
        ("kimi_k3", None, "kimi_k3", True),
        ("llama", "<|start_header_id|>", "none", False),
        ("llama", None, "none", False),
    ],
)
def test_a_model_has_its_dialect(model_type: str, template: str | None, name: str, thinks: bool) -> None:
    form = dialect_for(model_type, template)
    assert (form.name, form.thinking is not None) == (name, thinks)


def test_kimi_vl_thinks_in_its_own_marks() -> None:
    form = dialect_for("kimi_vl", "◁think▷")
    assert route(form, "◁think▷a◁/think▷b", tools=[]) == [ReasoningDelta("a"), TextDelta("b")]


def test_names_are_vllms() -> None:
    assert {"hermes", "qwen3_coder", "qwen3_xml", "deepseek_v3", "deepseek_v31", "deepseek_v32", "kimi_k2"} <= set(CALLS)
    assert {"deepseek_r1", "qwen3", "kimi_k2"} <= set(THINKING)
    with pytest.raises(Unsupported, match="pythonic"):
        dialect_by_name("pythonic")
    with pytest.raises(Unsupported, match="granite"):
        dialect_by_name(None, "granite")


def test_marks_that_are_special_tokens_are_kept(small: Tokenizer) -> None:
    form = Dialect("test", structure=("<|im_start|>x",))
    assert form.keep_tokens(small) == {small.special_tokens["<|im_start|>"]}
