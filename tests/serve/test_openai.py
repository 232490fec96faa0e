"""The official OpenAI client over a real socket."""

from __future__ import annotations

import json

import openai
import pydantic
import pytest

from parity.core.errors import RequestError
from parity.serve.openai.asking import chat_ask
from parity.serve.openai.chat_types import ChatRequest
from parity.serve.wire import parse

from .scripted import ScriptedService, answering, make_desk

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SCRIPT = answering(
    {
        "tool:sunny": "It is sunny.",
        "twice": '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
        '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>',
        "dice": '<tool_call>{"name": "weather", "arguments": {}}</tool_call>' * 9,
        "count": "".join(f'<tool_call>{{"name": "weather", "arguments": {{"n": {n}}}}}</tool_call>' for n in range(99)),
        "weather": 'Let me see.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>',
        "ponder": "<think>hmm</think>Yes.",
        "long": "0123456789" * 20,
        "ünïcode": "grüße 👋",
    }
)


@pytest.fixture
def client(serve):
    with openai.OpenAI(base_url=serve(ScriptedService(SCRIPT)) + "/v1", api_key="none", max_retries=0) as client:
        yield client


def user(text):
    return [{"role": "user", "content": text}]


def test_models(client):
    assert [model.id for model in client.models.list()] == ["scripted"]
    assert client.models.retrieve("scripted").created == 1_700_000_000
    with pytest.raises(openai.NotFoundError, match="not served here; served: scripted"):
        client.models.retrieve("other/model")


def test_chat(client):
    answer = client.chat.completions.create(model="scripted", messages=user("ünïcode"))
    assert answer.choices[0].message.content == "grüße 👋"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len("grüße 👋".encode()) + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streams_the_same(client):
    whole = client.chat.completions.create(model="scripted", messages=user("ünïcode"))
    chunks = list(
        client.chat.completions.create(
            model="scripted", messages=user("ünïcode"), stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


def test_counts_that_go_on_are_in_every_chunk(client):
    options = {"stream": True, "stream_options": {"include_usage": True}, "extra_body": {"n": 2}}
    options["stream_options"]["continuous_usage_stats"] = True
    for chunks in (
        client.chat.completions.create(model="scripted", messages=user("long"), max_tokens=3, **options),
        client.completions.create(model="scripted", prompt="user:long\nassistant:", max_tokens=3, **options),
    ):
        *parts, last = [chunk.usage for chunk in chunks]
        assert max(usage.completion_tokens for usage in parts) == 3
        assert (last.completion_tokens, last.prompt_tokens) == (6, parts[0].prompt_tokens or parts[-1].prompt_tokens)


def test_max_tokens_ends_with_length(client):
    answer = client.chat.completions.create(model="scripted", messages=user("long"), max_completion_tokens=7)
    assert answer.choices[0].message.content == "0123456"
    assert answer.choices[0].finish_reason == "length"


def test_stop_string_is_not_part_of_the_answer_and_ends_the_request(serve, openai_at):
    service = ScriptedService(SCRIPT, step_s=0.002)
    client = openai_at(serve(service))
    answer = client.chat.completions.create(model="scripted", messages=user("long"), stop=["45", "zz"])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].model_extra["stop_reason"] == "45"
    assert service.seen[0].id in service.aborted


def test_several_samples_are_separate(client):
    answer = client.chat.completions.create(model="scripted", messages=user("long"), n=3, max_tokens=4)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, "0123"), (1, "0123"), (2, "0123")]
    assert answer.usage.completion_tokens == 12
    texts = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(model="scripted", messages=user("long"), n=3, max_tokens=4, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "0123", 1: "0123", 2: "0123"}


def test_parameters_reach_the_engine(serve, openai_at):
    service = ScriptedService(SCRIPT)
    client = openai_at(serve(service))
    client.chat.completions.create(
        model="scripted",
        messages=user("long"),
        max_tokens=3,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logit_bias={"65": -100},
        extra_body={
            "top_k": 5,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "min_tokens": 1,
            "stop_token_ids": [9],
            "ignore_eos": True,
        },
    )
    params = service.seen[0].params
    assert (params.temperature, params.top_p, params.seed, params.top_k, params.min_p) == (0.5, 0.9, 7, 5, 0.05)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.1, 0.2, 1.1)
    assert (params.logit_bias, params.min_tokens, params.stop_token_ids, params.ignore_eos) == ({65: -100}, 1, (9,), True)


def test_the_models_defaults_hold_where_nothing_is_given(serve, openai_at):
    service = ScriptedService(SCRIPT)
    client = openai_at(serve(service))
    client.chat.completions.create(model="scripted", messages=user("x"))
    assert service.seen[0].params.temperature == 0.0


