"""JSON over HTTP to a server that is not trusted: bounded in time, bytes and attempts, and silent about keys."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ...core.errors import FormatError, ParityError, UsageError
from ..packs.container import parse_json

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_WAIT_S = 30.0


class EndpointError(ParityError):
    """An endpoint did not answer, or not with what was asked. `status` is the HTTP status, None without one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an endpoint may cost.

    Args:
        timeout_s: from sending a request to the last byte of its answer.
        max_bytes: of one answer.
        attempts: tries of one request when the server is busy or the line breaks.
        at_once: requests in flight.
        requests_per_s: most requests a second; None is no limit.
    """

    timeout_s: float = 120.0
    max_bytes: int = 16 << 20
    attempts: int = 4
    at_once: int = 4
    requests_per_s: float | None = None


class Http:
    """Sends JSON to one server. Safe to use from several threads; follows no redirects.

    Args:
        root: such as `https://host:8000`; a path in it is put before every path asked for.
        key: sent as a bearer token; never part of an error, a log line or a pack.
        limits: see `Limits`.

    Raises:
        UsageError: the URL is not one that can be asked.
    """

    def __init__(self, root: str, key: str | None, limits: Limits) -> None:
        try:
            parts = urlsplit(root)
            port = parts.port
        except ValueError:
            raise UsageError("the endpoint's URL cannot be read; write it like http://host:8000/v1") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("an endpoint is an http:// or https:// URL with a host")
        if parts.username or parts.password or parts.query:
            raise UsageError("put no key into the endpoint's URL; name an environment variable that holds it")
        self._host, self._port, self._tls = parts.hostname, port, parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._key, self._limits = key, limits
        self._pace = threading.Lock()
        self._next_s = 0.0
        self._lines: set[http.client.HTTPConnection] = set()
        self._closed = threading.Event()
        self.server = ""
        self.name = f"{parts.scheme}://{parts.netloc}{self._prefix}"

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return self._retried("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that a path answers to a JSON body.

        Raises:
            EndpointError: no answer, a refusal, or one that is not JSON, too long or too slow.
        """
        return self._retried("POST", path, json.dumps(body).encode())

    def close(self) -> None:
        """Cuts what is in flight and sends nothing more: whoever asks, or waits, is told by `EndpointError`."""
        self._closed.set()
        for line in list(self._lines):
            _cut(line)

    def _retried(self, method: str, path: str, body: bytes | None) -> Any:
        for attempt in range(1, self._limits.attempts + 1):
            self._wait_for_turn()
            if self._closed.is_set():
                raise EndpointError(f"{self.name} is asked no more")
            try:
                status, retry_after_s, data = self._send(method, path, body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                fault = EndpointError(f"{self.name}{path} did not answer: {self._clean(str(error) or type(error).__name__)}")
                retry_after_s = None
            else:
                if status == 200:
                    return self._parsed(path, data)
                fault = EndpointError(f"{self.name}{path} answered {status}{self._clean(_reason(data))}", status)
            if attempt == self._limits.attempts or (fault.status is not None and fault.status not in _RETRIED):
                raise fault
            self._closed.wait(min(_MAX_WAIT_S, 0.25 * 2**attempt if retry_after_s is None else retry_after_s))
        raise AssertionError("attempts is at least 1")

    def _wait_for_turn(self) -> None:
        if self._limits.requests_per_s is None:
            return
        with self._pace:
            now = time.monotonic()
            turn = max(now, self._next_s)
            self._next_s = turn + 1 / self._limits.requests_per_s
        self._closed.wait(max(0.0, turn - now))

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, float | None, bytes]:
        """(status, seconds to wait before trying again, body). A watchdog cuts the line when the time is up."""
        connection = self._connection()
        deadline_s = time.monotonic() + self._limits.timeout_s
        watchdog = threading.Timer(self._limits.timeout_s, _cut, [connection])
        watchdog.daemon = True
        watchdog.start()
        self._lines.add(connection)
        try:
            connection.connect()
            if self._closed.is_set():
                raise OSError("the line was closed")
            connection.request(method, self._prefix + path, body, self._headers())
            response = connection.getresponse()
            self.server = self.server or self._clean((response.getheader("Server") or "")[:80])
            data = bytearray()
            while piece := response.read1(1 << 16):
                data += piece
                if len(data) > self._limits.max_bytes:
                    raise ValueError(f"the answer is longer than {self._limits.max_bytes} bytes")
                if time.monotonic() > deadline_s:
                    raise TimeoutError
            if time.monotonic() > deadline_s:
                raise TimeoutError
            return response.status, _seconds(response.getheader("Retry-After")), bytes(data)
        except (OSError, http.client.HTTPException, AttributeError) as error:
            if time.monotonic() >= deadline_s:
                raise TimeoutError(f"nothing whole within {self._limits.timeout_s:g} s") from None
            raise OSError(str(error) or type(error).__name__) from None
        finally:
            self._lines.discard(connection)
            watchdog.cancel()
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        timeout_s = self._limits.timeout_s
        if self._tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "parity-verify"}
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _parsed(self, path: str, data: bytes) -> Any:
        if data.lstrip()[:1] == b"<":
            raise EndpointError(f"{self.name}{path} answers with a web page: name the address of an OpenAI-compatible API")
        try:
            return parse_json(data, f"the answer of {self.name}{path}")
        except FormatError as error:
            raise EndpointError(self._clean(str(error))) from None

    def _clean(self, text: str) -> str:
        """A server's words without the key, and without what could disturb a terminal."""
        if self._key:
            text = text.replace(self._key, "***")
        return "".join(letter if letter.isprintable() else " " for letter in text[:300])


def _cut(connection: http.client.HTTPConnection) -> None:
    line = connection.sock
    if line is not None:
        try:
            line.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value <= _MAX_WAIT_S else None


def _reason(data: bytes) -> str:
    """What a refusal says of itself, in short."""
    try:
        value = json.loads(data[:4096])
        inner = value.get("error", value)
        text = inner.get("message", "") if isinstance(inner, dict) else inner
    except (ValueError, AttributeError, RecursionError):
        return ""
    return f": {text[:160]}" if isinstance(text, str) and text else ""
