"""Everything about the server that a user may choose; `command.py` fills it from flags."""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def host_name(host: str) -> str:
    """The host of a `Host` header in small letters, without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return (host if host.count(":") > 1 else host.partition(":")[0]).lower()


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's choices. The defaults are safe on a laptop: only this machine may connect, and nothing is unbounded.

    Args:
        host, port: where to listen; port 0 takes a free one.
        names: the model names answered to; the first is reported. Empty means the model's own name.
        api_keys: if not empty, every route but `/health` asks for one of them.
        allowed_origins: web origins whose pages may call the server (CORS); none by default.
        allowed_hosts: hosts of the `Host` header answered, whatever the port; `*` is any. Empty means those of this machine
            when bound to it, else any.
        max_body_bytes: larger bodies are refused with 413.
        max_prompt_tokens: longer prompts are refused; None leaves it to the context.
        max_running_per_key, max_queued_per_key: requests of one key in the engine, and behind them; more get 429.
        request_timeout_s: a request ends with `timeout` after this.
        body_timeout_s: a body must have arrived after this.
        stall_timeout_s: a client that reads nothing for this long is given up.
        shutdown_timeout_s: running requests may finish for this long when the server stops.
        keepalive_s: an idle stream gets a comment (Anthropic: a ping) this often.
        max_stored_responses: answers of `/v1/responses` kept for `previous_response_id`.
        default_template: template variables when a request gives none.
        sampling: sampling defaults, in place of the model's own.
        request_templates: whether a request may bring its own chat template.
        constrain_calls: whether every tool call is held to its schema, rather than those of strict tools alone.
        log_requests: a line for each request, without its text.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 16 * 2**20
    max_prompt_tokens: int | None = None
    max_running_per_key: int = 256
    max_queued_per_key: int = 256
    request_timeout_s: float = 600.0
    body_timeout_s: float = 30.0
    stall_timeout_s: float = 60.0
    shutdown_timeout_s: float = 30.0
    keepalive_s: float = 15.0
    max_stored_responses: int = 1024
    default_template: tuple[tuple[str, object], ...] = ()
    sampling: tuple[tuple[str, object], ...] = ()
    request_templates: bool = False
    constrain_calls: bool = True
    log_requests: bool = True

    @property
    def hosts(self) -> frozenset[str]:
        """The host names answered to; empty means any."""
        if "*" in self.allowed_hosts:
            return frozenset()
        if self.allowed_hosts:
            return frozenset(map(host_name, self.allowed_hosts))
        return LOOPBACK if self.host in LOOPBACK else frozenset()
