"""The official Anthropic client over a real socket."""

from __future__ import annotations

import json

import anthropic
import pytest

from parity.serve.anthropic.asking import messages_ask
from parity.serve.anthropic.types import MessagesRequest
from parity.serve.wire import parse

from .scripted import ScriptedService, make_desk
from .test_openai import SCRIPT

WEATHER = {"name": "weather", "description": "of a city", "input_schema": {"type": "object"}}


@pytest.fixture
def service():
    return ScriptedService(SCRIPT)


@pytest.fixture
def client(serve, service):
    with anthropic.Anthropic(base_url=serve(service), api_key="none", max_retries=0) as client:
        yield client


def user(text):
    return [{"role": "user", "content": text}]


def test_text(client):
    answer = client.messages.create(model="scripted", max_tokens=50, system="be brief", messages=user("x"))
    assert [block.text for block in answer.content] == ["hello"]
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens == 6


def test_stream_events_come_in_order(client):
    with client.messages.stream(model="scripted", max_tokens=90, messages=user("weather"), tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    kinds = [kind for kind in kinds if kind not in ("text", "input_json", "thinking")]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    starts = [index for index, kind in enumerate(kinds) if kind == "content_block_start"]
    stops = [index for index, kind in enumerate(kinds) if kind == "content_block_stop"]
    assert len(starts) == len(stops) == 2
    assert starts[0] < stops[0] < starts[1] < stops[1]
    assert [block.type for block in final.content] == ["text", "tool_use"]
    assert final.content[1].input == {"city": "Rome"}
    assert final.stop_reason == "tool_use"


def test_tools_to_completion_in_two_turns(client):
    messages = user("What is the weather?")
    first = client.messages.create(model="scripted", max_tokens=90, messages=messages, tools=[WEATHER])
    call = first.content[-1]
    messages.append({"role": "assistant", "content": first.content})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny"}]}
    messages.append({"role": "user", "content": [result]})
    second = client.messages.create(model="scripted", max_tokens=90, messages=messages, tools=[WEATHER])
    assert second.content[0].text == "It is sunny."


def test_thinking_is_a_block_and_comes_back(client, service):
    thinking = {"type": "enabled", "budget_tokens": 20}
    first = client.messages.create(model="scripted", max_tokens=50, messages=user("ponder"), thinking=thinking)
    assert [block.type for block in first.content] == ["thinking", "text"]
    assert first.content[0].thinking == "hmm"
    messages = [*user("ponder"), {"role": "assistant", "content": first.content}, *user("go on")]
    client.messages.create(model="scripted", max_tokens=50, messages=messages)
    prompt = bytes(token for token in service.seen[-1].tokens if token < 256).decode()
    assert "assistant:Yes. [thought hmm]" in prompt


def test_thinking_streams_with_its_signature(client):
    with client.messages.stream(model="scripted", max_tokens=50, messages=user("ponder")) as stream:
        final = stream.get_final_message()
    assert final.content[0].thinking == "hmm"
    assert final.content[0].signature


def test_a_thinking_budget_closes_the_thought(serve, anthropic_at):
    service = ScriptedService(lambda prompt: "never ending thought " * 20)
    client = anthropic_at(serve(service, default_template=(("opens_thought", True),)))
    answer = client.messages.create(
        model="scripted", max_tokens=60, messages=user("x"), thinking={"type": "enabled", "budget_tokens": 10}
    )
    assert answer.content[0].thinking == "never endi"
    assert answer.content[1].type == "text"


def test_a_thought_that_was_encrypted_elsewhere_is_left_out(client, service):
    def asked(*thoughts):
        turns = [*user("ponder"), {"role": "assistant", "content": [*thoughts, {"type": "text", "text": "yes"}]}, *user("x")]
        client.messages.create(model="scripted", max_tokens=5, messages=turns)
        return service.seen[-1].tokens

    assert asked({"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3p"}) == asked()
    block = {"type": "redacted_thinking", "data": "x"}
    with pytest.raises(anthropic.BadRequestError, match="a redacted_thinking block cannot be in a message of the role user"):
        client.messages.create(model="scripted", max_tokens=5, messages=[{"role": "user", "content": [block]}])


def test_a_block_has_no_more_than_it_needs(client):
    answer = client.messages.with_raw_response.create(model="scripted", max_tokens=50, messages=user("x"))
    (block,) = json.loads(answer.text())["content"]
    assert set(block) == {"type", "text"}


def test_stop_sequences(client):
    answer = client.messages.create(model="scripted", max_tokens=50, messages=user("long"), stop_sequences=["45"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "45")


def test_max_tokens(client):
    answer = client.messages.create(model="scripted", max_tokens=5, messages=user("long"))
    assert (answer.stop_reason, answer.content[0].text) == ("max_tokens", "01234")


def test_system_blocks_and_cache_marks(client, service):
    client.messages.create(
        model="scripted",
        max_tokens=5,
        system=[{"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "two"}],
        messages=user("x"),
        metadata={"user_id": "u"},
    )
    prompt = bytes(token for token in service.seen[-1].tokens if token < 256).decode()
    assert "system:one\ntwo\nuser:x" in prompt


def test_count_tokens_is_what_a_message_costs(client):
    count = client.messages.count_tokens(model="scripted", messages=user("x"), tools=[WEATHER]).input_tokens
    answer = client.messages.create(model="scripted", max_tokens=5, messages=user("x"), tools=[WEATHER])
    assert answer.usage.input_tokens == count


def test_structured_output(client):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
    answer = client.messages.create(
        model="scripted",
        max_tokens=90,
        messages=user("x"),
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    assert answer.content[0].text == '{"a":""}'


def test_the_answer_goes_on_with_a_last_message_of_the_assistant():
    def ask(*messages):
        body = parse(json.dumps({"model": "scripted", "max_tokens": 9, "messages": messages}).encode(), MessagesRequest)
        return messages_ask(body, make_desk(ScriptedService(), port=0))

    question, begun = {"role": "user", "content": "x"}, {"role": "assistant", "content": "It is"}
    assert ask(question, begun).continue_last
    assert not ask(question, begun, question).continue_last


def test_a_prompt_that_does_not_fit_is_told_in_the_words_that_agents_look_for(client):
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 4095"):
        client.messages.create(model="scripted", max_tokens=9, messages=user("x" * 5000))


def test_models(client):
    (model,) = client.models.list()
    assert (model.id, model.created_at.isoformat()) == ("scripted", "2023-11-14T22:13:20+00:00")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, r"content\[0\].type: 'image' is not"),
        ({"extra_body": {"container": "x"}}, "container is not supported"),
        ({"extra_body": {"wings": 2}}, r"wings is not a field that is supported here\b(?!;)"),
        ({"extra_body": {"stop": ["x"]}}, r"stop is not a field .* did you mean stop_sequences\?"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "input_schema": {}}]}, r"tools\[0\].type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "budget_tokens must be at least 1 and below max_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort: 'huge' is not one of high, low, max, medium, xhigh"),
        ({"extra_body": {"temperature": -1}}, "temperature must be between 0 and 100"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]}, "tool_use"),
    ],
)
def test_refusals_name_the_field(client, more, text):
    with pytest.raises(anthropic.BadRequestError, match=text):
        client.messages.create(**({"model": "scripted", "max_tokens": 50, "messages": user("x")} | more))
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="other", max_tokens=50, messages=user("x"))
