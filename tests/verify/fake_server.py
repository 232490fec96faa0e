"""An OpenAI-compatible server with a made-up model, in several dialects and several bad moods."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

VOCAB = 96
"""Token i is the character chr(32 + i); id 95 is the end."""


def encode(text: str) -> list[int]:
    return [min(max(ord(letter) - 32, 0), 94) for letter in text]


def piece(token: int) -> str:
    return "" if token == 95 else chr(32 + token)


class Words:
    """The vocabulary, as a tokenizer would offer it."""

    eos_token_ids = (95,)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return encode(text)

    def id_of(self, text: str) -> int | None:
        return ord(text) - 32 if len(text) == 1 and 32 <= ord(text) < 127 else None

    def all_bytes(self) -> list[bytes]:
        return [piece(token).encode() for token in range(VOCAB)]

    def decode(self, tokens: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        return "".join(piece(token) for token in tokens)


def logprobs(prefix: list[int], noise: float = 0.0) -> np.ndarray:
    """The made-up model: a distribution that depends on the last three tokens."""
    seed = int.from_bytes(hashlib.sha256(bytes(prefix[-3:])).digest()[:8], "little")
    generator = np.random.Generator(np.random.Philox(key=seed))
    logits = generator.normal(0, 2, VOCAB) + noise * np.random.Generator(np.random.Philox(key=seed + 1)).normal(size=VOCAB)
    return logits - np.log(np.exp(logits).sum())


def render(body: dict[str, Any]) -> list[int]:
    return encode("".join(f"<{m['role']}>{m['content']}" for m in body["messages"]) + "<assistant>")


class Handler(BaseHTTPRequestHandler):
    """Answers as `server.mood` says."""

    protocol_version = "HTTP/1.1"
    server: FakeServer

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        if self.path == "/v1/models":
            self.reply({"data": [{"id": "made-up"}]})
        else:
            self.reply({"error": {"message": "no such path"}}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers)))
        if self.server.mood is not None and self.server.mood(self, body):
            return
        handler = {
            "/tokenize": self.tokenize,
            "/apply-template": self.template,
            "/v1/completions": self.complete,
            "/v1/chat/completions": self.chat,
        }.get(self.path)
        if handler is None:
            self.reply({"error": "no such path"}, 404)
        else:
            handler(body)

    def tokenize(self, body: dict[str, Any]) -> None:
        if self.server.dialect not in ("vllm", "llamacpp"):
            self.reply({"error": "no such path"}, 404)
        elif "messages" in body and self.server.dialect == "vllm":
            self.reply({"tokens": render(body)})
        else:
            self.reply({"tokens": encode(body.get("prompt" if self.server.dialect == "vllm" else "content", ""))})

    def template(self, body: dict[str, Any]) -> None:
        if self.server.dialect == "llamacpp":
            self.reply({"prompt": "".join(piece(token) for token in render(body))})
        else:
            self.reply({}, 404)

    def top(self, prefix: list[int], count: int) -> list[tuple[int, float]]:
        values = logprobs(prefix, self.server.noise)
        return [(int(i), float(values[i])) for i in np.argsort(-values, kind="stable")[:count]]

    def complete(self, body: dict[str, Any]) -> None:
        if isinstance(body["prompt"], list) and self.server.dialect == "text prompts":
            return self.reply({"error": {"message": "prompt must be a string"}}, 422)
        prompt = body["prompt"] if isinstance(body["prompt"], list) else encode(body["prompt"])
        choice: dict[str, Any] = {"text": "x", "finish_reason": "length"}
        if "prompt_logprobs" in body:
            if self.server.dialect != "vllm":
                return self.reply({"error": {"message": "unknown field prompt_logprobs"}}, 400)
            choice["prompt_logprobs"] = [None] + [self.prompt_entry(prompt, i) for i in range(1, len(prompt))]
        elif body.get("echo"):
            if self.server.dialect not in ("echo", "text prompts", "shifted", "scrambled"):
                return self.reply({"error": {"message": "no echo"}}, 400)
            lag = {"shifted": 1, "scrambled": -1}.get(self.server.dialect, 0)
            values: list[float | None] = [None]
            tops: list[dict[str, float] | None] = [None]
            for i in range(1, len(prompt)):
                chosen = float(logprobs(prompt[: i + lag], self.server.noise)[prompt[i]])
                values.append(chosen)
                tops.append({piece(t): v for t, v in self.top(prompt[: i + lag], 5)} | {piece(prompt[i]): chosen})
            choice["logprobs"] = {"tokens": [piece(t) for t in prompt], "token_logprobs": values, "top_logprobs": tops}
        elif "logprobs" in body:
            if self.server.dialect == "texts":
                return self.reply({"error": {"message": "no logprobs"}}, 400)
            rows = [{"id": t, "token": piece(t), "logprob": v} for t, v in self.top(prompt, body["logprobs"])]
            choice["logprobs"] = {"content": [{**rows[0], "top_logprobs": rows}]}
        self.reply({"choices": [choice], "usage": {"prompt_tokens": len(prompt) + self.server.lie}})
        return None

    def prompt_entry(self, prompt: list[int], place: int) -> dict[str, Any]:
        rows = dict(self.top(prompt[:place], 20))
        rows[prompt[place]] = float(logprobs(prompt[:place], self.server.noise)[prompt[place]])
        return {str(token): {"logprob": value, "rank": 1} for token, value in rows.items()}

    def chat(self, body: dict[str, Any]) -> None:
        if body.get("logprobs") and self.server.dialect == "texts":
            return self.reply({"error": {"message": "no logprobs"}}, 400)
        prefix, content, tokens = render(body), [], []
        count = len(prefix)
        for _ in range(body["max_tokens"]):
            row = self.top(prefix, 20)
            token = row[0][0]
            entries = [{"token": f"token_id:{t}" if self.server.dialect == "vllm" else piece(t), "logprob": v} for t, v in row]
            content.append({**entries[0], "top_logprobs": entries})
            tokens.append(token)
            prefix.append(token)
            if token == 95:
                break
        choice: dict[str, Any] = {
            "message": {"role": "assistant", "content": "".join(piece(token) for token in tokens)},
            "finish_reason": "stop" if tokens[-1:] == [95] else "length",
        }
        if body.get("logprobs"):
            choice["logprobs"] = {"content": content}
        usage = {"prompt_tokens": count + self.server.lie, "completion_tokens": len(tokens)}
        self.reply({"choices": [choice], "usage": usage})
        return None


class FakeServer(ThreadingHTTPServer):
    """See `serve`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, dialect: str, mood: Any, noise: float, lie: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.dialect, self.mood, self.noise, self.lie = dialect, mood, noise, lie
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.stopping = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what is tested."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serve(dialect: str = "vllm", mood: Any = None, noise: float = 0.0, lie: int = 0) -> Iterator[FakeServer]:
    """A running server; `mood(handler, body)` may answer in its own way and return True."""
    server = FakeServer(dialect, mood, noise, lie)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


