"""Prompts of models without a Jinja template, against texts written down from the vendors' own encoders.

On random conversations they are compared with copies of what the vendors publish: V3.2's `encoding_dsv32.py`, which mlx-lm
carries; K3's `encoding_k3.py`, which mlx-vlm carries; V4's and V4.1's package `deepseek_recipe`.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from parity.core.chat import Message, Tool, ToolCall, ToolCallEnd
from parity.core.errors import RequestError
from parity.text.dialects import dialect_for
from parity.text.encodings import ENCODINGS, encoding_for
from parity.text.router import Router
from parity.text.template import message_dict, tool_dict

TOOL = Tool("f", "does é", {"type": "object", "properties": {"s": {"type": "string"}}})
SCHEMA = '{"name": "f", "description": "does é", "parameters": {"type": "object", "properties": {"s": {"type": "string"}}}}'
BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
CALLED = [
    Message("user", "u"),
    Message(
        "assistant",
        "a",
        "r",
        (ToolCall("1", "f", '{"s": "x<y", "n": 5, "o": {"k": [1, 2.0, null]}}'), ToolCall("2", "f", "{}")),
    ),
    Message("tool", "second", tool_call_id="2"),
    Message("tool", "first", tool_call_id="1"),
]


def render(name: str, messages: list[Message], tools: list[Tool] | None = None, **options: Any) -> str:
    template = encoding_for(name)
    assert template is not None
    return template.render(messages, tools or [], **options)


def test_only_those_architectures_have_one() -> None:
    assert set(ENCODINGS) == {"deepseek_v32", "deepseek_v4", "deepseek_v41", "kimi_k3"}
    assert encoding_for("qwen2") is None
    assert encoding_for(None) is None


def test_v32_turns() -> None:
    messages = [Message("system", "S"), Message("user", "a"), Message("assistant", "b", "r"), Message("user", "c")]
    start = f"{BOS}S{USER}a{ASSISTANT}</think>b{EOS}{USER}c{ASSISTANT}"
    assert render("deepseek_v32", messages) == start + "</think>"
    assert render("deepseek_v32", messages, thinking=True) == start + "<think>"
    assert render("deepseek_v32", messages, thinking=True, add_generation_prompt=False) == start.removesuffix(ASSISTANT)


def test_v32_calls() -> None:
    text = render("deepseek_v32", CALLED, [TOOL], thinking=True)
    assert text.startswith(f"{BOS}\n\n## Tools\n\nYou have access to a set of tools you can use")
    assert text.endswith(
        f"<functions>\n{SCHEMA}\n</functions>\n{USER}u{ASSISTANT}<think>r</think>a\n\n<｜DSML｜function_calls>\n"
        '<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="s" string="true">x<y</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="n" string="false">5</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="o" string="false">{"k": [1, 2.0, null]}</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        f'<｜DSML｜invoke name="f">\n\n</｜DSML｜invoke>\n</｜DSML｜function_calls>{EOS}\n\n<function_results>\n'
        "<result>second</result>\n<result>first</result>\n</function_results>\n\n<think>"
    )


def test_v32_refuses_a_result_without_a_call() -> None:
    with pytest.raises(RequestError, match="answers no call"):
        render("deepseek_v32", [Message("user", "u"), Message("tool", "x")])


@pytest.mark.parametrize(
    ("options", "head", "end"),
    [
        ({}, "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n", "<think>"),
        ({"reasoning_effort": "max"}, "Reasoning Effort: Beyond maximum — exhaustive", "<think>"),
        ({"reasoning_effort": "low"}, f"S{USER}", "<think>"),
        ({"enable_thinking": False}, f"S{USER}", "</think>"),
        ({"reasoning_effort": "none"}, f"S{USER}", "</think>"),
    ],
)
def test_v4_effort(options: dict[str, Any], head: str, end: str) -> None:
    text = render("deepseek_v4", [Message("system", "S"), Message("user", "u")], **options)
    assert text.startswith(BOS + head)
    assert text.endswith(f"S{USER}u{ASSISTANT}{end}")


@pytest.mark.parametrize(("effort", "number"), [(None, 75), ("low", 50), ("medium", 75), ("high", 75), ("max", 100), (33, 33)])
def test_v41_effort(effort: Any, number: int) -> None:
    text = render("deepseek_v41", [Message("user", "u")], reasoning_effort=effort)
    line = f"Reasoning Effort: {number} (range 1-100, the higher the value, the more thorough the reasoning)\n\n"
    assert text == f"{BOS}<｜System｜>{line}{USER}u{ASSISTANT}<think>"


@pytest.mark.parametrize("effort", [0, 101, "huge", True, 2.5, ["high"], {"high": 1}])
def test_v41_refuses_other_efforts(effort: Any) -> None:
    with pytest.raises(RequestError, match="reasoning_effort"):
        render("deepseek_v41", [Message("user", "u")], reasoning_effort=effort)


@pytest.mark.parametrize("name", ["deepseek_v4", "kimi_k3"])
@pytest.mark.parametrize("effort", [50, "huge", ["high"], {}])
def test_unknown_efforts_are_refused(name: str, effort: Any) -> None:
    with pytest.raises(RequestError, match="reasoning_effort must be one of minimal, low, medium, high, xhigh, max, not"):
        render(name, [Message("user", "u")], reasoning_effort=effort)


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_a_switch_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="enable_thinking must be true or false, not 'false'"):
        render(name, [Message("user", "u")], enable_thinking="false")


@pytest.mark.parametrize(
    ("effort", "level"),
    [
        (None, "max"),
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "high"),
        ("high", "high"),
        ("xhigh", "max"),
        ("none", "max"),
    ],
)
def test_k3_effort(effort: str | None, level: str) -> None:
    """Its levels are low, high and max; the names between mean what they mean on the vendor's service."""
    text = render("kimi_k3", [Message("user", "u")], reasoning_effort=effort, enable_thinking=True)
    assert f"with `thinking_effort={level}`." in text


