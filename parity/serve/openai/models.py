"""`GET /v1/models` and `GET /v1/models/{name}`."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..desk import Desk
from ..refusals import Refusal
from ..wire import json_response


class ModelOut(msgspec.Struct):
    """A model that can be asked for. `max_model_len` is its context in tokens."""

    id: str
    created: int
    max_model_len: int
    root: str
    object: Literal["model"] = "model"
    owned_by: str = "parity"
    type: Literal["model"] = "model"
    display_name: str = ""
    created_at: str = "1970-01-01T00:00:00Z"


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
        return ModelOut(id=name, created=0, max_model_len=info.max_model_len, root=info.name, display_name=name)


def check_model(name: str, desk: Desk) -> None:
    """Refuses a model that is not served here.

    Raises:
        Refusal: 404, naming the models that are.
    """
    if name not in desk.names:
        known = ", ".join(desk.names)
        raise Refusal(404, f"the model {name!r} is not served here; served: {known}", "model", "model_not_found")
