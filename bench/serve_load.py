"""Load on a running server: many clients at once, streaming, of mixed lengths, some leaving and some cancelling.

    python bench/serve_load.py http://127.0.0.1:8000 --clients 64 --seconds 180

It speaks OpenAI's API, so the same load can be put on any server. Each answer is checked to belong to its request where
the server is deterministic: with `--check`, a sample of the prompts is asked again alone at temperature 0, and compared.
On a Parity server it also reads `/status` before and after: the pages in use must be back where they were.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

WORDS = "river stone lamp engine paper cloud garden signal copper window thread market harbour pencil mirror forest".split()

SYSTEM = "You are a helpful assistant."


@dataclass
class Tally:
    """What was seen."""

    first_token_s: list[float] = field(default_factory=list)
    between_tokens_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    num_output_tokens: int = 0
    num_pieces: int = 0
    num_prompt_tokens: int = 0
    num_whole: int = 0
    num_left: int = 0
    num_cancelled: int = 0
    num_refused: int = 0
    problems: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """What is put on the server."""

    url: str
    model: str
    key: str
    num_clients: int
    seconds: float
    leaving: float
    cancelling: float
    max_prompt_words: int
    max_tokens: int


async def main() -> None:
    """Runs the load and prints what came of it."""
    arguments = parse()
    headers = {"Authorization": f"Bearer {arguments.key}"}
    limits = httpx.Limits(max_connections=arguments.clients + 8)
    async with httpx.AsyncClient(headers=headers, timeout=600, limits=limits) as client:
        model = arguments.model or (await client.get(f"{arguments.url}/v1/models")).json()["data"][0]["id"]
        load = Load(
            arguments.url, model, arguments.key, arguments.clients, arguments.seconds, arguments.leaving, arguments.cancelling,
            arguments.max_prompt_words, arguments.max_tokens,
        )  # fmt: skip
        before = await status(client, load)
        tally = Tally()
        start_s = time.monotonic()
        await asyncio.gather(*(one_client(client, load, seed, start_s, tally) for seed in range(load.num_clients)))
        took_s = time.monotonic() - start_s
        report(tally, took_s)
        await asyncio.sleep(1)
        after = await settled(client, load)
        if before and after:
            pages = f"{before['num_pages_used']} before, {after['num_pages_used']} after"
            print(f"pages in use   {pages}; running {after['num_running']}, waiting {after['num_waiting']}")
        for prompt, answer in list(tally.answers.items())[: arguments.check]:
            again = await whole(client, load, prompt)
            if again != answer:
                print(f"differs alone  {prompt[:40]!r}: {answer[:60]!r} and {again[:60]!r}")


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="such as http://127.0.0.1:8000")
    parser.add_argument("--model", help="default: the first that the server names")
    parser.add_argument("--key", default="none", help="the API key")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=180, help="no request is begun after this")
    parser.add_argument("--leaving", type=float, default=0.15, help="share of requests whose client leaves in the middle")
    parser.add_argument(
        "--cancelling", type=float, default=0.1, help="share that is cancelled at any moment, also before a token"
    )
    parser.add_argument("--max-prompt-words", type=int, default=120)
    parser.add_argument("--max-tokens", type=int, default=64, help="the longest answer")
    parser.add_argument("--check", type=int, default=0, metavar="N", help="answers to compare with those of an idle server")
    return parser.parse_args()


async def one_client(client: httpx.AsyncClient, load: Load, seed: int, start_s: float, tally: Tally) -> None:
    """Asks one thing after the other until the time is over."""
    chance = random.Random(seed)
    while time.monotonic() - start_s < load.seconds:
        words = " ".join(chance.choices(WORDS, k=chance.randint(3, load.max_prompt_words)))
        prompt = f"Client {seed}: tell me about {words}."
        leaves_after = chance.randint(0, 8) if chance.random() < load.leaving else None
        cancels_after_s = chance.uniform(0.05, 4.0) if chance.random() < load.cancelling else None
        body = {
            "model": load.model,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
            "max_tokens": chance.randint(4, load.max_tokens),
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with asyncio.timeout(cancels_after_s):
                await one_request(client, load, body, leaves_after, tally)
        except TimeoutError:
            tally.num_cancelled += 1
        except (httpx.HTTPError, ValueError, KeyError) as error:
            tally.problems.append(f"{type(error).__name__}: {error}")


async def one_request(
    client: httpx.AsyncClient, load: Load, body: dict[str, Any], leaves_after: int | None, tally: Tally
) -> None:
    """One streamed answer, or its beginning."""
    start_s = last_s = time.monotonic()
    num_tokens = 0
    parts: list[str] = []
    finish = usage = None
    async with client.stream("POST", f"{load.url}/v1/chat/completions", json=body) as answer:
        if answer.status_code == 429:
            tally.num_refused += 1
            await answer.aread()
            await asyncio.sleep(float(answer.headers.get("retry-after", "1")))
            return
        if answer.status_code != 200:
            raise ValueError(f"{answer.status_code}: {(await answer.aread())[:200]!r}")
        async for line in answer.aiter_lines():
            if leaves_after is not None and num_tokens >= leaves_after:
                tally.num_left += 1
                return
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise ValueError(chunk["error"]["message"])
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                finish = choice.get("finish_reason") or finish
                if text := choice["delta"].get("content"):
                    now = time.monotonic()
                    (tally.between_tokens_s if num_tokens else tally.first_token_s).append(
                        now - (last_s if num_tokens else start_s)
                    )
                    num_tokens, last_s = num_tokens + 1, now
                    tally.num_pieces += 1
                    parts.append(text)
    if finish is None:
        raise ValueError("an answer ended without a finish reason")
    tally.whole_s.append(time.monotonic() - start_s)
    tally.num_whole += 1
    tally.num_output_tokens += usage["completion_tokens"] if usage else num_tokens
    tally.num_prompt_tokens += usage["prompt_tokens"] if usage else 0
    if len(tally.answers) < 64:
        tally.answers[json.dumps(body)] = "".join(parts)


async def whole(client: httpx.AsyncClient, load: Load, body: str) -> str:
    """The same request again, alone."""
    request = json.loads(body) | {"stream": False}
    del request["stream_options"]
    answer = await client.post(f"{load.url}/v1/chat/completions", json=request)
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


async def settled(client: httpx.AsyncClient, load: Load) -> dict[str, Any] | None:
    """What a Parity server says once it has noticed that everybody has left."""
    for _ in range(30):
        told = await status(client, load)
        if told is None or not told["num_running"] + told["num_waiting"]:
            return told
        await asyncio.sleep(1)
    return told


async def status(client: httpx.AsyncClient, load: Load) -> dict[str, Any] | None:
    """What a Parity server says of itself; None from another."""
    answer = await client.get(f"{load.url}/status")
    return answer.json() if answer.status_code == 200 else None


def report(tally: Tally, took_s: float) -> None:
    """Prints the counts and the percentiles."""
    gone = f"{tally.num_left} left in the middle, {tally.num_cancelled} cancelled, {tally.num_refused} refused (429)"
    print(f"requests       {tally.num_whole} whole, {gone}")
    print(f"problems       {len(tally.problems)} {sorted(set(tally.problems))[:5]}")
    print(f"whole answers  {tally.num_output_tokens} tokens out, {tally.num_prompt_tokens} in, over {took_s:.1f} s")
    print(f"output rate    {tally.num_output_tokens / took_s:.1f} tokens/s in whole answers")
    print(f"streamed rate  {tally.num_pieces / took_s:.1f} pieces/s, with those of clients who left")
    for name, values in (
        ("first token", tally.first_token_s),
        ("between", tally.between_tokens_s),
        ("whole", tally.whole_s),
    ):
        if len(values) > 1:
            cuts = statistics.quantiles(values, n=100)
            print(f"{name:<14} p50 {cuts[49]:.3f} s   p90 {cuts[89]:.3f} s   p99 {cuts[98]:.3f} s")


if __name__ == "__main__":
    asyncio.run(main())
