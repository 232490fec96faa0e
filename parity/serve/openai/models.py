"""`GET /v1/models` and `GET /v1/models/{name}`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..desk import Desk
from ..refusals import Refusal
from ..wire import json_response


class ModelOut(msgspec.Struct):
    """A model that can be asked for: when its files were written, once for each API, and its context in tokens."""

    id: str
    created: int
    max_model_len: int
    root: str
    object: Literal["model"] = "model"
    owned_by: str = "parity"
    type: Literal["model"] = "model"
    display_name: str = ""
    created_at: str = ""


class ModelList(msgspec.Struct):
    """All names that the server answers to."""

    data: list[ModelOut]
    object: Literal["list"] = "list"
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class Models:
    """The routes. Their answers carry what both OpenAI's and Anthropic's clients read."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def list(self, request: Request) -> Response:
        """All models."""
        models = [self._model(name) for name in self._desk.names]
        return json_response(ModelList(models, first_id=models[0].id, last_id=models[-1].id))

    async def one(self, request: Request) -> Response:
        """One model."""
        name = request.path_params["name"]
        check_model(name, self._desk)
        return json_response(self._model(name))

    def _model(self, name: str) -> ModelOut:
        info = self._desk.info
        written = datetime.fromtimestamp(info.modified_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return ModelOut(name, info.modified_s, info.max_model_len, info.name, display_name=name, created_at=written)


def check_model(name: str, desk: Desk) -> None:
    """Refuses a model that is not served here.

    Raises:
        Refusal: 404, naming the models that are.
    """
    if name not in desk.names:
        known = ", ".join(desk.names)
        raise Refusal(404, f"the model {name!r} is not served here; served: {known}", "model", "model_not_found")