@pytest.mark.parametrize(("name", "space", "empty"), [("deepseek_v4", "", ""), ("deepseek_v41", " ", "\n")])
def test_v4_calls(name: str, space: str, empty: str) -> None:
    text = render(name, CALLED, [TOOL], reasoning_effort="low")
    outer = " calls" if space else "tool_calls"
    invoke, parameter = f"{space}invoke", f"{space}parameter"
    assert f"### Available Tool Schemas\n\n{SCHEMA}\n\nYou MUST strictly follow" in text
    assert text.endswith(
        f"to invoke tool calls.\n{USER}u{ASSISTANT}<think>r</think>a\n\n<｜DSML｜{outer}>\n"
        f'<｜DSML｜{invoke} name="f">\n<｜DSML｜{parameter} name="s" string="true">x<y</｜DSML｜{parameter}>\n'
        f'<｜DSML｜{parameter} name="n" string="false">5</｜DSML｜{parameter}>\n'
        f'<｜DSML｜{parameter} name="o" string="false">{{"k": [1, 2.0, null]}}</｜DSML｜{parameter}>\n</｜DSML｜{invoke}>\n'
        f'<｜DSML｜{invoke} name="f">\n{empty}</｜DSML｜{invoke}>\n</｜DSML｜{outer}>{EOS}{USER}'
        f"<tool_result>first</tool_result>\n\n<tool_result>second</tool_result>{ASSISTANT}<think>"
    )


def test_v4_drops_thinking_without_tools() -> None:
    messages = [Message("user", "a"), Message("assistant", "b", "r"), Message("user", "c")]
    text = render("deepseek_v4", messages, reasoning_effort="low")
    assert text == f"{BOS}{USER}a{ASSISTANT}</think>b{EOS}{USER}c{ASSISTANT}<think>"


def test_k3_turns() -> None:
    messages = [Message("system", "S"), *CALLED, Message("assistant", "done", " "), Message("user", 'q "x"', name='n"&')]
    text = render("kimi_k3", messages, [TOOL], reasoning_effort="low", tool_choice="required")
    declared = (
        '[{"function":{"description":"does é","name":"f","parameters":{"properties":{"s":{"type":"string"}},"type":"object"}},'
        '"type":"function"}]'
    )
    end = "<|close|>message<|sep|><|end_of_msg|>"
    assert text == (
        '<|open|>message role="system" type="tool-declare"<|sep|># Tools\nHere are the available tools, described in '
        f"JSONSchema.\n\n```json\n{declared}\n```{end}"
        '<|open|>message role="system" type="thinking-effort"<|sep|>`thinking_effort` guides on how much to think in your '
        "thinking channel (not including the response channel), supported values include `low`, `medium`, `high`, and `max`.\n"
        f"Now the system is invoked with `thinking_effort=low`.{end}"
        f'<|open|>message role="system"<|sep|>S{end}<|open|>message role="user"<|sep|>u{end}'
        '<|open|>message role="assistant"<|sep|><|open|>think<|sep|>r<|close|>think<|sep|><|open|>response<|sep|>a'
        '<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool="f" index="1"<|sep|>'
        '<|open|>argument key="s" type="string"<|sep|>x<y<|close|>argument<|sep|>'
        '<|open|>argument key="n" type="number"<|sep|>5<|close|>argument<|sep|>'
        '<|open|>argument key="o" type="object"<|sep|>{"k": [1, 2.0, null]}<|close|>argument<|sep|><|close|>call<|sep|>'
        f'<|open|>call tool="f" index="2"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>{end}'
        f'<|open|>message role="tool" tool="f" index="1"<|sep|>first{end}'
        f'<|open|>message role="tool" tool="f" index="2"<|sep|>second{end}'
        '<|open|>message role="assistant"<|sep|><|open|>think<|sep|><|close|>think<|sep|><|open|>response<|sep|>done'
        f"<|close|>response<|sep|>{end}"
        f'<|open|>message role="user" name="n&quot;&amp;"<|sep|>q "x"{end}'
        '<|open|>message role="system" type="tool-choice"<|sep|>The system is invoked with `tool_choice=required`.\n'
        f"You MUST call tools in the next message.{end}"
        '<|open|>message role="assistant"<|sep|><|open|>think<|sep|>'
    )


