"""Keys, hosts, limits and strict bodies."""

from __future__ import annotations

import asyncio
import hmac
import json

import pytest

from parity.core.service import Stats
from parity.serve import auth
from parity.serve.app import create_app
from parity.serve.limits import Lanes
from parity.serve.refusals import Refusal
from parity.serve.routes import api_routes

from .conftest import PATIENCE_S, client_of
from .scripted import ScriptedService, make_desk

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "x"}]}


def all_routes():
    app = create_app(make_desk())
    for route in app.routes:
        for method in sorted(route.methods - {"HEAD"}):
            yield method, route.path.replace("{name:path}", "scripted").replace("{id}", "resp_1")


@pytest.mark.parametrize(("method", "path"), list(all_routes()))
async def test_every_route_but_health_asks_for_a_key(method, path):
    async with client_of(make_desk(api_keys=("secret", "other"))) as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"x-api-key": "secre"},
            {"Authorization": "Basic !"},
            {"x-api-key": ""},
        ):
            answer = await client.request(method, path, headers=headers, json={})
            assert answer.status_code == (200 if path == "/health" else 401), path
        for headers in ({"Authorization": "Bearer secret"}, {"x-api-key": "other"}, {"Authorization": "Basic bWU6c2VjcmV0"}):
            answer = await client.request(method, path, headers=headers, json={})
            assert answer.status_code not in (401, 403)


def test_the_list_of_routes_above_is_whole():
    paths = {path for _, path in all_routes()}
    assert {route.path for route in api_routes(make_desk()) if "{" not in route.path} <= paths
    assert {"/", "/openapi.json", "/page/app.js"} <= paths


def test_keys_are_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return hmac_compare(one, other)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = auth.Keys(["first", "second", "third"])
    for given in ("first", "third", "wrong", "", "f"):
        compared.clear()
        assert (keys.owner(given) is not None) == (given in ("first", "third"))
        assert len(compared) == 3, "a comparison ended early"
        assert all(len(one) == len(other) == 32 for one, other in compared), "lengths tell of keys"


async def test_the_answer_to_a_wrong_key_has_each_apis_shape():
    async with client_of(make_desk(api_keys=("k",))) as client:
        openai = (await client.post("/v1/chat/completions", json=CHAT)).json()
        anthropic = (await client.post("/v1/messages", json=CHAT)).json()
    assert openai["error"]["code"] == "invalid_api_key"
    assert (anthropic["type"], anthropic["error"]["type"]) == ("error", "authentication_error")


async def test_a_rebound_host_name_is_refused():
    async with client_of(make_desk()) as client:
        for host, status in {"localhost:1": 200, "127.0.0.1": 200, "[::1]:80": 200, "evil.example": 403, "": 403}.items():
            assert (await client.get("/v1/models", headers={"host": host})).status_code == status
    async with client_of(make_desk(host="0.0.0.0")) as client:
        assert (await client.get("/v1/models", headers={"host": "box.lan:8000"})).status_code == 200


@pytest.mark.parametrize("allowed", ["Box.lan", "box.lan:8000", "[FD00::2]", "fd00::2", "*"])
async def test_hosts_are_named_as_people_write_them(allowed):
    host = "[fd00::2]:80" if "::2" in allowed else "box.LAN:8000"
    async with client_of(make_desk(allowed_hosts=(allowed,))) as client:
        assert (await client.get("/v1/models", headers={"host": host})).status_code == 200
        other = await client.get("/v1/models", headers={"host": "evil.example"})
        assert other.status_code == (200 if allowed == "*" else 403)


async def test_other_sites_cannot_call():
    async with client_of(make_desk()) as client:
        form = await client.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"content-type": "text/plain"})
        assert form.status_code == 415
        answer = await client.get("/v1/models", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
    async with client_of(make_desk(allowed_origins=("https://good.example",), api_keys=("k",))) as client:
        preflight = {"origin": "https://good.example", "access-control-request-method": "POST"}
        assert (await client.options("/v1/chat/completions", headers=preflight)).status_code == 200
        answer = await client.get("/v1/models", headers={"origin": "https://good.example", "x-api-key": "k"})
        assert answer.headers["access-control-allow-origin"] == "https://good.example"


async def test_large_bodies_are_refused_before_they_are_read():
    async with client_of(make_desk(max_body_bytes=1000)) as client:
        answer = await client.post("/v1/chat/completions", content=b"x" * 2000, headers={"content-type": "application/json"})
        assert answer.status_code == 413

        async def chunks():
            for _ in range(20):
                yield b" " * 100

        answer = await client.post("/v1/messages", content=chunks(), headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"wings": 2}, 400, "wings"),
        ({"audio": {}}, 400, "audio"),
        ({"audio": None}, 200, None),
        ({"functions": []}, 400, "functions"),
        ({"service_tier": "flex"}, 400, "service_tier"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content[0].type"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": 1e9}, 400, "temperature"),
        ({"n": 0}, 400, "n"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"top_logprobs": 2}, 400, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, 400, "logit_bias"),
        ({"stop": [""]}, 400, "stop"),
        ({"chat_template": "{{ 1 }}"}, 400, "chat_template"),
        ({"chat_template_kwargs": {"messages": []}}, 400, "messages"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, 400, "add_generation_prompt"),
        ({"chat_template_kwargs": {"enable_thinking": "false"}}, 400, "enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"}, 200, None),
        ({"reasoning_effort": "huge"}, 400, "reasoning_effort"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "no"}}}, 400, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "bad name"}}]}, 400, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, 400, "response_format"),
        ({"structured_outputs": {"regex": "(a"}}, 400, "structured_outputs.regex"),
        ({"structured_outputs": {"grammar": "start: nothing"}}, 400, "structured_outputs.grammar"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, 400, "structured_outputs"),
        ({"model": "other"}, 404, "model"),
        ({"user": "u", "metadata": {"a": "b"}, "store": True, "safety_identifier": "s", "prompt_cache_key": "p"}, 200, None),
    ],
)
async def test_a_field_is_implemented_or_refused_by_name(change, status, param):
    async with client_of(make_desk()) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT | change)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["error"]["param"] == param


