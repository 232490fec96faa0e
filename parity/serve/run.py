"""The life of a server process: bind, say when ready, and stop without losing an answer."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from .. import __version__
from ..core.errors import UsageError
from .app import create_app
from .desk import Desk
from .settings import LOOPBACK, Settings

_LOG = logging.getLogger("parity.serve")
_LAST_WORDS_S = 5.0
"""How long ended requests may take to tell their clients so."""


def bind(settings: Settings) -> socket.socket:
    """The listening socket, before a model is read for nothing.

    Raises:
        UsageError: the address is taken, not this machine's, or not allowed.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise _unheard(settings, error) from None
    listener.setblocking(False)
    return listener


def _unheard(settings: Settings, error: OSError | OverflowError) -> UsageError:
    reason = getattr(error, "strerror", None) or str(error)
    elsewhere = getattr(error, "errno", None) not in (errno.EADDRINUSE, errno.EACCES, None)
    flag = "--host" if elsewhere else "--port"
    return UsageError(f"cannot listen on {settings.host} port {settings.port}: {reason}; try another {flag}")


class Server(uvicorn.Server):
    """uvicorn, with a ready line and an end for every request."""

    def __init__(self, desk: Desk, listener: socket.socket) -> None:
        self._desk = desk
        self.listener = listener
        settings = desk.settings
        super().__init__(
            uvicorn.Config(
                create_app(desk),
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                backlog=2048,
                h11_max_incomplete_event_size=64 * 1024,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=max(1, int(settings.shutdown_timeout_s + _LAST_WORDS_S)),
            )
        )

    def serve_forever(self) -> None:
        """Serves until the process is told to stop."""
        with suppress(KeyboardInterrupt):
            self.run(sockets=[self.listener])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server and not the process, which has an engine to close; a second Ctrl-C stops it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen, and says so.

        Raises:
            UsageError: another server has begun to listen there since `bind`.
        """
        try:
            await super().startup(sockets)
        except OSError as error:
            raise _unheard(self._desk.settings, error) from None
        print(ready_line(self._desk, self.url), file=sys.stderr, flush=True)
        if self._desk.settings.host not in LOOPBACK and not self._desk.settings.api_keys:
            _LOG.warning("anyone who reaches %s may use this server: set --api-key", self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets running requests finish until the deadline, then ends the rest with a reason."""
        self._desk.is_stopping = True
        ending = asyncio.create_task(self._end_the_rest())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    @property
    def url(self) -> str:
        """Where the server is reached."""
        host, port = self.listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _end_the_rest(self) -> None:
        await asyncio.sleep(self._desk.settings.shutdown_timeout_s)
        _LOG.warning("the time to finish is over: the requests that still run are ended")
        await asyncio.get_running_loop().run_in_executor(None, self._desk.service.close, 0.0)


def ready_line(desk: Desk, url: str) -> str:
    """What is told once requests are taken."""
    info = desk.info
    return (
        f"Parity {__version__} is ready at {url}\n"
        f"  model {', '.join(desk.names)} ({info.architecture}, {info.dtype}) on the {info.stack} stack\n"
        f"  context of {info.max_model_len} tokens; {info.num_pages} pages of {info.page_size} tokens, "
        f"up to {info.state_bytes / 2**20:,.0f} MiB of state"
    )
