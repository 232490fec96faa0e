"""Every route, once: what the application serves and what the OpenAPI document says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .anthropic.messages import Messages
from .anthropic.types import CountRequest, MessageOut, MessagesRequest, TokenCount
from .desk import Desk
from .openai.chat import Chat
from .openai.chat_types import ChatCompletion, ChatRequest
from .openai.completions import Completion, CompletionRequest, Completions
from .openai.embeddings import EmbeddingList, EmbeddingRequest, Embeddings
from .openai.input_items import ItemPage
from .openai.models import ModelList, ModelOut, Models
from .openai.responses import Responses
from .openai.responses_types import DeletedResponse, InputTokens, InputTokensRequest, ResponseOut, ResponsesRequest
from .status import Health, Ready, Status, StatusRoutes, Version
from .tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokenizing, Tokens

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """A route: what it takes, what it gives, and where.

    Args:
        answer: the type of a 200 answer's JSON; None for text.
        body: the type of the body; None for a route without one.
        streams: whether the answer may be a stream of events.
    """

    method: str
    path: str
    endpoint: Endpoint
    answer: Any
    body: Any = None
    streams: bool = False


def api_routes(desk: Desk) -> list[ApiRoute]:
    """The routes of both APIs, and the server's own."""
    chat, completions, responses = Chat(desk), Completions(desk), Responses(desk)
    embeddings, models, messages = Embeddings(desk), Models(desk), Messages(desk)
    tokenizing, status = Tokenizing(desk), StatusRoutes(desk)
    return [
        ApiRoute("GET", "/v1/models", models.list, ModelList),
        ApiRoute("GET", "/v1/models/{name:path}", models.one, ModelOut),
        ApiRoute("POST", "/v1/chat/completions", chat.create, ChatCompletion, ChatRequest, streams=True),
        ApiRoute("POST", "/v1/completions", completions.create, Completion, CompletionRequest, streams=True),
        ApiRoute("POST", "/v1/responses", responses.create, ResponseOut, ResponsesRequest, streams=True),
        ApiRoute("POST", "/v1/responses/input_tokens", responses.count, InputTokens, InputTokensRequest),
        ApiRoute("GET", "/v1/responses/{id}", responses.get, ResponseOut),
        ApiRoute("GET", "/v1/responses/{id}/input_items", responses.input_items, ItemPage),
        ApiRoute("DELETE", "/v1/responses/{id}", responses.delete, DeletedResponse),
        ApiRoute("POST", "/v1/embeddings", embeddings.create, EmbeddingList, EmbeddingRequest),
        ApiRoute("POST", "/v1/messages", messages.create, MessageOut, MessagesRequest, streams=True),
        ApiRoute("POST", "/v1/messages/count_tokens", messages.count, TokenCount, CountRequest),
        ApiRoute("POST", "/tokenize", tokenizing.tokenize, Tokens, TokenizeRequest),
        ApiRoute("POST", "/detokenize", tokenizing.detokenize, Detokenized, DetokenizeRequest),
        ApiRoute("GET", "/health", status.health, Health),
        ApiRoute("GET", "/ready", status.ready, Ready),
        ApiRoute("GET", "/version", status.version, Version),
        ApiRoute("GET", "/status", status.status, Status),
        ApiRoute("GET", "/metrics", status.metrics, None),
    ]