def test_logprobs(client):
    answer = client.chat.completions.create(model="scripted", messages=user("x"), logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == "hello"
    assert [len(entry.top_logprobs) for entry in content] == [2] * 5
    assert content[0].bytes == [ord("h")]
    assert content[0].logprob == -0.5


def test_reasoning_comes_apart(client):
    answer = client.chat.completions.create(model="scripted", messages=user("ponder"))
    assert answer.choices[0].message.content == "Yes."
    assert answer.choices[0].message.model_extra["reasoning_content"] == "hmm"


def test_tools_to_completion_in_two_turns(client):
    messages = user("What is the weather?")
    first = client.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER])
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = first.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')
    messages.append(first.choices[0].message.model_dump(exclude_none=True))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    second = client.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER])
    assert second.choices[0].message.content == "It is sunny."


def test_streamed_calls_add_up(client):
    calls: dict[int, list[str]] = {}
    for chunk in client.chat.completions.create(model="scripted", messages=user("twice"), tools=[WEATHER], stream=True):
        for delta in chunk.choices[0].delta.tool_calls or ():
            calls.setdefault(delta.index, []).append(delta.function.arguments or "")
        reason = chunk.choices[0].finish_reason
    assert {index: "".join(parts) for index, parts in calls.items()} == {0: '{"city": "Rome"}', 1: '{"city": "Oslo"}'}
    assert reason == "tool_calls"


@pytest.mark.parametrize(("text", "num_calls"), [("dice", 4), ("count", 64)])
def test_calls_without_end_are_ended(client, text, num_calls):
    choice = client.chat.completions.create(model="scripted", messages=user(text), tools=[WEATHER]).choices[0]
    assert (len(choice.message.tool_calls), choice.finish_reason) == (num_calls, "tool_calls")


def test_one_call_where_parallel_calls_are_off(serve, openai_at):
    service = ScriptedService(SCRIPT, step_s=0.002)
    client = openai_at(serve(service))
    answer = client.chat.completions.create(
        model="scripted", messages=user("twice"), tools=[WEATHER], parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls) == 1
    assert service.seen[0].id in service.aborted


class City(pydantic.BaseModel):
    name: str
    people: int


def test_structured_output_parses_into_a_typed_object(client):
    answer = client.chat.completions.parse(model="scripted", messages=user("a city"), response_format=City)
    assert isinstance(answer.choices[0].message.parsed, City)


def test_json_object_regex_choice_and_grammar(client):
    def ask(**more):
        return client.chat.completions.create(model="scripted", messages=user("x"), **more).choices[0].message.content

    assert ask(response_format={"type": "json_object"}).startswith("{")
    assert ask(extra_body={"structured_outputs": {"regex": "[0-9]{3}"}}) == "000"
    assert ask(extra_body={"structured_outputs": {"choice": ["no", "never"]}}) in ("no", "never")
    assert ask(extra_body={"structured_outputs": {"grammar": 'start: "ab" | "ac"'}}) in ("ab", "ac")


def test_completions(client):
    answer = client.completions.create(model="scripted", prompt="x", max_tokens=3)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("hel", "length")
    several = client.completions.create(model="scripted", prompt=["x", "long"], max_tokens=2, n=2)
    assert [choice.text for choice in several.choices] == ["he", "he", "01", "01"]
    assert several.usage.prompt_tokens == 5
    tokens = client.completions.create(model="scripted", prompt=[120, 121], max_tokens=2)
    assert tokens.usage.prompt_tokens == 2


def test_completions_score_a_prompt(client):
    answer = client.completions.create(model="scripted", prompt="abc", max_tokens=0, echo=True, logprobs=1)
    assert answer.choices[0].text == "abc"
    assert answer.choices[0].logprobs.tokens == ["a", "b", "c"]
    assert answer.choices[0].logprobs.token_logprobs == [None, -0.5, -0.5]
    asked = {"model": "scripted", "prompt": "abc", "max_tokens": 1, "extra_body": {"prompt_logprobs": 1}}
    first, *others = client.completions.create(**asked).choices[0].model_extra["prompt_logprobs"]
    assert first is None
    assert [entry[str(ord(letter))] for entry, letter in zip(others, "bc", strict=True)] == [
        {"logprob": -0.5, "rank": 1, "decoded_token": letter} for letter in "bc"
    ]
    with pytest.raises(openai.BadRequestError, match="prompt_logprobs cannot be streamed"):
        client.completions.create(**asked, stream=True)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"prompt": [1, 2]}, "suffix needs a prompt that is a text"),
        ({"echo": True}, "echo cannot be given with suffix"),
        ({"extra_body": {"prompt_logprobs": 1}}, "prompt_logprobs cannot be given with suffix"),
    ],
)
def test_a_gap_has_a_text_on_each_side(client, more, text):
    with pytest.raises(openai.BadRequestError, match=text):
        client.completions.create(**({"model": "scripted", "prompt": "a", "suffix": "b"} | more))


