"""The application: routes behind guards."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from ..core.errors import ParityError
from .auth import Guard, Keys
from .desk import Desk
from .limits import BodyLimit
from .log import RequestLog
from .openapi import OpenApi
from .page import page_routes
from .refusals import Refusal, error_response, refusal_of
from .routes import api_routes

_LOG = logging.getLogger(__name__)


def create_app(desk: Desk) -> Starlette:
    """The ASGI application of a desk."""
    settings = desk.settings
    routes = api_routes(desk)
    middleware = [
        Middleware(RequestLog, enabled=settings.log_requests),
        Middleware(Guard, keys=Keys(settings.api_keys), hosts=settings.hosts),
        Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
    ]
    if settings.allowed_origins:
        cors = Middleware(
            CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["*"], allow_headers=["*"], max_age=600
        )
        middleware.insert(1, cors)
    handlers: dict[type[Exception], ExceptionHandler] = {
        HTTPException: _refused_by_router,
        Refusal: _refused,
        ParityError: _refused,
        Exception: _failed,
    }
    return Starlette(
        routes=[
            *(Route(route.path, route.endpoint, methods=[route.method]) for route in routes),
            Route("/openapi.json", OpenApi(routes).get, methods=["GET"]),
            *page_routes(),
        ],
        middleware=middleware,
        exception_handlers=handlers,
    )


async def _refused(request: Request, error: Exception) -> Response:
    refusal = refusal_of(error)
    if refusal.status >= 500:
        _LOG.warning("%s: %s", request.scope.get("request_id", "")[:8], refusal)
    return error_response(refusal, request.url.path, request.scope.get("request_id"))


async def _refused_by_router(request: Request, error: Exception) -> Response:
    """An unknown path, or a method that a path does not have."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"
    text = f"there is no {what}" if error.status_code == 404 else f"{what}: {error.detail}"
    refusal = Refusal(error.status_code, text, headers=error.headers or {})
    return error_response(refusal, request.url.path, request.scope.get("request_id"))


async def _failed(request: Request, error: Exception) -> Response:
    """A mistake of ours: the framework logs its traceback, the client learns only that it happened."""
    request_id = request.scope["request_id"]
    response = error_response(refusal_of(error), request.url.path, request_id)
    response.headers["x-request-id"] = response.headers["request-id"] = request_id  # this answer does not pass `RequestLog`
    return response
