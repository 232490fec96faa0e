"""Every request ends, whatever clients and engines do, and the server goes on."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace
from urllib.parse import urlsplit

import anthropic
import httpx
import openai
import pytest

from parity.core.errors import EngineError
from parity.serve.app import create_app

from .conftest import PATIENCE_S, client_of, serving, until
from .scripted import ScriptedService, make_desk

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "x"}]}


def endless(**more):
    return ScriptedService(lambda prompt: "word " * 600, step_s=0.002, **more)


@contextmanager
def raw(url, buffer_bytes=None):
    parts = urlsplit(url)
    with socket.socket() as connection:
        connection.settimeout(PATIENCE_S)
        if buffer_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        connection.connect((parts.hostname, parts.port))
        yield connection


def http(path, body, **headers):
    data = json.dumps(body).encode()
    lines = {"host": "localhost", "content-type": "application/json", "content-length": str(len(data))} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"])
def test_a_client_that_leaves_ends_its_request(serve, path, stream):
    service = endless()
    url = serve(service)
    body = {"model": "scripted", "stream": stream, "max_tokens": 3000} | (
        {"messages": CHAT["messages"]} if path in ("/v1/chat/completions", "/v1/messages") else {}
    )
    if path == "/v1/completions":
        body["prompt"] = "x"
    if path == "/v1/responses":
        body = {"model": "scripted", "stream": stream, "input": "x"}
    with raw(url) as connection:
        connection.sendall(http(path, body))
        until(lambda: service.stats().num_generated_tokens > 5)
    until(lambda: service.stats().num_running == 0)
    assert service.aborted
    assert service.stats().num_pages_used == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_gives_its_place_in_line_back(serve, stream):
    service = endless()
    url = serve(service, max_running_per_key=1)
    with raw(url) as running:
        running.sendall(http("/v1/chat/completions", CHAT))
        until(lambda: service.stats().num_running == 1)
        with raw(url) as waiting:
            waiting.sendall(http("/v1/chat/completions", CHAT | {"stream": stream}))
            until(lambda: httpx.get(f"{url}/status").json()["num_waiting"] == 1)
        until(lambda: httpx.get(f"{url}/status").json()["num_waiting"] == 0)
        assert service.stats().num_running == 1


STREAMS = {
    "/v1/chat/completions": ({"messages": CHAT["messages"]}, "data: {"),
    "/v1/completions": ({"prompt": "x"}, "data: {"),
    "/v1/messages": ({"messages": CHAT["messages"], "max_tokens": 9}, "event: error"),
    "/v1/responses": ({"input": "x"}, "event: response.failed"),
}


@pytest.mark.parametrize("path", STREAMS)
async def test_an_answer_that_cannot_be_read_ends_with_a_reason(monkeypatch, path):
    service = ScriptedService(lambda prompt: "abcdef")
    desk = make_desk(service)
    monkeypatch.setattr(desk.words, "stream", lambda *_: SimpleNamespace(push=lambda output: 1 // 0))
    more, last = STREAMS[path]
    async with client_of(desk) as client:
        text = (await client.post(path, json={"model": "scripted", "stream": True} | more)).text
        whole = await client.post(path, json={"model": "scripted"} | more)
    (*_, end) = text.strip().split("\n\n")
    assert end.startswith(last)
    assert "the server's log has the details" in end
    assert whole.status_code == 500
    assert "the server's log has the details" in whole.text
    until(lambda: service.stats().num_running == 0)


def test_a_client_that_stops_reading_is_given_up_and_holds_up_nobody():
    service = ScriptedService(lambda prompt: "wordy " * 40 if "quick" in prompt else "x" * 2_000, step_s=0.001)
    body = {"model": "scripted", "prompt": "x", "max_tokens": 2_000, "stream": True}
    with (
        serving(make_desk(service, port=0, stall_timeout_s=0.5), buffer_bytes=4096) as url,
        raw(url, buffer_bytes=4096) as connection,
    ):
        connection.sendall(http("/v1/completions", body))
        until(lambda: service.stats().num_generated_tokens > 100)
        quick = httpx.post(
            f"{url}/v1/completions", json={"model": "scripted", "prompt": "quick", "max_tokens": 50}, timeout=PATIENCE_S
        )
        assert quick.json()["choices"][0]["text"] == ("wordy " * 40)[:50]
        until(lambda: service.stats().num_running == 0)
        until(lambda: len(service.aborted) == 1)


async def test_only_a_write_that_takes_too_long_is_given_up():
    service = ScriptedService(lambda prompt: "x" * 50)
    app = create_app(make_desk(service, stall_timeout_s=0.05, keepalive_s=0.02))
    body = json.dumps({"model": "scripted", "prompt": "x", "max_tokens": 50, "stream": True}).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])
    never = asyncio.Event()

    async def receive():
        if (message := next(asked, None)) is None:
            await never.wait()
        return message

    sent = []

    async def send(message):
        sent.append(message)
        if len(sent) == 20:
            await never.wait()

    await asyncio.wait_for(app(scope, receive, send), PATIENCE_S)
    assert len(sent) == 20
    until(lambda: service.stats().num_running == 0)


def test_half_a_body_is_a_408(serve):
    with raw(serve(body_timeout_s=0.2)) as connection:
        connection.sendall(http("/v1/chat/completions", CHAT)[:-5])
        assert b"408" in connection.recv(4096).split(b"\r\n")[0]


def test_half_a_body_and_gone(serve):
    url = serve()
    for _ in range(20):
        with raw(url) as connection:
            connection.sendall(http("/v1/chat/completions", CHAT)[:-5])
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=PATIENCE_S).status_code == 200


def test_a_hundred_megabytes(serve):
    url = serve()
    with raw(url) as connection:
        connection.sendall(http("/v1/chat/completions", {}, **{"content-length": str(100 * 2**20)}))
        assert b"413" in connection.recv(4096).split(b"\r\n")[0]

    def chunks():
        for _ in range(100):
            yield b" " * 2**20

    try:
        answer = httpx.post(
            f"{url}/v1/messages", content=chunks(), headers={"content-type": "application/json"}, timeout=PATIENCE_S
        )
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.ReadError):
        pass  # the server closed the connection on what was too much
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=PATIENCE_S).status_code == 200


@pytest.mark.parametrize(
    "junk", [b"\x00" * 500, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"]
)
def test_what_is_no_http(serve, junk):
    url = serve()
    with raw(url) as connection:
        connection.sendall(junk)
        assert connection.recv(4096).startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{url}/health", timeout=PATIENCE_S).status_code == 200


async def test_a_deadline_is_a_504_and_an_event_in_a_stream():
    async with client_of(make_desk(endless(), request_timeout_s=0.1)) as client:
        whole = await client.post("/v1/chat/completions", json=CHAT)
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "timeout")
        message = await client.post("/v1/messages", json=CHAT | {"max_tokens": 1000})
        assert message.json()["error"]["type"] == "timeout_error"


def test_a_deadline_in_a_stream_is_an_error_of_the_clients(serve, openai_at, anthropic_at):
    url = serve(endless(), request_timeout_s=0.2)
    client = openai_at(url)
    with pytest.raises(openai.APIError, match="deadline"):
        list(client.chat.completions.create(**CHAT, stream=True))
    other = anthropic_at(url)
    with pytest.raises(anthropic.APIStatusError, match="deadline"), other.messages.stream(**CHAT, max_tokens=2000) as stream:
        stream.until_done()
    events = list(client.responses.create(model="scripted", input="x", stream=True))
    assert events[-1].type == "response.failed"


def test_an_engine_that_fails_is_a_500_and_the_server_goes_on(serve, openai_at, anthropic_at):
    service = ScriptedService(lambda prompt: "some words", fails_after=3)
    url = serve(service)
    client = openai_at(url)
    with pytest.raises(openai.InternalServerError, match="a kernel failed"):
        client.chat.completions.create(**CHAT)
    with pytest.raises(openai.APIError, match="a kernel failed"):
        list(client.chat.completions.create(**CHAT, stream=True))
    other = anthropic_at(url)
    with pytest.raises(anthropic.InternalServerError):
        other.messages.create(**CHAT, max_tokens=50)
    service.fails_after = None
    assert client.chat.completions.create(**CHAT).choices[0].message.content == "some words"


async def test_an_engine_that_has_stopped_says_so():
    desk = make_desk()
    desk.service.close()
    async with client_of(desk) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT)
        ready = await client.get("/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_error")
    assert ready.status_code == 503


async def test_an_engine_that_goes_silent_is_given_up(monkeypatch):
    monkeypatch.setattr("parity.serve.bridge.GRACE_S", 0.1)
    service = ScriptedService(silent=True)
    async with client_of(make_desk(service, request_timeout_s=0.1)) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 504
    assert "has not answered" in answer.json()["error"]["message"]
    assert service.aborted


async def test_a_mistake_of_ours_is_a_500_without_its_details():
    desk = make_desk()
    desk.words.chat_prompt = lambda ask: 1 / 0
    async with client_of(desk) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 500
        assert "division" not in answer.text
        assert desk.service.stats().num_running == 0


async def test_a_request_that_is_refused_by_the_engine_leaves_nothing_running():
    class Picky(ScriptedService):
        def submit(self, request, emit):
            if request.sample == 2:
                raise EngineError("no more")
            super().submit(request, emit)

    service = Picky(lambda prompt: "word " * 600, step_s=0.002)
    async with client_of(make_desk(service)) as client:
        assert (await client.post("/v1/chat/completions", json=CHAT | {"n": 3})).status_code == 500
    until(lambda: service.stats().num_running == 0)


def test_stopping_lets_requests_finish(serve):
    service = ScriptedService(lambda prompt: "word " * 20, step_s=0.005)
    desk = make_desk(service, port=0, shutdown_timeout_s=PATIENCE_S)
    answers = []
    with serving(desk) as url:
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=PATIENCE_S))
        )
        asking.start()
        until(lambda: service.stats().num_generated_tokens > 5)
    asking.join(PATIENCE_S)
    assert answers[0].json()["choices"][0]["message"]["content"] == "word " * 20


def test_stopping_ends_the_rest_with_a_reason(openai_at):
    service = ScriptedService(lambda prompt: "word " * 700, step_s=0.002)
    desk = make_desk(service, port=0, shutdown_timeout_s=0.3)
    outcome = []

    def ask(url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            try:
                outcome.append(client.chat.completions.create(**CHAT))
            except openai.APIStatusError as error:
                outcome.append(error)

    with serving(desk) as url:
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        until(lambda: service.stats().num_generated_tokens > 5)
    asking.join(PATIENCE_S)
    assert isinstance(outcome[0], openai.APIStatusError)
    assert outcome[0].status_code == 503
    assert "closing" in str(outcome[0])


def test_an_idle_stream_is_kept_alive(serve):
    service = ScriptedService(silent=True)
    url = serve(service, keepalive_s=0.05, request_timeout_s=600.0)
    body = CHAT | {"max_tokens": 5, "stream": True}
    with httpx.stream("POST", f"{url}/v1/messages", json=body, timeout=PATIENCE_S) as answer:
        lines = answer.iter_lines()
        assert sum(next(lines) == "event: ping" for _ in range(12)) >= 3


def test_many_clients_at_once_get_their_own_answers_and_leave_nothing(serve):
    service = ScriptedService(step_s=0.001)
    url = serve(service)

    async def one(client, index):
        body = {"model": "scripted", "messages": [{"role": "user", "content": f"say {index} " + "z" * (index % 40)}]}
        if index % 5 == 0:  # leaves in the middle
            async with client.stream("POST", f"{url}/v1/chat/completions", json=body | {"stream": True}) as answer:
                await anext(answer.aiter_raw())
                return None
        if index % 2:
            answer = await client.post(f"{url}/v1/chat/completions", json=body)
            return answer.json()["choices"][0]["message"]["content"] == body["messages"][0]["content"]
        text = ""
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body | {"stream": True}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
        return text == body["messages"][0]["content"]

    async def many(count):
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(timeout=PATIENCE_S, limits=limits) as client:
            return await asyncio.gather(*(one(client, index) for index in range(count)))

    asyncio.run(many(64))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    outcomes = asyncio.run(many(128))
    until(lambda: service.stats().num_running == 0)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert set(outcomes) == {None, True}
    assert service.stats().num_pages_used == 0
    service.seen.clear()
    assert grown < 4 * 2**20
