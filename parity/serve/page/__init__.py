"""The chat page at `/`: three files without any outside resource, so that it works offline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_PARTS = ("style.css", "app.js", "api.js", "message.js", "store.js", "markdown.js", "highlight.js")
_FILES = {"/": "index.html"} | {f"/page/{name}": name for name in _PARTS}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes() -> list[Route]:
    """The routes of the page's files."""
    return [Route(path, _serve(name), methods=["GET"]) for path, name in _FILES.items()]


def _serve(name: str) -> Callable[[Request], Awaitable[Response]]:
    content = resources.files(__package__).joinpath(name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]

    async def serve(request: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return serve
