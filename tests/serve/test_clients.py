"""What coding agents and chat front ends really send, in their shapes; and the settings that docs/clients.md gives them."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
import yaml

from parity.core.chat import Message
from parity.core.errors import RequestError
from parity.serve.asks import ChatAsk
from parity.serve.openai.namespaces import functions
from parity.serve.openai.responses_types import FunctionTool, NamespaceTool
from parity.verify.sides.endpoint import EndpointSide
from parity.verify.suites import Item

from .conftest import PATIENCE_S, client_of
from .scripted import ScriptedService, answering, decode, make_desk

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text("utf-8")

CALL = '<tool_call>{"name": "Read", "arguments": {"file_path": "/a"}}</tool_call>'
SCRIPT = answering({"[call]": CALL, "title": '{"title": "A file"}'}, otherwise="done")

READ = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"file_path": {"type": "string", "description": "The path"}, "limit": {"type": "number"}},
    "required": ["file_path"],
    "additionalProperties": False,
}
MARK = {"type": "ephemeral"}

CLAUDE_CODE = {
    "model": "scripted",
    "max_tokens": 32000,
    "system": [
        {"type": "text", "text": "You are an agent.", "cache_control": MARK},
        {"type": "text", "text": "The folder is /x.", "cache_control": MARK | {"ttl": "1h"}},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>Use no emoji.</system-reminder>"},
                {"type": "text", "text": "read it [call]", "cache_control": MARK},
            ],
        }
    ],
    "tools": [{"name": "Read", "description": "Reads a file.", "input_schema": READ}],
    "metadata": {"user_id": "user_1_account__session_2"},
    "temperature": 1,
    "thinking": {"type": "enabled", "budget_tokens": 31999},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
}
CLAUDE_CODE_HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27",
    "anthropic-dangerous-direct-browser-access": "true",
    "x-app": "cli",
    "user-agent": "claude-cli/2.0.0 (external, cli)",
    "x-stainless-lang": "js",
    "authorization": "Bearer none",
}

CODEX = {
    "model": "scripted",
    "instructions": "You are an agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "The sandbox is read-only."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "read it [call]"}]},
    ],
    "tools": [{"type": "function", "name": "Read", "description": "Reads.", "strict": False, "parameters": READ}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199-session",
}
CODEX_HEADERS = {"originator": "codex_cli_rs", "session_id": "0199", "conversation_id": "0199", "openai-beta": "responses=v1"}

CHATS = {
    "open-webui": {
        "stream": True,
        "model": "scripted",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "max_tokens": 100,
        "reasoning_effort": "low",
        "seed": 1,
        "stop": ["STOP"],
    },
    "continue": {
        "messages": [{"role": "user", "content": "hi"}],
        "model": "scripted",
        "max_tokens": 2048,
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "stop": ["<fim>", "\n\n\n"],
        "stream": True,
        "tools": [{"type": "function", "function": {"name": "Read", "description": "Reads.", "parameters": READ}}],
        "parallel_tool_calls": False,
    },
    "langchain": {
        "messages": [
            {"content": "read it", "role": "user"},
            {
                "content": None,
                "role": "assistant",
                "tool_calls": [{"type": "function", "id": "c1", "function": {"name": "Read", "arguments": "{}"}}],
            },
            {"content": "text", "role": "tool", "tool_call_id": "c1"},
        ],
        "model": "scripted",
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "Read", "description": "", "parameters": READ, "strict": True}}],
        "tool_choice": "auto",
        "user": "me",
        "metadata": {"run": "1"},
        "service_tier": "auto",
    },
}


def app():
    return client_of(make_desk(ScriptedService(SCRIPT)))


async def test_claude_code_calls_a_tool_and_goes_on():
    async with app() as client:
        url, headers = "/v1/messages?beta=true", CLAUDE_CODE_HEADERS
        first = (await client.post(url, json=CLAUDE_CODE, headers=headers)).json()
        assert (first["stop_reason"], first["content"][-1]["name"]) == ("tool_use", "Read")
        result = {"type": "tool_result", "tool_use_id": first["content"][-1]["id"], "content": [{"type": "text", "text": "a"}]}
        later = CLAUDE_CODE["messages"] + [
            {"role": "assistant", "content": first["content"]},
            {"role": "user", "content": [result | {"is_error": False, "cache_control": MARK}]},
        ]
        second = await client.post(url, json=CLAUDE_CODE | {"messages": later, "stream": True}, headers=headers)
        assert (second.status_code, "event: message_stop" in second.text) == (200, True)
        body = {name: CLAUDE_CODE[name] for name in ("model", "messages", "tools", "system", "thinking")}
        count = await client.post("/v1/messages/count_tokens?beta=true", json=body, headers=headers)
        assert count.json()["input_tokens"] == first["usage"]["input_tokens"]


async def test_claude_code_searches_for_a_tool_and_calls_it():
    script = {"tool:{": CALL.replace("Read", "WebFetch"), "[call]": CALL.replace("Read", "ToolSearch")}
    service = ScriptedService(lambda prompt: next((said for sign, said in script.items() if sign in prompt[-400:]), "done"))
    search, fetch = [{"name": name, "input_schema": READ} for name in ("ToolSearch", "WebFetch")]
    fetch |= {"defer_loading": True}
    body = CLAUDE_CODE | {"tools": [search, fetch | {"name": "Placeholder"}]}
    async with client_of(make_desk(service)) as client:
        first = (await client.post("/v1/messages", json=body)).json()
        assert "tool ToolSearch\n" in decode(service.seen[-1].tokens)
        assert "Placeholder" not in decode(service.seen[-1].tokens)
        found = [{"type": "tool_reference", "tool_name": "WebFetch"}]
        result = {"type": "tool_result", "tool_use_id": first["content"][-1]["id"], "content": found, "cache_control": MARK}
        turns = [{"role": "assistant", "content": first["content"]}, {"role": "user", "content": [result]}]
        later = body | {"messages": [*body["messages"], *turns], "tools": [*body["tools"], fetch]}
        second = await client.post("/v1/messages", json=later)
        assert [block["name"] for block in second.json()["content"]] == ["WebFetch"]
        before, after = (decode(request.tokens) for request in service.seen)
        assert after.startswith(before.removesuffix("assistant:"))  # the prefix stays, and with it the cache
        assert '\ntool:{"type": "function", "function": {"name": "WebFetch", ' in after
        unknown = await client.post("/v1/messages", json=later | {"tools": body["tools"]})
        assert (unknown.status_code, "'WebFetch'" in unknown.json()["error"]["message"]) == (400, True)
        hidden = await client.post("/v1/messages", json=body | {"tools": [fetch]})
        assert (hidden.status_code, "defer_loading" in hidden.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("display", ["summarized", "updates", "omitted", "bare"])
async def test_claude_codes_displays_of_thoughts(display):
    async with client_of(make_desk(ScriptedService(answering({"": "<think>hmm</think>Yes."})))) as client:
        asked = CLAUDE_CODE | {"thinking": {"type": "adaptive", "display": display}}
        answer = await client.post("/v1/messages", json=asked, headers=CLAUDE_CODE_HEADERS)
    if display == "bare":
        told = "thinking.display: 'bare' is not one of omitted, summarized, updates"
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, told)
    else:
        kinds = [block["type"] for block in answer.json()["content"]]
        assert kinds == (["text"] if display == "omitted" else ["thinking", "text"])


async def test_claude_codes_line_for_the_accounts_is_not_the_models():
    lines = [f"x-anthropic-billing-header: cc_version=2.1.332.1c{n}; cc_entrypoint=cli; cch=36ee{n};" for n in range(2)]
    rest = CLAUDE_CODE["system"]
    systems = [[{"type": "text", "text": lines[0]}, *rest], [{"type": "text", "text": lines[1]}, *rest], rest]
    systems += [f"{lines[0]}\nYou are an agent.\nThe folder is /x."]
    service = ScriptedService(SCRIPT)
    async with client_of(make_desk(service)) as client:
        for system in systems:
            await client.post("/v1/messages", json=CLAUDE_CODE | {"system": system})
    assert len({request.tokens for request in service.seen}) == 1


async def test_claude_codes_small_requests():
    quota = {"model": "scripted", "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}], "metadata": {}}
    form = {"type": "json_schema", "schema": {"type": "object", "properties": {"title": {"type": "string"}}}}
    title = quota | {"max_tokens": 200, "tools": [], "temperature": 1, "output_config": {"format": form}}
    title["messages"] = [{"role": "user", "content": [{"type": "text", "text": "a title for this"}]}]
    async with app() as client:
        assert (await client.post("/v1/messages?beta=true", json=quota)).json()["stop_reason"] == "max_tokens"
        answer = await client.post("/v1/messages?beta=true", json=title)
        assert answer.json()["content"][0]["text"] == '{"title": "A file"}'


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]}, "web_search_20250305"),
        ({"tools": [{"type": "computer_20250124", "name": "computer", "display_width_px": 1}]}, "computer_20250124"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "clear_tool_uses_20250919"),
        ({"mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
    ],
)
async def test_what_changes_the_meaning_of_a_message_is_refused_by_name(change, named):
    async with app() as client:
        answer = await client.post("/v1/messages", json=CLAUDE_CODE | change, headers=CLAUDE_CODE_HEADERS)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    told = answer.json()["error"]["message"]
    assert named in told
    assert told.count(told.split(":")[0]) == 1  # the field is named once


async def test_codex_calls_a_tool_and_goes_on():
    async with app() as client:
        assert (await client.get("/v1/models?client_version=0.60.0", headers=CODEX_HEADERS)).status_code == 200
        first = await client.post("/v1/responses", json=CODEX, headers=CODEX_HEADERS)
        assert (first.status_code, "event: response.completed" in first.text) == (200, True)
        call = {"type": "function_call", "name": "Read", "arguments": '{"file_path": "/a"}', "call_id": "call_0"}
        more = [
            {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None},
            call,
            {"type": "function_call_output", "call_id": "call_0", "output": "text"},
        ]
        second = await client.post("/v1/responses", json=CODEX | {"input": CODEX["input"] + more}, headers=CODEX_HEADERS)
        assert (second.status_code, "event: response.completed" in second.text) == (200, True)


async def test_codex_calls_a_tool_of_an_mcp_server_and_goes_on():
    weather = {"type": "function", "name": "weather", "description": "Weather.", "strict": False, "parameters": READ}
    space = {"type": "namespace", "name": "mcp__sky", "description": "The sky.", "tools": [weather, weather | {"name": "moon"}]}
    service = ScriptedService(answering({"[call]": CALL.replace("Read", "mcp__sky__weather")}, otherwise="done"))
    async with client_of(make_desk(service)) as client:
        body = CODEX | {"tools": [*CODEX["tools"], space]}
        first = await client.post("/v1/responses", json=body, headers=CODEX_HEADERS)
        events = [json.loads(line[6:]) for line in first.text.splitlines() if line.startswith("data: ")]
        assert "tool mcp__sky__moon" in decode(service.seen[-1].tokens)
        last = events[-1]["response"]
        assert (last["status"], last["tools"][1]["tools"][1]["name"]) == ("completed", "moon")
        told = [event["item"] for event in events if event["type"].startswith("response.output_item")]
        assert [(item["namespace"], item["name"]) for item in [*told, *last["output"]]] == [("mcp__sky", "weather")] * 3
        result = {"type": "function_call_output", "call_id": last["output"][0]["call_id"], "output": "clear"}
        later = body | {"input": [*CODEX["input"], *last["output"], result]}
        second = await client.post("/v1/responses", json=later, headers=CODEX_HEADERS)
        assert (second.status_code, "event: response.completed" in second.text) == (200, True)
        assert "[calls mcp__sky__weather {" in decode(service.seen[-1].tokens)


def test_a_tool_of_a_namespace_is_told_what_the_namespace_is_and_a_second_of_its_name_is_refused():
    tools = [FunctionTool(name=name, description=f"A {name}.", parameters={}) for name in ("sun", "moon")]
    space = NamespaceTool(name="sky", description="Of the sky.", tools=tools)
    told = [(tool.name, tool.description) for tool in functions([space])]
    assert told == [("sky__sun", "Of all tools sky__...: Of the sky.\n\nA sun."), ("sky__moon", "A moon.")]
    with pytest.raises(RequestError, match="'sky__sun'"):
        ChatAsk((Message("user", "x"),), tuple(functions([space, FunctionTool(name="sky__sun")])))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tools": [{"type": "namespace", "name": "a", "tools": [{"type": "custom", "name": "b"}]}]}, "tools[0].tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [{"type": "custom", "name": "apply_patch", "format": {}}]}, "custom"),
        ({"tools": [{"type": "local_shell"}]}, "local_shell"),
        ({"text": {"verbosity": "low"}}, "verbosity"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
        ({"include": ["web_search_call.results"]}, "include"),
    ],
)
async def test_what_changes_the_meaning_of_a_response_is_refused_by_name(change, named):
    async with app() as client:
        answer = await client.post("/v1/responses", json=CODEX | change, headers=CODEX_HEADERS)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert named in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", CHATS)
async def test_chat_front_ends(name):
    async with app() as client:
        answer = await client.post("/v1/chat/completions", json=CHATS[name])
        assert (answer.status_code, answer.text.endswith("data: [DONE]\n\n")) == (200, True)


async def test_front_ends_that_poll_for_models_see_the_same_list():
    async with app() as client:
        lists = [(await client.get("/v1/models", headers={"authorization": "Bearer x"})).json() for _ in range(3)]
    assert lists[0] == lists[1] == lists[2]
    assert (lists[0]["object"], lists[0]["data"][0]["id"]) == ("list", "scripted")


async def test_an_embedding_of_token_ids_in_base64_is_understood():
    body = {"model": "scripted", "input": [[1, 2], [3]], "encoding_format": "base64"}
    async with app() as client:
        answer = await client.post("/v1/embeddings", json=body)
    assert (answer.status_code, "embedding" in answer.json()["error"]["message"]) == (400, True)


# The page of settings


def block(heading: str, kind: str) -> str:
    """The first block of code of a kind under a heading of the page."""
    return re.search(rf"## {heading}.*?```{kind}\n(.*?)```", PAGE, re.DOTALL)[1]


def exports(heading: str, url: str) -> dict[str, str]:
    """The environment that the page sets, for a server at `url`."""
    return dict(re.findall(r"export (\w+)=(\S+)", block(heading, "sh").replace("http://127.0.0.1:8000", url)))


@pytest.fixture
def url(serve):
    return serve(ScriptedService(SCRIPT))


def test_the_page_points_anthropics_client_here(url, monkeypatch):
    for name, value in exports("Claude Code", url).items():
        monkeypatch.setenv(name, value)
    with anthropic.Anthropic(max_retries=0) as client:
        message = client.messages.create(model="scripted", max_tokens=10, messages=[{"role": "user", "content": "hi"}])
    assert message.content[0].text == "done"


@pytest.mark.parametrize("heading", ["LangChain", "Continue"])
def test_the_page_points_openais_client_here(url, monkeypatch, heading):
    for name, value in exports(heading, url).items():
        monkeypatch.setenv(name, value)
    with openai.OpenAI(max_retries=0) as client:
        answer = client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "done"


def test_the_pages_files_point_here(url):
    codex = tomllib.loads(block("Codex", "toml").replace("http://127.0.0.1:8000", url))
    provider = codex["model_providers"][codex["model_provider"]]
    assert provider["env_key"] in exports("Codex", url)
    assert httpx.post(f"{provider['base_url']}/{provider['wire_api']}", json=CODEX, timeout=PATIENCE_S).status_code == 200
    model = yaml.safe_load(block("Continue", "yaml").replace("http://127.0.0.1:8000", url))["models"][0]
    assert httpx.post(f"{model['apiBase']}/chat/completions", json=CHATS["continue"], timeout=PATIENCE_S).status_code == 200
    base = exports("Open WebUI", url)["OPENAI_API_BASE_URL"]
    assert httpx.get(f"{base}/models", timeout=PATIENCE_S).status_code == 200


def test_the_verifier_learns_the_tokens(serve):
    url = serve(ScriptedService(SCRIPT))
    side = EndpointSide(url)
    texts = Item("text", "text", text="añb"), Item("chat", "chat", messages=(Message("user", "añb"),))
    for item, counted in zip(texts, side.tokens(texts), strict=True):
        asked = {"prompt": item.text} if item.text else {"messages": [{"role": "user", "content": "añb"}]}
        assert counted.ids.tolist() == httpx.post(f"{url}/tokenize", json=asked).json()["tokens"]
    assert "token ids" not in side.unreached()