def test_k3_without_thinking() -> None:
    text = render("kimi_k3", [Message("user", "u"), Message("assistant", "a", "r")], thinking=False)
    end = "<|close|>message<|sep|><|end_of_msg|>"
    assert text == (
        f'<|open|>message role="user"<|sep|>u{end}<|open|>message role="assistant"<|sep|><|open|>response<|sep|>a'
        f'<|close|>response<|sep|>{end}<|open|>message role="assistant"<|sep|><|open|>response<|sep|>'
    )


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_what_is_written_is_read_back(name: str) -> None:
    """The calls of a rendered assistant's message, routed as an answer, are the calls again."""
    empty = render(name, CALLED[:1], [TOOL], thinking=True, reasoning_effort="low")
    full = render(name, CALLED[:2], [TOOL], thinking=True, reasoning_effort="low", add_generation_prompt=False)
    assert full.startswith(empty)
    router = Router(dialect_for(name, None), [TOOL], in_reasoning=True)
    events = [*router.push(full[len(empty) :].removesuffix(EOS)), *router.finish()]
    ends = [event for event in events if isinstance(event, ToolCallEnd)]
    assert [json.loads(end.arguments) for end in ends] == [json.loads(call.arguments) for call in CALLED[1].tool_calls]
    assert all(end.error is None for end in ends)


def conversation(draw: random.Random) -> list[Message]:
    words = ["a", "hé <b>", "line\n\nline", "<think>", "  sp "]
    messages = [Message("system", draw.choice(words))] if draw.random() < 0.6 else []
    count = 0
    for _ in range(draw.randint(1, 4)):
        messages += [Message("user", draw.choice(words)) for _ in range(draw.choice([1, 1, 1, 2]))]
        if draw.random() < 0.2:
            messages.append(Message("system", draw.choice(words)))
        while draw.random() < 0.5:
            values = [1, 2.5, True, None, "s", 'q"\n', [1, "a"], {"z": 1, "a": [{}]}]
            picks = [{key: draw.choice(values) for key in "abé"[: draw.randint(0, 3)]} for _ in range(draw.randint(1, 3))]
            calls = tuple(ToolCall(f"id{count + i:04}", draw.choice("fg"), json.dumps(pick)) for i, pick in enumerate(picks))
            count += len(calls)
            messages.append(Message("assistant", draw.choice(words), draw.choice([None, "", "r\n2"]), calls))
            results = [Message("tool", draw.choice(words), tool_call_id=call.id) for call in calls]
            messages += draw.sample(results, len(results))
        messages.append(Message("assistant", draw.choice(words), draw.choice([None, "", "r1"])))
    return [*messages, Message("user", "end")]


SCHEMA_OF_ANSWER = {"type": "object", "properties": {"é": {"type": "integer"}, "a": {"enum": ["<b>", None]}}}


def asked(schema: Any) -> Any:
    """The `response_format` of OpenAI's API that asks for a schema, or for any object."""
    whole = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return schema if schema in (None, {"type": "json_object"}) else whole


def test_v4_says_what_form_the_answer_has() -> None:
    messages = [Message("user", "u")]
    words = "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
    schema = '{"type": "object", "properties": {"é": {"type": "integer"}, "a": {"enum": ["<b>", null]}}}'
    for name, start in (("deepseek_v4", BOS), ("deepseek_v41", f"{BOS}<｜System｜>")):
        text = render(name, messages, thinking=False, response_format=asked(SCHEMA_OF_ANSWER))
        assert text == f"{start}{words}{schema}{USER}u{ASSISTANT}</think>"
        assert render(name, messages, response_format={"type": "text"}) == render(name, messages)
    any_object = {"response_format": {"type": "json_object"}, "thinking": False}
    assert 'to reply:\n{"type": "json_object"}<｜User｜>' in render("deepseek_v41", messages, **any_object)
    assert render("deepseek_v4", messages, **any_object) == (
        f"{BOS}\n\nYou are a helpful assistant designed to output JSON.\n## Response Format:\n\n"
        f"Reply with JSON object ONLY.{USER}u{ASSISTANT}</think>"
    )