async def test_the_keyword_that_cannot_be_honoured_is_named():
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "dependentRequired": {"a": ["b"]}}}}
    async with client_of(make_desk()) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT | {"response_format": form})
    assert answer.status_code == 400
    assert "dependentRequired" in answer.json()["error"]["message"]


async def test_a_prompt_beyond_the_context_is_refused_with_the_counts():
    async with client_of(make_desk()) as client:
        answer = await client.post("/v1/completions", json={"model": "scripted", "prompt": "x" * 5000})
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert "5000 tokens" in answer.json()["error"]["message"]
        assert "4096" in answer.json()["error"]["message"]
        hopeless = await client.post("/v1/completions", json={"model": "scripted", "prompt": "x" * 1_000_000})
        assert hopeless.status_code == 400
    async with client_of(make_desk(max_prompt_tokens=10)) as client:
        answer = await client.post("/v1/completions", json={"model": "scripted", "prompt": "x" * 11})
        assert "--max-prompt-tokens 10" in answer.json()["error"]["message"]


async def test_a_full_engine_is_429_with_a_time():
    async with client_of(make_desk(ScriptedService(max_waiting=0))) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
        answer = await client.post("/v1/messages", json=CHAT | {"max_tokens": 5})
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")


async def test_one_key_cannot_take_everything():
    service = ScriptedService(step_s=0.02)
    desk = make_desk(service, api_keys=("a", "b"), max_running_per_key=1, max_queued_per_key=1)
    async with client_of(desk) as client:

        async def ask(key):
            return (await client.post("/v1/chat/completions", json=CHAT, headers={"x-api-key": key})).status_code

        first = [asyncio.create_task(ask("a")) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert await ask("b") == 200
        assert sorted([await task for task in first]) == [200, 200, 429]
    assert desk.lanes.num_waiting == 0


async def test_a_place_in_line_is_given_back_when_the_one_who_waits_leaves():
    lanes = Lanes(max_running=1, max_queued=5)

    async def hold(started=None):
        async with lanes.admitted("k"):
            if started:
                started.set()
            await asyncio.Event().wait()

    started = asyncio.Event()
    running = asyncio.create_task(hold(started))
    await started.wait()
    waiting = [asyncio.create_task(hold()) for _ in range(3)]
    await asyncio.sleep(0)
    assert lanes.num_waiting == 3
    waiting[0].cancel()
    running.cancel()  # its place goes to waiting[1], which is cancelled before it can take it
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.gather(running, *waiting[:2], return_exceptions=True)
    waiting[2].cancel()
    await asyncio.gather(waiting[2], return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S), lanes.admitted("k"):
        assert lanes.num_waiting == 0


async def test_a_turn_that_does_not_come_in_time_is_refused():
    desk = make_desk(max_running_per_key=1, request_timeout_s=0.05)
    async with client_of(desk) as client, desk.lanes.admitted(auth.ANYONE):
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert desk.lanes.num_waiting == 0
    async with client_of(desk) as client:
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_a_mistake_of_ours_is_logged_as_one(monkeypatch, caplog):
    caplog.set_level("INFO")
    desk = make_desk()
    monkeypatch.setattr(desk, "start", lambda *_: 1 // 0)
    async with client_of(desk) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "parity.serve"]
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert f"{answer.headers['x-request-id'][:8]} POST /v1/chat/completions 500 " in line


def test_errors_that_were_not_foreseen_tell_nothing():
    from parity.serve.refusals import refusal_of

    refusal = refusal_of(ZeroDivisionError("the secret path /etc/shadow"))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, "shadow" in refusal.message) == (500, False)


async def test_unknown_paths_and_methods_have_the_shape():
    async with client_of(make_desk()) as client:
        for method, path, status in (("GET", "/nothing", 404), ("GET", "/v1/chat/completions", 405)):
            answer = await client.request(method, path)
            assert answer.status_code == status
            assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":',
        b"\xff\xfe",
        b'{"model":"\xff"}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"null",
        b"[]",
        b'"x"',
        b"NaN",
        b"1e999",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/tokenize"])
