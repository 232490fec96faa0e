"""`POST /v1/embeddings`: the last token's hidden state, of a model that is made for it."""

from __future__ import annotations

import base64
from functools import partial
from typing import Literal

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from ...core.errors import ContextExceeded, RequestError, Unsupported
from ...core.request import Output
from ..desk import Desk, aside
from ..refusals import refusal_of_finish
from ..sse import while_connected
from ..wire import Strict, json_response, parse, read_body
from .models import check_model

MAX_TEXTS = 256


class EmbeddingRequest(Strict):
    """Texts, or token lists, to be embedded."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


class EmbeddingOut(msgspec.Struct):
    """One vector: numbers, or their little-endian float32 bytes in base64."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(msgspec.Struct):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct):
    """The vectors, in the order of the texts."""

    data: list[EmbeddingOut]
    model: str
    usage: EmbeddingUsage
    object: Literal["list"] = "list"


class Embeddings:
    """The route."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, request: Request) -> Response:
        """Embeds each text."""
        body = parse(await read_body(request, self._desk.settings.body_timeout_s), EmbeddingRequest)
        check_model(body.model, self._desk)
        if not self._desk.info.embeds:
            raise Unsupported(f"{self._desk.info.name} is not made for embeddings; serve a model that is")
        return await while_connected(request.receive, self._whole(body, request.scope["owner"]))

    async def _whole(self, body: EmbeddingRequest, owner: str) -> Response:
        texts = await aside(partial(self._texts, body))
        outputs = await self._desk.embed(texts, owner)
        vectors = [_vector(output, body.dimensions) for output in outputs]
        as_base64 = body.encoding_format == "base64"
        num_tokens = sum(map(len, texts))
        return json_response(
            EmbeddingList(
                [EmbeddingOut(index, _written(vector, as_base64)) for index, vector in enumerate(vectors)],
                body.model,
                EmbeddingUsage(num_tokens, num_tokens),
            )
        )

    def _texts(self, body: EmbeddingRequest) -> list[list[int]]:
        given = [body.input] if isinstance(body.input, str) else body.input
        numbers = [item for item in given if isinstance(item, int)]
        if numbers:
            if len(numbers) != len(given):
                raise RequestError("input must hold texts, or token ids, or lists of token ids", field="input")
            return [numbers]
        if not 1 <= len(given) <= MAX_TEXTS:
            raise RequestError(f"input must hold 1 to {MAX_TEXTS} texts, not {len(given)}", field="input")
        lists = [item for item in given if not isinstance(item, int)]
        texts = [self._desk.words.encode(item) if isinstance(item, str) else item for item in lists]
        for tokens in texts:
            if not tokens:
                raise RequestError("input holds a text without tokens", field="input")
            if len(tokens) > self._desk.info.max_model_len:
                raise ContextExceeded(len(tokens), self._desk.info.max_model_len)
        return texts


def _vector(output: Output, dimensions: int | None) -> np.ndarray:
    """The vector, shortened to `dimensions` if asked, of length 1."""
    if output.finish is not None and (refusal := refusal_of_finish(output.finish)) is not None:
        raise refusal
    if output.array is None:
        raise RuntimeError(f"the engine ended the embedding {output.request_id} without a vector")
    vector = output.array.astype(np.float32)
    if dimensions is not None:
        if not 1 <= dimensions <= vector.size:
            raise RequestError(f"dimensions must be between 1 and {vector.size}, not {dimensions}", field="dimensions")
        vector = vector[:dimensions]
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _written(vector: np.ndarray, as_base64: bool) -> list[float] | str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()
