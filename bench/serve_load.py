"""Load on a running server: many clients at once, streaming, of mixed lengths, some leaving and some cancelling.

    python bench/serve_load.py http://127.0.0.1:8000 --clients 64 --seconds 180 --pid 4711

It speaks OpenAI's API, so the same load can be put on any server. Two mixes:

- `conversations`: log-normal lengths in the proportion that is published of ShareGPT's conversations (means of 161 tokens of
  prompt and 338 of answer: Kwon et al., arXiv 2309.06180, section 6), halved, for whole answers within minutes.
- `prompts`: long prompts and short answers, uniform: 3 to 120 words, 4 to 64 tokens.

Every answer has as many tokens as its request asks for (`ignore_eos`), so none can be cut unseen, and every server is given
the same work; a client's first answer is shortened by chance, so that they do not all end together. Clients come one after the
other during the warm-up, of which nothing but a failure is counted. What is under way when the time is over is cancelled, its
tokens counted, its wait for a first token, too. With `--check N`, the beginnings of N answers are compared with what the server
says when asked again alone: none may belong to another. Of a Parity server `/status` is read before and after: all pages must
be free again. With `--pid` its resident memory is read during the load.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import time
import urllib.parse
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

WORDS = "river stone lamp engine paper cloud garden signal copper window thread market harbour pencil mirror forest".split()
SYSTEM = "You are a helpful assistant."
NUM_FRAME_TOKENS = 32  # of the conversation around the words
SIGMA = 0.8
CHECKED_TOKENS = 24
RSS_EVERY_S = 5.0


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta = msgspec.field(default_factory=Delta)
    finish_reason: str | None = None


class Counts(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class Piece(msgspec.Struct):
    """What is read of a streamed event; a server may send more."""

    choices: list[Choice] = []
    usage: Counts | None = None
    error: Any = None


class Refused(Exception):
    """A 429, to come back later."""


PIECES = msgspec.json.Decoder(Piece)


@dataclass(frozen=True)
class Load:
    """What is put on the server."""

    host: str
    port: int
    model: str
    key: str
    mix: str
    num_clients: int
    warm_up_s: float
    seconds: float
    leaving: float
    cancelling: float


@dataclass
class Tally:
    """What was seen."""

    first_token_s: list[float] = field(default_factory=list)
    between_pieces_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    num_output_tokens: int = 0
    num_whole_tokens: int = 0
    num_prompt_tokens: int = 0
    num_whole: int = 0
    num_left: int = 0
    num_cancelled: int = 0
    num_refused: int = 0
    num_unfinished: int = 0
    is_over: bool = False
    problems: list[str] = field(default_factory=list)
    answers: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    rss_mib: list[int] = field(default_factory=list)


async def main() -> None:
    """Runs the load and prints what came of it."""
    arguments = parse()
    place = urllib.parse.urlsplit(arguments.url)
    host, port = place.hostname or "127.0.0.1", place.port or 80
    model = arguments.model or (await get(host, port, "/v1/models", arguments.key))["data"][0]["id"]
    load = Load(
        host, port, model, arguments.key, arguments.mix, arguments.clients, arguments.warm_up,
        arguments.seconds,         arguments.leaving, arguments.cancelling,
    )  # fmt: skip
    before = await status(load)
    tally = await put(load, arguments.pid)
    report(tally, load)
    after = await settled(load)
    if before and after:
        pages = f"{before['num_pages_used']} before, {after['num_pages_used']} after"
        print(f"pages in use   {pages}; running {after['num_running']}, waiting {after['num_waiting']}")
    await compare(load, tally.answers[: arguments.check])


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="such as http://127.0.0.1:8000")
    parser.add_argument("--model", help="default: the first that the server names")
    parser.add_argument("--key", default="none", help="the API key")
    parser.add_argument("--mix", choices=("conversations", "prompts"), default="conversations")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=180, help="measured, after the warm-up")
    parser.add_argument("--warm-up", type=float, default=45, metavar="SECONDS")
    parser.add_argument("--leaving", type=float, default=0.15, help="share whose client leaves after a few tokens")
    parser.add_argument("--cancelling", type=float, default=0.1, help="share cancelled at any moment, also before a token")
    parser.add_argument("--check", type=int, default=0, metavar="N", help="answers to compare with those of an idle server")
    parser.add_argument("--pid", type=int, help="the server's process, to read its resident memory")
    return parser.parse_args()


# The load


async def put(load: Load, pid: int | None) -> Tally:
    """All clients, until the time is over; what was seen after the warm-up, and the memory from the beginning."""
    tally = Tally()
    tasks = [asyncio.create_task(one_client(load, seed, tally)) for seed in range(load.num_clients)]
    for seconds in (load.warm_up_s, load.seconds):
        problems, rss_mib = tally.problems, tally.rss_mib
        vars(tally).update(vars(Tally(problems=problems, rss_mib=rss_mib)))
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            if pid is not None:
                tally.rss_mib.append(resident_mib(pid))
            await asyncio.sleep(min(left_s, RSS_EVERY_S))
    tally.is_over = True
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(ended, asyncio.CancelledError):
            tally.problems.append(f"a client ended: {ended!r}")
    return tally


async def one_client(load: Load, seed: int, tally: Tally) -> None:
    """Asks one thing after the other."""
    chance = random.Random(seed)
    is_first = True
    await asyncio.sleep(load.warm_up_s * seed / load.num_clients)
    while True:
        num_words, max_tokens = lengths(chance, load.mix)
        if is_first:
            max_tokens, is_first = max(4, round(max_tokens * chance.random())), False
        prompt = f"Client {seed}: tell me about {' '.join(chance.choices(WORDS, k=num_words))}."
        leaves_after = chance.randint(0, 8) if chance.random() < load.leaving else None
        cancels_after_s = chance.uniform(0.05, 4.0) if chance.random() < load.cancelling else None
        try:
            async with asyncio.timeout(cancels_after_s):
                await one_request(load, body_of(load, prompt, max_tokens), leaves_after, tally)
        except TimeoutError:
            tally.num_cancelled += 1
        except Refused as later:
            tally.num_refused += 1
            await asyncio.sleep(float(str(later)))
        except (OSError, EOFError, ValueError) as error:
            tally.problems.append(f"{type(error).__name__}: {error}")


def lengths(chance: random.Random, mix: str) -> tuple[int, int]:
    """(words of a prompt, tokens of its answer)."""
    if mix == "prompts":
        return chance.randint(3, 120), chance.randint(4, 64)
    prompt, answer = (round(chance.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA)) for mean in (80.5, 169.0))
    return max(3, min(prompt, 400) - NUM_FRAME_TOKENS), max(4, min(answer, 560))


def body_of(load: Load, prompt: str, max_tokens: int) -> dict[str, Any]:
    """A request."""
    return {
        "model": load.model,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def one_request(load: Load, body: dict[str, Any], leaves_after: int | None, tally: Tally) -> None:
    """One streamed answer, or its beginning."""
    start_s = time.monotonic()
    last_s: float | None = None
    num_pieces = 0
    parts: list[str] = []
    finish: str | None = None
    usage: Counts | None = None
    try:
        async for piece in streamed(load, body):
            usage = piece.usage or usage
            for choice in piece.choices:
                finish = choice.finish_reason or finish
                if not choice.delta.content:
                    continue
                now_s = time.monotonic()
                if last_s is None:
                    tally.first_token_s.append(now_s - start_s)
                else:
                    tally.between_pieces_s.append(now_s - last_s)
                last_s, num_pieces = now_s, num_pieces + 1
                tally.num_output_tokens += 1
                parts.append(choice.delta.content)
            if leaves_after is not None and num_pieces >= leaves_after:
                tally.num_left += 1
                return
        if finish is None or usage is None:
            raise EOFError("an answer ended without a finish reason or counts")
        if usage.completion_tokens != body["max_tokens"]:
            raise EOFError(f"an answer of {body['max_tokens']} tokens has {usage.completion_tokens}: {finish}")
        tally.num_whole += 1
        tally.num_whole_tokens += usage.completion_tokens
        tally.num_prompt_tokens += usage.prompt_tokens
        tally.whole_s.append(time.monotonic() - start_s)
        tally.answers.append((body, "".join(parts)))
    except asyncio.CancelledError:
        if tally.is_over:
            tally.num_unfinished += 1
            if last_s is None:
                tally.first_token_s.append(time.monotonic() - start_s)  # at least
        raise


async def compare(load: Load, answers: list[tuple[dict[str, Any], str]]) -> None:
    """Asks again, one at a time, and prints what begins otherwise."""
    num_same = 0
    for body, answer in answers:
        again = "".join([
            choice.delta.content or ""
            async for piece in streamed(load, body | {"max_tokens": min(body["max_tokens"], CHECKED_TOKENS)})
            for choice in piece.choices
        ])  # fmt: skip
        num_same += answer.startswith(again)
        if not answer.startswith(again):
            print(f"differs alone  {body['messages'][1]['content'][:40]!r}: {answer[: len(again)]!r} and {again!r}")
    if answers:
        print(f"asked again    {num_same} of {len(answers)} begin the same alone")


# HTTP, as little as it takes: the clients share the processors with the server


async def streamed(load: Load, body: dict[str, Any]) -> AsyncIterator[Piece]:
    """The events of one answer; the connection is closed however the iteration ends."""
    reader, writer = await asyncio.open_connection(load.host, load.port)
    try:
        writer.write(request_bytes(load.host, "POST", "/v1/chat/completions", load.key, msgspec.json.encode(body)))
        code, headers = await head(reader)
        if code == 429:
            raise Refused(headers.get("retry-after", "1"))
        if code != 200:
            raise ValueError(f"{code}: {(await reader.read(300))!r}")
        rest = b""
        async for part in parts_of(reader, headers):
            *events, rest = (rest + part).split(b"\n\n")
            for event in events:
                if event.startswith(b"data: {"):
                    piece = PIECES.decode(event[6:])
                    if piece.error is not None:
                        raise ValueError(str(piece.error))
                    yield piece
    finally:
        writer.close()


def request_bytes(host: str, method: str, path: str, key: str, body: bytes = b"") -> bytes:
    """A request of HTTP/1.1 for one answer."""
    lines = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
    return (lines + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body


async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """(the code, the headers by their names in small letters)."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def parts_of(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """The body as it comes."""
    if headers.get("transfer-encoding") != "chunked":
        while part := await reader.read(65536):
            yield part
        return
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def get(host: str, port: int, path: str, key: str) -> Any:
    """What a route says, or None if it is not there."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request_bytes(host, "GET", path, key))
        code, headers = await head(reader)
        whole = b"".join([part async for part in parts_of(reader, headers)])
        return msgspec.json.decode(whole) if code == 200 else None
    finally:
        writer.close()