async def test_broken_json_is_a_400(path, body):
    async with client_of(make_desk()) as client:
        answer = await client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


async def test_no_text_of_a_prompt_is_logged(caplog):
    caplog.set_level("DEBUG")
    async with client_of(make_desk()) as client:
        body = CHAT | {"messages": [{"role": "user", "content": "my secret words"}]}
        await client.post("/v1/chat/completions", json=body)
        await client.post("/v1/chat/completions", json=body | {"wings": 1})
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("parity")]
    assert any("POST /v1/chat/completions 200" in line for line in ours)
    assert not any("secret" in line for line in ours)


async def test_tokenize_and_detokenize():
    async with client_of(make_desk()) as client:
        cut = (await client.post("/tokenize", json={"prompt": "añb", "return_token_strs": True})).json()
        assert (cut["tokens"], cut["count"]) == (list("añb".encode()), 4)
        assert (await client.post("/detokenize", json={"tokens": cut["tokens"]})).json() == {"prompt": "añb"}
        chat = (await client.post("/tokenize", json={"messages": CHAT["messages"]})).json()
        assert bytes(chat["tokens"]) == b"user:x\nassistant:"
        assert (await client.post("/detokenize", json={"tokens": [9999]})).status_code == 400
        assert (await client.post("/tokenize", json={})).status_code == 400


async def test_metrics_have_the_shape_that_dashboards_draw():
    async with client_of(make_desk()) as client:
        for _ in range(3):
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        text = (await client.get("/metrics")).text
    for line in (
        'parity:num_requests_running{model_name="scripted"} 0.0',
        'parity:num_requests_waiting{model_name="scripted"} 0.0',
        'parity:kv_cache_usage_perc{model_name="scripted"} 0.0',
        'parity:generation_tokens_total{model_name="scripted"} 6.0',
        'parity:time_to_first_token_seconds_count{model_name="scripted"} 3.0',
        'parity:inter_token_latency_seconds_count{model_name="scripted"} 3.0',
        'parity:e2e_request_latency_seconds_count{model_name="scripted"} 3.0',
        'parity:request_queue_time_seconds_count{model_name="scripted"} 3.0',
        'parity:request_prefill_time_seconds_count{model_name="scripted"} 3.0',
        'parity:request_decode_time_seconds_count{model_name="scripted"} 3.0',
        'parity:request_inference_time_seconds_count{model_name="scripted"} 3.0',
        'parity:request_params_max_tokens_count{model_name="scripted"}',
        'parity:request_time_per_output_token_seconds_count{model_name="scripted"} 3.0',
        'parity:cache_config_info{block_size="16",num_gpu_blocks="1024"} 1.0',
        'parity:request_success_total{finished_reason="stop",model_name="scripted"} 3.0',
    ):
        assert line in text


async def test_metrics_count_samples_together_and_steps_by_their_size():
    class Stepped(ScriptedService):
        def stats(self):
            return Stats(num_step_tokens=523, steps_by_tokens=(2, 1, *[0] * 5, 1, *[0] * 6))

    async with client_of(make_desk(Stepped(lambda prompt: "abc"))) as client:
        assert (await client.post("/v1/chat/completions", json=CHAT | {"n": 3})).status_code == 200
        prompts = {"model": "scripted", "prompt": ["x", "y"], "n": 2, "max_tokens": 2}
        assert (await client.post("/v1/completions", json=prompts)).status_code == 200
        text = (await client.get("/metrics")).text
    for line in (
        'parity:request_params_n_count{model_name="scripted"} 3.0',
        'parity:request_params_n_sum{model_name="scripted"} 7.0',
        'parity:request_max_num_generation_tokens_count{model_name="scripted"} 3.0',
        'parity:request_max_num_generation_tokens_sum{model_name="scripted"} 8.0',  # three letters and the end; two; two
        'parity:iteration_tokens_total_bucket{le="1.0",model_name="scripted"} 2.0',
        'parity:iteration_tokens_total_bucket{le="256.0",model_name="scripted"} 3.0',
        'parity:iteration_tokens_total_bucket{le="512.0",model_name="scripted"} 4.0',
        'parity:iteration_tokens_total_bucket{le="+Inf",model_name="scripted"} 4.0',
        'parity:iteration_tokens_total_count{model_name="scripted"} 4.0',
        'parity:iteration_tokens_total_sum{model_name="scripted"} 523.0',
    ):
        assert line in text


async def test_status_tells_what_runs():
    async with client_of(make_desk()) as client:
        status = (await client.get("/status")).json()
        assert (status["stack"], status["num_pages"], status["model"]) == ("null", 1024, "scripted")
        assert (await client.get("/ready")).json() == {"status": "ready"}
        assert (await client.get("/version")).json()["version"]


async def test_several_names_for_one_model():
    async with client_of(make_desk(names=("gpt-x", "claude-x"))) as client:
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["gpt-x", "claude-x"]
        assert (await client.post("/v1/chat/completions", json=CHAT | {"model": "claude-x"})).status_code == 200
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 404