def drip(handler: Handler, body: dict[str, Any]) -> bool:
    """One byte at a time, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.stopping.wait(0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()
    return True


def drip_headers(handler: Handler, body: dict[str, Any]) -> bool:
    """Headers that never end."""
    while not handler.server.stopping.wait(0.02):
        handler.wfile.write(b"X")
        handler.wfile.flush()
    return True


def silence(handler: Handler, body: dict[str, Any]) -> bool:
    """No answer."""
    handler.server.stopping.wait(5)
    handler.close_connection = True
    return True


def flood(handler: Handler, body: dict[str, Any]) -> bool:
    """An answer without end, as fast as it goes."""
    handler.send_response(200)
    handler.end_headers()
    block = b" " * 65536
    while not handler.server.stopping.is_set():
        handler.wfile.write(block)
    return True


def hang_up(handler: Handler, body: dict[str, Any]) -> bool:
    """The line is cut in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return True


def always(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Any:
    """The same answer to everything."""

    def mood(handler: Handler, body: dict[str, Any]) -> bool:
        handler.reply(value, status, headers)
        return True

    return mood


def busy(times: int, status: int = 429) -> Any:
    """Refuses some requests first."""
    left = [times]

    def mood(handler: Handler, body: dict[str, Any]) -> bool:
        if left[0] > 0:
            left[0] -= 1
            handler.reply({"error": {"message": "busy"}}, status, {"Retry-After": "0"})
            return True
        return False

    return mood


def timed(seconds: float) -> Any:
    """Every answer takes a while."""

    def mood(handler: Handler, body: dict[str, Any]) -> bool:
        time.sleep(seconds)
        return False

    return mood
