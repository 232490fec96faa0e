"""Fetching a file over HTTP(S): resumed where it stopped, tried again after a passing failure, quick without network."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..catalogue import File
from .base import Count, SourceFailed

CONNECT_TIMEOUT_S = 4.0
READ_TIMEOUT_S = 30.0
ATTEMPTS = 4
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _Passing(Exception):
    """A failure after which the same URL may work."""


def get(url: str, headers: Mapping[str, str] | None = None, limit: int = 64 << 20) -> bytes | None:
    """A small file's bytes; None if there is none at that address.

    Raises:
        SourceFailed: the server cannot be reached or refuses.
    """
    import httpx

    try:
        with _client(headers) as client, client.stream("GET", url) as response:
            if response.status_code == 404:
                return None
            _check(response, url)
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > limit:
                    raise SourceFailed(f"{url} is larger than {limit} bytes")
            return bytes(body)
    except (httpx.HTTPError, httpx.InvalidURL, _Passing) as error:
        raise SourceFailed(_reason(error, url)) from None


def download(url: str, file: File, part: Path, count: Count, headers: Mapping[str, str] | None = None) -> None:
    """Brings a file to `part`, going on from the bytes that are there.

    Raises:
        SourceFailed: after several attempts without success; an attempt that brought bytes is not counted.
    """
    import httpx

    attempts = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        if file.size is not None and before > file.size:
            part.unlink()
            before = 0
        if before and before == file.size:
            return
        try:
            _attempt(url, part, before, file, count, headers)
            return
        except httpx.ConnectError as error:
            reason = _reason(error, url)
            attempts = ATTEMPTS if before == 0 else attempts + 1  # no network at all: the next source, at once
        except (httpx.HTTPError, httpx.InvalidURL, _Passing) as error:
            reason = _reason(error, url)
            after = part.stat().st_size if part.is_file() else 0
            attempts = 0 if after > before else attempts + 1
        if attempts >= ATTEMPTS:
            raise SourceFailed(reason)
        time.sleep(0.2 * 2**attempts)


def _attempt(url: str, part: Path, start: int, file: File, count: Count, headers: Mapping[str, str] | None) -> None:
    wanted = {"Range": f"bytes={start}-"} if start else {}
    with _client(headers) as client, client.stream("GET", url, headers={**wanted, "Accept-Encoding": "identity"}) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise _Passing("the server refused to go on from where the file stopped")
        _check(response, url)
        match = _RANGE.match(response.headers.get("Content-Range", ""))
        resumed = response.status_code == 206 and match is not None and int(match[1]) == start
        if response.status_code == 206 and not resumed:
            raise _Passing("the server sent another range than asked for")
        done = start if resumed else 0
        length = response.headers.get("Content-Length")
        expected = done + int(length) if length else file.size
        if file.size not in (None, expected):
            raise SourceFailed(f"{url} has {expected} bytes, not the {file.size} expected")
        with part.open("ab" if resumed else "wb") as target:
            for chunk in response.iter_raw():
                target.write(chunk)
                done += len(chunk)
                if expected is not None and done > expected:
                    raise SourceFailed(f"{url} is longer than the {expected} bytes expected")
                count(done)
        if expected is not None and done < expected:
            raise _Passing(f"the connection ended after {done} of {expected} bytes")


def _client(headers: Mapping[str, str] | None) -> Any:
    import httpx

    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return httpx.Client(timeout=timeout, follow_redirects=True, headers=dict(headers or {}))


def _check(response: Any, url: str) -> None:
    status = response.status_code
    if status in (401, 403):
        raise SourceFailed(f"{url}: HTTP {status}; the model may need a token (HF_TOKEN) or its licence accepted")
    if status == 404:
        raise SourceFailed(f"{url}: HTTP 404, not there")
    if status == 429 or status >= 500:
        raise _Passing(f"{url}: HTTP {status}")
    if status >= 400:
        raise SourceFailed(f"{url}: HTTP {status}")


def _reason(error: Exception, url: str) -> str:
    return str(error) if isinstance(error, _Passing) else f"{url}: {type(error).__name__}: {error}"