# Looking at the server


async def status(load: Load) -> dict[str, Any] | None:
    """What a Parity server says of itself; None from another."""
    told: dict[str, Any] | None = await get(load.host, load.port, "/status", load.key)
    return told


async def settled(load: Load) -> dict[str, Any] | None:
    """What a Parity server says once it has noticed that everybody has left."""
    for _ in range(30):
        told = await status(load)
        if told is None or not told["num_running"] + told["num_waiting"]:
            return told
        await asyncio.sleep(1)
    return told


def resident_mib(pid: int) -> int:
    """A process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    raise ValueError(f"process {pid} has no resident memory")


def report(tally: Tally, load: Load) -> None:
    """Prints the counts and the percentiles."""
    gone = f"{tally.num_left} left in the middle, {tally.num_cancelled} cancelled, {tally.num_refused} refused (429)"
    print(f"requests       {tally.num_whole} whole, {gone}, {tally.num_unfinished} under way at the end")
    print(f"problems       {len(tally.problems)} {sorted(set(tally.problems))[:5]}")
    if tally.num_whole:
        means = f"{tally.num_prompt_tokens / tally.num_whole:.0f} in, {tally.num_whole_tokens / tally.num_whole:.0f} out"
        print(f"whole answers  {tally.num_whole_tokens} tokens out, {tally.num_prompt_tokens} in; means {means}")
    print(
        f"output rate    {tally.num_output_tokens / load.seconds:.1f} tokens/s over {load.seconds:.0f} s, all pieces that came"
    )
    for name, values in (
        ("first token", tally.first_token_s),
        ("between", tally.between_pieces_s),
        ("whole", tally.whole_s),
    ):
        if len(values) > 1:
            cuts = statistics.quantiles(values, n=100)
            print(f"{name:<14} p50 {cuts[49]:.3f} s   p90 {cuts[89]:.3f} s   p99 {cuts[98]:.3f} s")
    if tally.rss_mib:
        print(f"resident, MiB  {' '.join(map(str, tally.rss_mib))} (every {RSS_EVERY_S:g} s)")


if __name__ == "__main__":
    asyncio.run(main())
