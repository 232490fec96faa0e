"""`/v1/responses` with the official client."""

from __future__ import annotations

import openai
import pydantic
import pytest

from parity.core.chat import Message
from parity.serve.openai.responses_types import ResponseOut
from parity.serve.openai.store import Store, Stored

from .scripted import ScriptedService
from .test_openai import SCRIPT

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture
def client(serve):
    with openai.OpenAI(base_url=serve(ScriptedService(SCRIPT)) + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_text(client):
    answer = client.responses.create(model="scripted", input="x", instructions="be brief", metadata={"a": "b"})
    assert (answer.output_text, answer.status, answer.instructions) == ("hello", "completed", "be brief")
    assert answer.usage.output_tokens == 6
    assert answer.metadata == {"a": "b"}


def test_reasoning_is_an_item_of_its_own(client):
    answer = client.responses.create(model="scripted", input="ponder", reasoning={"effort": "high"})
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == "hmm"
    assert answer.usage.output_tokens_details.reasoning_tokens > 0


def test_events_come_in_order_and_add_up(client):
    with client.responses.stream(model="scripted", input="weather", tools=[WEATHER]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    numbers = [event.sequence_number for event in events if hasattr(event, "sequence_number")]
    assert numbers == sorted(numbers)
    assert [item.type for item in final.output] == ["message", "function_call"]
    assert final.output[1].arguments == '{"city": "Rome"}'


def test_tools_to_completion_by_previous_response(client):
    first = client.responses.create(model="scripted", input="What is the weather?", tools=[WEATHER])
    call = next(item for item in first.output if item.type == "function_call")
    second = client.responses.create(
        model="scripted",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
        tools=[WEATHER],
    )
    assert second.output_text == "It is sunny."


def test_tools_to_completion_without_the_store(client):
    given = [{"role": "user", "content": "What is the weather?"}]
    first = client.responses.create(model="scripted", input=given, tools=[WEATHER], store=False)
    given += [item.model_dump(exclude_none=True) for item in first.output]
    given.append({"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "sunny"})
    second = client.responses.create(model="scripted", input=given, tools=[WEATHER], store=False)
    assert second.output_text == "It is sunny."
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="scripted", previous_response_id=first.id, input="x")


def test_retrieve_and_delete(client):
    answer = client.responses.create(model="scripted", input="x")
    assert client.responses.retrieve(answer.id).output_text == "hello"
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError, match="no stored response"):
        client.responses.retrieve(answer.id)


def test_what_was_asked_can_be_read(client):
    answer = client.responses.create(model="scripted", input="x", instructions="be brief")
    (item,) = client.responses.input_items.list(answer.id)
    assert (item.type, item.role, item.content[0].type, item.content[0].text) == ("message", "user", "input_text", "x")
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "What is the weather?"}]},
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "id": "fc_1", "call_id": "call_0", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_0", "output": "sunny"},
    ]
    answer = client.responses.create(model="scripted", input=given, tools=[WEATHER])
    items = list(client.responses.input_items.list(answer.id, order="asc", limit=3))  # of which the client asks for two pages
    assert [item.type for item in items] == ["message", "message", "function_call", "function_call_output"]
    assert items[1].content[0].text == "I look."
    assert items[2].id == "fc_1"
    assert len({item.id for item in items}) == 4
    assert [item.id for item in client.responses.input_items.list(answer.id)] == [item.id for item in reversed(items)]
    for query, text in (({"limit": 0}, "limit"), ({"order": "up"}, "order"), ({"after": "x"}, "no item 'x'")):
        with pytest.raises(openai.BadRequestError, match=text):
            client.responses.input_items.list(answer.id, **query)
    with pytest.raises(openai.NotFoundError, match="no stored response"):
        client.responses.input_items.list("resp_0")


def test_a_stored_response_is_not_streamed(client):
    answer = client.responses.create(model="scripted", input="x")
    with pytest.raises(openai.BadRequestError, match="given whole"):
        client.responses.retrieve(answer.id, stream=True)


def test_prompt_tokens_are_counted(client):
    ask = {"model": "scripted", "input": "What is the weather?", "tools": [WEATHER]}
    answer = client.responses.create(**ask)
    assert client.responses.input_tokens.count(**ask).input_tokens == answer.usage.input_tokens
    then = {"previous_response_id": answer.id, "model": "scripted"}
    assert client.responses.input_tokens.count(**then).input_tokens > answer.usage.input_tokens


def test_length_is_incomplete(client):
    answer = client.responses.create(model="scripted", input="long", max_output_tokens=5)
    assert (answer.status, answer.incomplete_details.reason, answer.output_text) == ("incomplete", "max_output_tokens", "01234")


class City(pydantic.BaseModel):
    name: str


def test_structured_output(client):
    answer = client.responses.parse(model="scripted", input="a city", text_format=City)
    assert isinstance(answer.output_parsed, City)


def test_the_store_is_bounded(serve, openai_at):
    client = openai_at(serve(ScriptedService(SCRIPT), max_stored_responses=2))
    ids = [client.responses.create(model="scripted", input="x").id for _ in range(3)]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(ids[0])
    assert client.responses.retrieve(ids[2]).id == ids[2]


def test_what_a_store_holds_is_bounded_whatever_part_is_large():
    held = [Message("user", "x")]
    for large in ({"tools": [{"description": "x" * 400}]}, {"instructions": "x" * 400}, {"metadata": {"a": "x" * 400}}):
        store = Store(max_responses=9, max_bytes=2500)
        for number in range(4):
            known = {"tools": [], "output": [], "parallel_tool_calls": True, "tool_choice": "auto"}
            response = ResponseOut(id=str(number), created_at=0, model="m", status="completed", **{**known, **large})
            store.put(Stored("me", response, "x", tuple(held)))
        assert [store.get(str(number), "me") is not None for number in range(4)] == [False, False, True, True]
        assert store.delete("3", "me")
        assert len(store) == 1


def test_a_key_sees_its_own_responses_only(serve, openai_at):
    url = serve(ScriptedService(SCRIPT), api_keys=("one", "two"))
    one, two = (openai_at(url, key) for key in ("one", "two"))
    answer = one.responses.create(model="scripted", input="x")
    with pytest.raises(openai.NotFoundError):
        two.responses.retrieve(answer.id)


def test_unsupported_items_are_named(client):
    with pytest.raises(openai.BadRequestError, match=r"input\[0\]\.type: 'item_reference' is not supported"):
        client.responses.create(model="scripted", input=[{"type": "item_reference", "id": "x"}])
    with pytest.raises(openai.BadRequestError, match=r"tools\[0\]\.type: 'web_search' is not supported"):
        client.responses.create(model="scripted", input="x", tools=[{"type": "web_search"}])
    with pytest.raises(openai.BadRequestError, match="conversation is not supported"):
        client.responses.create(model="scripted", input="x", conversation={"id": "x"})
