"""Chat templates render as transformers renders them, and a hostile one is stopped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from parity.core.chat import Message, Tool, ToolCall
from parity.core.errors import FormatError, RequestError
from parity.text.sandbox import Limits
from parity.text.switches import check_options, layered
from parity.text.template import ChatTemplate

from .conversations import CALLS, CONVERSATIONS, TOOLS, as_dicts, tools_as_dicts

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
# Written for these tests: between them they use what published templates use.
TEMPLATES = {
    "objects": """{{- bos_token }}
{%- if tools %}
{%- for tool in tools %}
    {{- tool | tojson }}
    {{- tool | tojson(indent=2, ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}
{% endfor %}
{%- endif %}
{% for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {%- for call in message.tool_calls %}{% set f = call.function %}
<c {{ f.name }}>{{ f.arguments | tojson }}
{% for k, v in f.arguments.items() %}[{{ k }}={{ v if v is string else v|tojson }}]{% endfor %}
        {%- endfor %}
    {% endif %}
{%- generation %}{% set inner = 'x' %}{{ message.role ~ ':' ~ (message.content or '') ~ inner }}{% endgeneration %}
{{ message.reasoning_content | default('none') }}{{ inner is defined }}
{% endfor %}
{%- if add_generation_prompt %}<go>{% endif %}""",
    "strings": """{% for m in messages %}
{% if m['role'] == 'assistant' and m['content'] is none %}
{% for c in m['tool_calls'] %}{{ c['id'] + '|' + c['function']['name'] + '\\n' + c['function']['arguments'] }}{% endfor %}
{% else %}{{ m['role'] + ': ' + m['content'].strip() }}{% endif %}
{% endfor %}""",
    "control": """{% set ns = namespace(n=0, last='') %}
{%- macro show(text, times=2) %}{% for i in range(times) %}{{ loop.index }}{{ text | trim | upper }}{% endfor %}{% endmacro %}
{%- for m in messages[::-1] %}
{%- if loop.index0 > 3 %}{% break %}{% endif %}
{%- if m.role == 'tool' %}{% continue %}{% endif %}
{%- set ns.n = ns.n + 1 %}{% set ns.last = m.role %}
{{- show(m.content or '', times=loop.index) }}
{%- endfor %}{{ ns.n }} {{ ns.last }}
{{ messages | length }} {{ (messages | first).role }} {{ messages | map(attribute='role') | join(',') }}
{{- messages | selectattr('role', 'equalto', 'user') | list | length }} {{ '%s-%d' % ('a', 3) }} {{ 'a,b'.split(',')[-1] }}
{{- dict(a=1).get('a') }}{{ 'x' in 'xyz' }}{{ [1, 2] + [3] }}
{{ 'ab' * 3 }}{{ 7 // 2 }}{{ '<b>' }}{{ 'q' if thinking is defined and thinking else 'z' }}""",
}


def reference(source: str, messages: list[Message], tools: list[Tool], **options: Any) -> str:
    rendered, _ = render_jinja_template(
        conversations=[as_dicts(messages)],
        tools=tools_as_dicts(tools) or None,
        chat_template=source,
        return_assistant_tokens_mask=False,
        **NAMED,
        **options,
    )
    return str(rendered[0])


@pytest.mark.parametrize("name", ["objects", "control"])
@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("tools", [[], TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("generate", [True, False])
def test_equal_to_transformers(name: str, messages: list[Message], tools: list[Tool], generate: bool) -> None:
    """Oracle: transformers' own template machinery."""
    ours = ChatTemplate(TEMPLATES[name], NAMED)
    options = {"thinking": True}
    wanted = reference(TEMPLATES[name], messages, tools, add_generation_prompt=generate, **options)
    assert ours.render(messages, tools, add_generation_prompt=generate, **options) == wanted


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("tools", [[], TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("generate", [True, False])
def test_default_model_equals_transformers(
    default_metadata: Mapping[str, Any], messages: list[Message], tools: list[Tool], generate: bool
) -> None:
    source = default_metadata["tokenizer.chat_template"]
    ours = ChatTemplate(source, NAMED).render(messages, tools, add_generation_prompt=generate)
    assert ours == reference(source, messages, tools, add_generation_prompt=generate)


def test_arguments_are_given_as_the_template_wants_them() -> None:
    assert ChatTemplate(TEMPLATES["objects"], NAMED).takes_objects
    strings = ChatTemplate(TEMPLATES["strings"], NAMED)
    assert not strings.takes_objects
    assert CALLS[0].arguments in strings.render(CONVERSATIONS[3])


def test_arguments_that_are_no_object_are_kept_as_text() -> None:
    broken = Message("assistant", tool_calls=(ToolCall("1", "f", "oops"),))
    template = ChatTemplate("{% for c in messages[0].tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}")
    assert template.takes_objects is False or template.render([broken]) == '"oops"'


@pytest.mark.parametrize(
    ("source", "options", "wanted"),
    [
        ("{{ enable_thinking }}", {"thinking": False}, "False"),
        ("{{ thinking }}", {"enable_thinking": True}, "True"),
        ("{{ thinking_effort }}", {"reasoning_effort": "low"}, "low"),
        ("{{ reasoning_effort }}", {"reasoning_effort": "high"}, "high"),
        ("{{ enable_thinking }}", {"reasoning_effort": "none"}, "False"),
        ("{{ enable_thinking is defined }}", {}, "False"),
        ("{{ enable_thinking is defined }}", {"thinking": None}, "False"),
        ("{{ thinking }}{{ enable_thinking }}", {"thinking": False, "enable_thinking": True}, "FalseTrue"),
    ],
)
def test_thinking_switches_have_aliases(source: str, options: dict[str, Any], wanted: str) -> None:
    assert ChatTemplate(source).render([Message("user", "x")], **options) == wanted


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ([{"enable_thinking": False}, {"thinking": True}], {"thinking": True}),
        ([{"thinking": True, "x": 1}, {"enable_thinking": False}, {}], {"x": 1, "enable_thinking": False}),
        ([{"thinking": True}, {"enable_thinking": None}], {"thinking": True, "enable_thinking": None}),
        ([{"reasoning_effort": "low"}, {"thinking_effort": "high"}], {"thinking_effort": "high"}),
    ],
)
def test_a_later_switch_counts_whatever_its_name(layers: list[dict[str, Any]], wanted: dict[str, Any]) -> None:
    assert layered(*layers) == wanted


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"messages": []}, "messages is not an option"),
        ({"tools": None}, "tools is not"),
        ({"add_generation_prompt": False}, "add_generation_prompt is not"),
        ({"self": 1}, "self is not"),
        ({"thinking": "enabled"}, "thinking must be true or false, not 'enabled'"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(RequestError, match=wrong):
        check_options(options)


def test_the_clock_can_be_set() -> None:
    template = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}", now=lambda: datetime(2024, 2, 29))
    assert template.render([]) == "2024-02-29"


def test_developer_is_system_where_the_template_does_not_know_it() -> None:
    messages = [Message("developer", "x")]
    assert ChatTemplate("{{ messages[0].role }}").render(messages) == "system"
    assert ChatTemplate("{{ messages[0].role }}{# developer #}").render(messages) == "developer"


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "{% endfor %}", "{% unknown %}"])
def test_a_source_that_is_not_jinja_is_refused(source: str) -> None:
    with pytest.raises(FormatError, match="Jinja"):
        ChatTemplate(source)


def test_a_templates_own_words_are_passed_on() -> None:
    with pytest.raises(RequestError, match=r"^Roles must alternate$"):
        ChatTemplate("{{ raise_exception('Roles must alternate') }}").render([])


@pytest.mark.parametrize(
    "source",
    [
        "{{ missing.attribute.deep }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ lipsum(9) }}",
        "{% include 'x' %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{% set x = f(n - 1) %}{% set y = f(n - 1) %}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in range(99999) %}{{ 'a' * 100000 }}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaaaa') %}{% for i in range(99) %}{% set n.x = [n.x, n.x] | join %}{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ [1] * 10 ** 10 }}",
        "{{ 99999999 ** 99999999 }}",
        "{{ '%999999999d' % 3 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:>999999999}'.format(3) }}",
        "{{ '{:>{}}'.format(1, 10 ** 9) }}",
        "{{ 'a'.ljust(10 ** 10) }}",
        "{{ 'a' | center(10 ** 10) }}",
        "{{ 'a' | indent(10 ** 10) }}",
        "{{ ('a' * 9999999).replace('a', 'b' * 9999999) }}",
        "{{ ('a' * 9999999) | replace('a', 'b' * 9999999) }}",
        "{{ range(10 ** 12) | list }}",
    ],
)
def test_a_hostile_template_is_stopped(source: str) -> None:
    with pytest.raises(RequestError):
        ChatTemplate(source, limits=Limits(steps=50_000)).render([Message("user", "x")])


def test_a_slow_template_is_stopped() -> None:
    source = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(RequestError, match="too long"):
        ChatTemplate(source, limits=Limits(seconds=0.1)).render([Message("user", "x")])


def test_a_long_conversation_is_within_the_bounds() -> None:
    messages = [Message("user" if turn % 2 == 0 else "assistant", "word " * 200) for turn in range(2000)]
    assert len(ChatTemplate(TEMPLATES["objects"], NAMED).render(messages)) > 2_000_000


GUARDED = """{%- for message in messages %}
{%- if message.role == 'system' and not loop.first %}REFUSED{% endif %}
{{- message.role }}:{{ message.content }};
{%- endfor %}"""


@pytest.mark.parametrize("refusal", ["{{ raise_exception('instructions come first') }}", "{% continue %}"])
def test_instructions_that_come_later_are_said_as_the_users_where_a_template_has_no_place_for_them(refusal, caplog):
    template = ChatTemplate(GUARDED.replace("REFUSED", refusal))
    roles = ("system", "developer", "user", "system", "assistant", "user", "system")
    turns = [Message(role, str(index)) for index, role in enumerate(roles)]
    wanted = "system:0\n\n1;user:2;user:3;assistant:4;user:5;user:6;"
    assert [template.render(turns) for _ in range(2)] == [wanted] * 2
    assert caplog.text.count("said as the user's") == 1
    assert template.render(turns[2:4]) == "user:2;user:3;"
    free = ChatTemplate("{% for message in messages %}{{ message.role }}:{{ message.content }};{% endfor %}")
    assert free.render(turns[2:4]) == "user:2;system:3;"
