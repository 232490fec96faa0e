"""Servers over the scripted engine: in process, and on a real socket."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import anthropic
import httpx
import openai
import pytest

from parity.serve.app import create_app
from parity.serve.desk import Desk
from parity.serve.run import Server, bind

from .scripted import ScriptedService, make_desk

PATIENCE_S = 60.0
"""How long a test waits for what must come: only a test that fails waits so long, however busy the machine is."""


def until(condition: Callable[[], bool]) -> None:
    """Waits for what must come to pass."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


@contextmanager
def serving(desk: Desk, closes: bool = True, buffer_bytes: int | None = None) -> Iterator[str]:
    """A server on a free port of this machine, in a thread; gives its URL. The system keeps `buffer_bytes` of an answer."""
    server = Server(desk, bind(desk.settings))
    if buffer_bytes is not None:
        server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [server.listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE_S
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    try:
        yield server.url
    finally:
        server.should_exit = True
        thread.join(2 * PATIENCE_S)
        if closes:
            desk.service.close()
        assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts servers: `serve(service, **settings)` gives a URL."""
    with _stack() as enter:

        def start(service: ScriptedService | None = None, **settings: object) -> str:
            return enter(serving(make_desk(service, port=0, shutdown_timeout_s=1.0, **settings)))

        yield start


@pytest.fixture
def openai_at() -> Iterator[Callable[..., openai.OpenAI]]:
    """Official clients, closed at the end: `openai_at(url)`."""
    with _stack() as enter:
        yield lambda url, api_key="none": enter(openai.OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0))


@pytest.fixture
def anthropic_at() -> Iterator[Callable[..., anthropic.Anthropic]]:
    """Official clients, closed at the end: `anthropic_at(url)`."""
    with _stack() as enter:
        yield lambda url, api_key="none": enter(anthropic.Anthropic(base_url=url, api_key=api_key, max_retries=0))


@contextmanager
def _stack() -> Iterator[Callable[..., str]]:
    with ExitStack() as stack:
        yield stack.enter_context


def client_of(desk: Desk) -> httpx.AsyncClient:
    """A client that calls the application without a socket."""
    transport = httpx.ASGITransport(create_app(desk), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs coroutine tests in a loop of their own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
