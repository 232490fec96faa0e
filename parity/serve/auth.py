"""Who may call: API keys on every route but `/health`, and host names against pages that rebind their DNS name."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .refusals import Refusal, error_response
from .settings import host_name

OPEN_PATHS = frozenset({"/health"})
ANYONE = "anyone"


class Keys:
    """The accepted keys. Only their hashes are kept, and every comparison looks at all of them in constant time."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = tuple(_digest(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def owner(self, key: str) -> str | None:
        """A short name for a key, to count its requests by, or None for a wrong one."""
        given = _digest(key)
        found = [known for known in self._hashes if hmac.compare_digest(known, given)]
        return found[0].hex()[:12] if found else None


class Guard:
    """ASGI middleware: leaves the caller's name in the scope as `owner`, or answers 401 or 403."""

    def __init__(self, app: ASGIApp, keys: Keys, hosts: frozenset[str]) -> None:
        self._app = app
        self._keys = keys
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._wrong_host(headers)
        if refusal is None:
            scope["owner"] = self._owner(headers)
            if scope["owner"] is None:
                refusal = _unauthorised(scope["path"])
        if refusal is not None:
            await error_response(refusal, scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _owner(self, headers: Headers) -> str | None:
        if not self._keys:
            return ANYONE
        owners = [self._keys.owner(key) for key in _offered(headers)]
        return next((owner for owner in owners if owner is not None), None)

    def _wrong_host(self, headers: Headers) -> Refusal | None:
        if not self._hosts:
            return None
        host = host_name(headers.get("host", ""))
        if host in self._hosts:
            return None
        return Refusal(403, f"this server does not answer for the host {host!r}; allow it with --allowed-hosts")


def _offered(headers: Headers) -> list[str]:
    """The keys in a request's headers: Bearer, `x-api-key`, and Basic's password, which is how a browser can send one."""
    keys = [headers[name] for name in ("x-api-key",) if name in headers]
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        keys.append(value.strip())
    elif kind.lower() == "basic":
        try:
            keys.append(base64.b64decode(value).decode().partition(":")[2])
        except (binascii.Error, UnicodeDecodeError):
            keys.append("")
    return keys


def _unauthorised(path: str) -> Refusal:
    browser = path == "/" or path.startswith("/page/")
    headers = {"WWW-Authenticate": 'Basic realm="parity: any name, the key as password"' if browser else "Bearer"}
    text = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
    return Refusal(401, text, code="invalid_api_key", headers=headers)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