def test_completions_stream(client):
    chunks = list(client.completions.create(model="scripted", prompt="x", max_tokens=10, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "hello"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_embeddings_are_refused_by_a_model_not_made_for_them(client):
    with pytest.raises(openai.BadRequestError, match="scripted is not made for embeddings"):
        client.embeddings.create(model="scripted", input="x")


def test_embeddings(serve, openai_at):
    from dataclasses import replace

    from .scripted import INFO

    service = ScriptedService(info=replace(INFO, embeds=True))
    client = openai_at(serve(service))
    answer = client.embeddings.create(model="scripted", input=["one", "three"])  # the client asks for base64 here
    assert [len(item.embedding) for item in answer.data] == [8, 8]
    assert sum(value * value for value in answer.data[0].embedding) == pytest.approx(1.0, abs=1e-6)
    short = client.embeddings.create(model="scripted", input="one", dimensions=2, encoding_format="float")
    assert len(short.data[0].embedding) == 2
    assert sum(value * value for value in short.data[0].embedding) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    "same",
    [
        {"best_of": 1, "use_beam_search": False, "priority": 0, "cache_prompt": True, "echo": False, "include_reasoning": True},
        {"skip_special_tokens": True, "spaces_between_special_tokens": True, "include_stop_str_in_output": False},
        {"add_special_tokens": False},
    ],
)
def test_what_other_servers_can_be_told_is_taken_where_it_is_what_is_done(client, same):
    answer = client.chat.completions.create(model="scripted", messages=user("ünïcode"), extra_body=same)
    assert answer.choices[0].message.content == "grüße 👋"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ({"skip_special_tokens": False}, "skip_special_tokens: false is not supported, only true"),
        ({"best_of": 2}, "best_of: 2 is not supported, only 1"),
        ({"guided_json": {}}, r"guided_json is not a field .* did you mean structured_outputs.json\?"),
        ({"tempreature": 1}, r"tempreature is not a field .* did you mean temperature\?"),
        ({"wings": 2}, r"wings is not a field that is supported here\b(?!;)"),
        ({"thinking": {"type": "auto"}}, "thinking.type: 'auto' is not supported"),
    ],
)
def test_what_is_not_done_is_refused_and_what_was_meant_is_named(client, field, text):
    with pytest.raises(openai.BadRequestError, match=text):
        client.chat.completions.create(model="scripted", messages=user("x"), extra_body=field)


def chat(*messages, **more):
    body = {"model": "scripted", "messages": messages or user("x"), **more}
    return chat_ask(parse(json.dumps(body).encode(), ChatRequest), make_desk(ScriptedService(), port=0))


@pytest.mark.parametrize("more", [{"thinking": {"type": "disabled"}}, {"enable_thinking": False}, {"reasoning_effort": "none"}])
def test_thinking_is_switched_as_the_vendors_services_are_told(more):
    assert chat(**more).template == {"enable_thinking": False}


@pytest.mark.parametrize("mark", ["prefix", "partial"])
def test_an_answer_is_begun_as_the_vendors_services_are_told(mark):
    begun = {"role": "assistant", "content": "It is", mark: True}
    assert chat(*user("x"), begun).continue_last
    with pytest.raises(RequestError, match="last message only") as refused:
        chat(begun, *user("x"))
    assert refused.value.field == "messages[0]"


def test_a_prompt_that_fills_the_context_may_be_scored(client):
    full = {"model": "scripted", "prompt": [1] * 4096, "echo": True, "logprobs": 0}
    answer = client.completions.create(**full, max_tokens=0)
    assert len(answer.choices[0].logprobs.token_logprobs) == 4096
    for longer in (full | {"max_tokens": 1}, full | {"max_tokens": 0, "prompt": [1] * 4097}):
        with pytest.raises(openai.BadRequestError, match="maximum context length is 4096 tokens"):
            client.completions.create(**longer)


def test_a_prompt_that_does_not_fit_is_told_in_the_words_that_agents_look_for(client):
    with pytest.raises(openai.BadRequestError, match="maximum context length is 4096 tokens"):
        client.chat.completions.create(model="scripted", messages=user("x" * 5000))