NO_FORMS: list[Any] = [{"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": 3}, "json", 3]


@pytest.mark.parametrize("form", NO_FORMS)
def test_a_form_that_is_none_is_refused(form: Any) -> None:
    for name in ("deepseek_v32", "deepseek_v4", "deepseek_v41", "kimi_k3"):
        with pytest.raises(RequestError, match="response_format is neither text, json_object nor json_schema with a schema"):
            render(name, [Message("user", "u")], response_format=form)


def vendors(package: str, file: str) -> Any:
    """The copy of a vendor's encoder that a package carries, by itself: without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip(f"{package}, which carries the vendor's encoder, is not installed")
    path = Path(spec.submodule_search_locations[0]) / file
    found = importlib.util.spec_from_file_location(path.stem + "_of_the_vendor", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


def unfinished(draw: random.Random) -> list[Message]:
    """A conversation that ends with a user's question or with the results of tools."""
    messages = conversation(draw)
    last = max((place for place, message in enumerate(messages) if message.role == "tool"), default=None)
    return messages[: last + 1] if last is not None and draw.random() < 0.5 else messages


def test_v32_equals_the_vendors_encoder() -> None:
    theirs = vendors("mlx_lm", "chat_templates/deepseek_v32.py")
    draw = random.Random(0)
    for _ in range(400):
        messages, thinking = unfinished(draw), draw.random() < 0.6
        tools = [TOOL, Tool("g")] if draw.random() < 0.5 else []
        schema = draw.choice([None, None, SCHEMA_OF_ANSWER, {"type": "json_object"}])
        plain = [message_dict(message, objects=False) for message in messages]
        if tools or schema:
            if plain[0]["role"] != "system":
                plain.insert(0, {"role": "system", "content": ""})
            plain[0] |= {"tools": [tool_dict(tool) for tool in tools], "response_format": schema}
        wanted = theirs.encode_messages(plain, thinking_mode="thinking" if thinking else "chat")
        assert render("deepseek_v32", messages, tools, thinking=thinking, response_format=asked(schema)) == wanted


def test_k3_equals_the_vendors_encoder() -> None:
    theirs = vendors("mlx_vlm", "models/kimi_k3/encoding_k3.py")
    draw = random.Random(0)
    for _ in range(400):
        messages, thinking, effort = unfinished(draw), draw.random() < 0.6, draw.choice(["low", "high", "max"])
        tools, choice = ([TOOL, Tool("g")], draw.choice([None, "required", "none"])) if draw.random() < 0.5 else ([], None)
        form = asked(draw.choice([None, None, SCHEMA_OF_ANSWER, {"type": "json_object"}]))
        segments = theirs.build_chat_segments(
            [message_dict(message, objects=False) for message in messages],
            [tool_dict(tool) for tool in tools],
            thinking=thinking,
            thinking_effort=effort,
            tool_choice=choice,
            response_format=form,
        )
        options = {"thinking": thinking, "reasoning_effort": effort, "tool_choice": choice, "response_format": form}
        text = render("kimi_k3", messages, tools, **options)
        assert text == "".join(segment.text for segment in segments)


@pytest.mark.parametrize("name", ["deepseek_v4", "deepseek_v41"])
def test_v4_equals_the_vendors_package(name: str) -> None:
    recipe = pytest.importorskip("deepseek_recipe", reason="the vendor's package deepseek-recipe is not installed")
    encoder = recipe.DeepseekV4Encoding() if name == "deepseek_v4" else recipe.DeepseekV41Encoding()

    def theirs(message: Message) -> Any:
        if message.role == "assistant":
            calls = [recipe.ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls]
            return recipe.AssistantMessage(message.content, message.reasoning, calls or None)
        if message.role == "tool":
            return recipe.ToolMessage(message.content, message.tool_call_id)
        return {"system": recipe.SystemMessage, "user": recipe.UserMessage}[message.role](message.content)

    draw = random.Random(0)
    for _ in range(400):
        messages, thinking, effort = conversation(draw), draw.random() < 0.6, draw.choice([None, "low", "high", "max"])
        tools = [TOOL, Tool("g")] if draw.random() < 0.5 else []
        schema = draw.choice([None, None, SCHEMA_OF_ANSWER, {"type": "json_object"}])
        form = {"response_format": "json_object"} if schema == {"type": "json_object"} else {"response_schema": schema}
        wanted = encoder.render_conversation(
            recipe.Conversation(
                [theirs(message) for message in messages],
                thinking_mode=thinking,
                reasoning_effort=effort,
                tools=[recipe.ToolDefinition(tool.name, tool.description, dict(tool.parameters)) for tool in tools],
                **form,
            )
        ).prompt
        options = {"thinking": thinking, "reasoning_effort": effort, "response_format": asked(schema)}
        assert render(name, messages, tools, **options) == wanted
