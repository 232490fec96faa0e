"""The default model behind a real socket, with the official clients."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest

from parity.llm import LLM
from parity.serve.command import make_desk
from parity.serve.settings import Settings

from .conftest import serving, until

NAME = "default"
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def llm(default_model):
    with LLM(default_model, max_model_len=1024, num_pages=256) as llm:
        yield llm


@pytest.fixture(scope="module")
def url(llm):
    with serving(make_desk(llm.service, llm.chat_format, Settings(port=0, names=(NAME,))), closes=False) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        yield client


def greedy(client, text, **more):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=NAME, messages=messages, **({"temperature": 0, "max_tokens": 8} | more))


def test_a_chat_is_what_the_model_says_in_process(client, llm):
    answer = greedy(client, "Name a colour.", logprobs=True, top_logprobs=2)
    alone = llm.chat("Name a colour.", llm.params(temperature=0, max_tokens=8))
    assert answer.choices[0].message.content == alone.text
    assert answer.usage.completion_tokens == len(alone.tokens)
    content = answer.choices[0].logprobs.content
    assert all(entry.logprob == pytest.approx(entry.top_logprobs[0].logprob) for entry in content)
    streamed = greedy(client, "Name a colour.", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == alone.text


def test_tools_to_completion(client):
    tools = [{"type": "function", "function": TOOL}]
    first = greedy(
        client, "What is the weather in Rome?", tools=tools, tool_choice="required", parallel_tool_calls=False, max_tokens=60
    )
    (call,) = first.choices[0].message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls"
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
    messages = [
        {"role": "user", "content": "What is the weather in Rome?"},
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 25 degrees"},
    ]
    ask = {"model": NAME, "tools": tools, "temperature": 0, "max_tokens": 12}
    second = client.chat.completions.create(messages=messages, tool_choice="none", **ask)
    assert second.choices[0].message.content


def test_a_call_without_tags(client):
    tools = [{"type": "function", "function": TOOL}]
    choice = greedy(client, "What is the weather in Rome?", tools=tools, max_tokens=60).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    assert [call.function.arguments for call in choice.message.tool_calls] == ['{"city": "Rome"}']


def test_structured_output(client):
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "warm": {"type": "boolean"}},
        "required": ["colour", "warm"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    value = json.loads(greedy(client, "Is red warm?", response_format=form, max_tokens=60).choices[0].message.content)
    assert value["colour"] in ("red", "green")
    assert isinstance(value["warm"], bool)


def test_anthropic_and_responses(client, url):
    with anthropic.Anthropic(base_url=url, api_key="none", timeout=300) as other:
        ask = {"model": NAME, "messages": [{"role": "user", "content": "Say hi."}]}
        answer = other.messages.create(**ask, max_tokens=4)
        assert answer.usage.output_tokens <= 4
        assert (
            other.messages.count_tokens(**ask).input_tokens == answer.usage.input_tokens + answer.usage.cache_read_input_tokens
        )
    response = client.responses.create(model=NAME, input="Say hi.", max_output_tokens=4, temperature=0)
    assert response.usage.output_tokens <= 4


def test_completions_score_a_prompt(client, llm):
    answer = client.completions.create(model=NAME, prompt="def add(a, b):", max_tokens=0, echo=True, logprobs=1)
    scores = llm.score("def add(a, b):")
    got = answer.choices[0].logprobs.token_logprobs
    assert got[0] is None
    assert got[1:] == pytest.approx([entry.logprob for entry in scores], abs=1e-4)


def test_a_gap_is_filled(client, llm):
    prefix, suffix = "def add(a, b):\n    return ", "\n\nassert add(1, 2) == 3\n"
    ask = {"model": NAME, "temperature": 0, "max_tokens": 24}
    (choice,) = client.completions.create(prompt=prefix, suffix=suffix, **ask).choices
    raw = client.completions.create(prompt=f"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>", **ask)
    assert choice.text.startswith("a + b")
    assert choice.text == raw.choices[0].text
    again = client.completions.create(prompt=prefix, suffix=suffix, logit_bias={"151662": 100}, **ask)  # <|fim_pad|>
    assert (again.choices[0].text, again.choices[0].finish_reason) == ("", "stop")


def test_a_client_that_leaves_frees_its_pages(client, llm):
    stream = greedy(client, "Tell a very long story.", stream=True, max_tokens=500)
    next(iter(stream))
    stream.close()
    until(lambda: (llm.stats().num_running, llm.stats().num_pages_used) == (0, 0))


def test_what_the_context_cannot_hold(client):
    with pytest.raises(openai.BadRequestError, match="the maximum context length is 1024"):
        greedy(client, "word " * 2000)
