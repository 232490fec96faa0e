"""Prompts, streams and grammars over the default model's own tokenizer, template and dialect."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from parity.core.chat import Finished, Message, TextDelta, Tool, ToolCallEnd
from parity.core.errors import RequestError
from parity.core.request import Finish, Output, SamplingParams, Usage
from parity.hub import open_checkpoint
from parity.serve.asks import ANY_OBJECT, ChatAsk, JsonForm, LarkForm, RegexForm, TextAsk, ToolPolicy
from parity.serve.chat_words import ChatWords
from parity.serve.command import _grammars
from parity.text.chat import Chat
from parity.text.dialects import dialect_by_name
from parity.text.tokenizer import load_tokenizer

VOCAB_SIZE = 151936  # the model's logits are wider than its tokenizer
WEATHER = Tool(
    "weather",
    "of a city",
    {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}}, "required": ["city"]},
)
TIME = Tool("time")
MARKED = {"enum": ["<|im_end|>"]}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "unit": "c"}}\n</tool_call>'


@pytest.fixture(scope="module")
def chat(default_model):
    checkpoint = open_checkpoint(default_model)
    return Chat.of(load_tokenizer(checkpoint.text_source), "qwen2")


@pytest.fixture(scope="module")
def words(chat):
    return ChatWords(chat, VOCAB_SIZE)


@pytest.fixture(scope="module")
def compiled(words, chat):
    return _grammars(words, chat.tokenizer, frozenset(chat.tokenizer.eos_token_ids))


def user(text, **more):
    return ChatAsk((Message("user", text),), **more)


def test_a_prompt_is_the_templates(words, chat):
    prompt = words.chat_prompt(user("hi", tools=(WEATHER,), policy=ToolPolicy("auto")))
    assert prompt.tokens == chat.prompt([Message("user", "hi")], [WEATHER]).tokens
    without = words.chat_prompt(user("hi", tools=(WEATHER,), policy=ToolPolicy("none")))
    assert without.tokens == chat.prompt([Message("user", "hi")]).tokens


class Aware:
    """A template that has words for what is asked of the answer."""

    variables = frozenset(("tool_choice", "response_format"))

    def render(self, messages, tools=(), *, add_generation_prompt=True, **options):
        return json.dumps([[tool.name for tool in tools], options], ensure_ascii=False)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({}, [[], {}]),
        ({"tools": (WEATHER,)}, [["weather"], {}]),
        ({"tools": (WEATHER,), "policy": ToolPolicy("required")}, [["weather"], {"tool_choice": "required"}]),
        ({"tools": (WEATHER, TIME), "policy": ToolPolicy("required", "time")}, [["time"], {"tool_choice": "required"}]),
        ({"tools": (WEATHER,), "policy": ToolPolicy("none")}, [["weather"], {"tool_choice": "none"}]),
        ({"policy": ToolPolicy("none")}, [[], {}]),
        ({"form": JsonForm(ANY_OBJECT)}, [[], {"response_format": {"type": "json_object"}}]),
        ({"form": JsonForm(MARKED)}, [[], {"response_format": {"type": "json_schema", "json_schema": {"schema": MARKED}}}]),
        ({"form": RegexForm("a+")}, [[], {}]),
        ({"template": {"tool_choice": "auto"}, "tools": (WEATHER,)}, [["weather"], {"tool_choice": "auto"}]),
    ],
)
def test_a_template_that_has_words_for_it_hears_what_is_asked_of_the_answer(chat, ask, said):
    prompt = ChatWords(replace(chat, template=Aware()), VOCAB_SIZE).chat_prompt(user("hi", **ask))
    assert chat.tokenizer.decode(list(prompt.tokens), skip_special_tokens=False) == json.dumps(said)
    assert not set(prompt.tokens) & set(chat.tokenizer.special_tokens.values())


def test_an_answer_can_be_continued(words):
    messages = (Message("user", "Count."), Message("assistant", "One, two,"))
    prompt = words.chat_prompt(ChatAsk(messages, continue_last=True))
    assert words.decode(prompt.tokens, skip_special_tokens=False).endswith("<|im_start|>assistant\nOne, two,")
    with pytest.raises(RequestError, match="no text"):
        words.chat_prompt(ChatAsk((Message("user", " "),), continue_last=True))


def test_a_template_of_the_request(words):
    ask = user("hi", chat_template="{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert words.decode(words.chat_prompt(ask).tokens) == "[hi]"
    with pytest.raises(RequestError, match=r"too many steps|too long"):
        words.chat_prompt(
            user("hi", chat_template="{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}")
        )


def follow(words, compiled, ask, text):
    """The tokens of a text, each of which the ask's grammar must allow; gives the constraint behind them."""
    grammar = words.form_grammar(ask, words.chat_prompt(ask), constrain_calls=True)
    constraint = compiled.constraint(grammar)
    for token in words.encode(text, add_special_tokens=False):
        mask = constraint.mask()
        assert mask.shape == (VOCAB_SIZE // 32,)
        assert mask[token // 32] >> np.uint32(token % 32) & 1, words.decode([token])
        constraint.accept(token)
    return constraint


def allows_the_end(constraint, words, chat):
    return constraint.done or all(constraint.mask()[t // 32] >> np.uint32(t % 32) & 1 for t in chat.tokenizer.eos_token_ids)


@pytest.mark.parametrize("text", ["Just <b>text</b> & no call.", f"I'll look.\n{CALL}", f"{CALL}\n{CALL}", ""])
def test_a_model_that_may_call_writes_as_it_was_trained_to(words, compiled, chat, text):
    constraint = follow(words, compiled, user("?", tools=(WEATHER,)), text)
    assert allows_the_end(constraint, words, chat)


def test_a_model_that_must_call_writes_as_it_was_trained_to(words, compiled, chat):
    ask = user("?", tools=(WEATHER,), policy=ToolPolicy("required", parallel=False))
    constraint = follow(words, compiled, ask, CALL)
    assert constraint.done
    with pytest.raises(AssertionError):
        follow(words, compiled, ask, "No.")


@pytest.mark.parametrize("wrong", ['{"city": 3}', '{"unit": "c"}', '{"city": "Rome", "unit": "k"}', '{"city": "Rome"'])
def test_a_call_that_its_schema_forbids_cannot_be_written(words, compiled, wrong):
    text = CALL.replace('{"city": "Rome", "unit": "c"}', wrong)
    with pytest.raises(AssertionError):
        follow(words, compiled, user("?", tools=(WEATHER,)), text)


def test_json_as_models_like_to_write_it(words, compiled):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "array"}}, "required": ["a", "b"]}
    for text in (json.dumps({"a": 1, "b": [1, "x"]}), json.dumps({"a": 1, "b": [1, "x"]}, indent=2), '{"a":1,"b":[]}'):
        follow(words, compiled, user("?", form=JsonForm(schema)), text)


def test_calls_and_text_become_events(words):
    ask = user("?", tools=(WEATHER,))
    stream = words.stream(ask, words.chat_prompt(ask))
    events = []
    tokens = words.encode(f"Let me see.\n{CALL}", add_special_tokens=False)
    for token in tokens:
        events += stream.push(Output("r", (token,), usage=Usage(1, 0, 1)))
    events += stream.push(Output("r", finish=Finish("stop")))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Let me see."
    (end,) = [event for event in events if isinstance(event, ToolCallEnd)]
    assert json.loads(end.arguments) == {"city": "Rome", "unit": "c"}
    assert isinstance(events[-1], Finished)


def test_a_continued_text_ends_at_a_stop_string(words):
    ask = TextAsk("x", SamplingParams(stop=("END",)))
    stream = words.stream(ask, words.text_prompt(ask))
    events = stream.push(Output("r", tuple(words.encode("one END two", add_special_tokens=False))))
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["one "]
    assert events[-1].finish == Finish("stop", stop="END")


@pytest.fixture(scope="module")
def thinker(chat):
    """The same model, were it one that thinks."""
    return ChatWords(replace(chat, dialect=dialect_by_name("hermes", "qwen3")), VOCAB_SIZE)


@pytest.mark.parametrize(
    "text", [f"<think>\nHm <b>.\n</think>\n\n{CALL}", f"<think>x</think>{CALL}", "<think>x</think>No.", "No."]
)
def test_a_model_that_thinks_may_think_before_it_calls(thinker, compiled, chat, text):
    assert allows_the_end(follow(thinker, compiled, user("?", tools=(WEATHER,)), text), thinker, chat)


@pytest.mark.parametrize("text", ['<think>\nHm.\n</think>\n\n{"a": 1}', '{"a": 1}'])
def test_a_form_holds_for_what_follows_the_thought(thinker, compiled, chat, text):
    form = JsonForm({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    assert allows_the_end(follow(thinker, compiled, user("?", form=form), text), thinker, chat)


@pytest.mark.parametrize(("form", "text"), [(LarkForm('start: "yes" | "no"'), "no"), (RegexForm("a+"), "aa")])
def test_any_form_may_follow_a_thought(thinker, compiled, chat, form, text):
    assert allows_the_end(follow(thinker, compiled, user("?", form=form), f"<think>\nhm\n</think>\n\n{text}"), thinker, chat)
    with pytest.raises(AssertionError):
        follow(thinker, compiled, user("?", form=form), f"<think>\nhm\n</think>\n\nx{text}")


@pytest.mark.parametrize("text", ['{"a": 1}', CALL, f"{CALL}\n{CALL}"])
def test_a_form_is_the_texts_and_calls_may_come_in_its_place(words, thinker, compiled, chat, text):
    form = JsonForm({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    ask = user("?", form=form, tools=(WEATHER,))
    for speaker in (words, thinker):
        assert allows_the_end(follow(speaker, compiled, ask, text), speaker, chat)
        with pytest.raises(AssertionError):
            follow(speaker, compiled, ask, "Let me see.")
    must = user("?", form=form, tools=(WEATHER,), policy=ToolPolicy("required"))
    assert follow(words, compiled, must, CALL)
    with pytest.raises(AssertionError):
        follow(words, compiled, must, '{"a": 1}')


def test_a_thought_that_the_prompt_has_opened_must_be_closed(thinker, compiled):
    ask = user("?", tools=(WEATHER,), policy=ToolPolicy("required"))
    prompt = replace(thinker.chat_prompt(ask), in_thought=True)
    constraint = compiled.constraint(thinker.form_grammar(ask, prompt, constrain_calls=True))
    for token in thinker.encode(f"Hm.</think>\n{CALL}", add_special_tokens=False):
        assert constraint.mask()[token // 32] >> np.uint32(token % 32) & 1
        constraint.accept(token)


def test_strict_tools_where_text_has_marks_of_its_own(chat):
    words = ChatWords(replace(chat, dialect=dialect_by_name("kimi_k3", "kimi_k3")), VOCAB_SIZE)
    ask = user("?", tools=(replace(WEATHER, strict=True),))
    with pytest.raises(RequestError, match="tool_choice required"):
        words.form_grammar(ask, words.text_prompt(TextAsk("x")), constrain_calls=True)
    loose = user("?", tools=(WEATHER,))
    assert words.form_grammar(loose, words.text_prompt(TextAsk("x")), constrain_calls=True) is None
