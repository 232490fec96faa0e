"""Many prompts from a file: answered together, written as they finish, taken up again after an interruption."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from ..core.chat import Message
from ..core.errors import FormatError, ParityError, RequestError, UsageError
from ..core.request import SamplingParams, bias_of
from ..core.whole import naming, write_whole
from . import options
from .conversation import user_turn
from .parser import read_text
from .records import record
from .terminal import progress_bar, say

if TYPE_CHECKING:
    from ..answers import Answer
    from ..llm import LLM

_BEGINNING = '{"index": '
"""Of every line of answers."""
_KINDS = ("prompt", "tokens", "messages")
_SAMPLING = {field.name for field in fields(SamplingParams)} - {"n"}


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt in token ids."""

    ids: tuple[int, ...]


Asked: TypeAlias = "str | Tokens | list[Message]"


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the input.

    Args:
        index: the line's number among the prompts, from 0.
        id: the line's own name, or its index.
        prompt: what is asked.
        sampling: values of its own.
        digest: of the line and the flags: an answer belongs to a job only if this is the same.
    """

    index: int
    id: str | int
    prompt: Asked
    sampling: dict[str, Any]
    digest: str


def run_file(arguments: argparse.Namespace, given: dict[str, object]) -> int:
    """Answers every prompt of `--input` that `--output` has no answer to yet; 2 if some could not be answered.

    Raises:
        ParityError: the files do not fit, or the model cannot be run.
    """
    if arguments.n is not None or arguments.prompt is not None:
        raise UsageError("--n and --prompt belong to a single prompt, not to --input")
    if arguments.output is None:
        raise UsageError("--input needs --output, the file that the answers are added to as they finish")
    if arguments.output.exists() and arguments.input.exists() and arguments.output.samefile(arguments.input):
        raise UsageError(f"--output is the --input itself, {arguments.input}, which would be lost; name another file")
    jobs = read_jobs(arguments.input, _settings(arguments, given), chat=arguments.chat)
    done = set() if arguments.overwrite else answered(arguments.output, jobs)
    left = [job for job in jobs if job.index not in done]
    say(f"{len(jobs)} prompts, {len(done)} already answered")
    failed = 0
    with naming(arguments.output), open_output(arguments.output, keep=bool(done)) as file:
        if not left:
            return 0
        with options.open_model(arguments) as llm, progress_bar(len(jobs), len(done)) as advance:
            for job, answer in answer_all(llm, left, given, arguments):
                failed += isinstance(answer, ParityError)
                file.write(json.dumps(_line(job, answer), ensure_ascii=False) + "\n")
                file.flush()
                advance()
    if failed:
        raise RequestError(f"{failed} of {len(jobs)} prompts have no answer; their lines in {arguments.output} say why")
    return 0


def read_jobs(path: Path, settings: str, *, chat: bool) -> list[Job]:
    """The prompts of a file.

    Raises:
        FormatError: a line is not what it should be; the text names it.
    """
    jobs: list[Job] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):  # other line ends may stand in a JSON text
        if line.strip():
            try:
                jobs.append(_job(len(jobs), json.loads(line), settings, chat=chat))
            except (ValueError, TypeError, RequestError) as error:
                raise FormatError(f"{path}, line {number}: {error}; mend the line or take it out") from error
    if not jobs:
        raise UsageError(f"{path} holds no prompts")
    if len({job.id for job in jobs}) < len(jobs):
        raise FormatError(f"{path} has the same id twice; give each line its own, or none")
    return jobs


def _job(index: int, row: Any, settings: str, *, chat: bool) -> Job:
    row = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(row, dict):
        raise ValueError("neither a string nor an object")
    kinds = [kind for kind in _KINDS if kind in row]
    if len(kinds) != 1:
        raise ValueError(f"an object has one of {', '.join(_KINDS)}")
    unknown = sorted(set(row) - {*_KINDS, "id"} - _SAMPLING)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} (sampling values go by the names of the flags, with _)")
    own_id = row.get("id", index)
    if not isinstance(own_id, str | int):
        raise ValueError(f"id is neither a text nor a whole number: {own_id!r}")
    sampling = {name: value for name, value in row.items() if name in _SAMPLING}
    if isinstance(bias := sampling.get("logit_bias"), dict):
        sampling["logit_bias"] = bias_of(bias)
    SamplingParams.of(None, **sampling)
    digest = hashlib.sha256((settings + json.dumps(row, sort_keys=True)).encode()).hexdigest()[:16]
    return Job(index, own_id, _prompt_of(row[kinds[0]], kinds[0], chat=chat), sampling, digest)


def _prompt_of(value: Any, kind: str, *, chat: bool) -> Asked:
    if kind == "messages":
        if not isinstance(value, list) or not value:
            raise ValueError("messages is not a list of at least one message")
        return _messages(value)
    if kind == "tokens":
        if not isinstance(value, list) or not all(type(token) is int for token in value):
            raise ValueError("tokens is not a list of token ids")
        if chat:
            raise ValueError("tokens are continued as they are: leave out --chat, or give messages")
        return Tokens(tuple(value))
    if not isinstance(value, str) or not value:
        raise ValueError("the prompt is empty or no text")
    return value


def _messages(value: list[Any]) -> list[Message]:
    """Turns, as the server takes them at `/v1/chat/completions`."""
    import msgspec

    from ..serve.openai.asking import message_of
    from ..serve.openai.chat_types import ChatMessage
    from ..serve.wire import explain

    try:
        return [message_of(message) for message in msgspec.convert(value, list[ChatMessage])]
    except msgspec.ValidationError as error:
        raise ValueError(f"messages{explain(str(error), list[ChatMessage]).message}") from None


def answered(path: Path, jobs: list[Job]) -> set[int]:
    """The jobs that a file has answers to; a last line cut off by an interruption, and errors, are taken out of the file.

    Raises:
        UsageError: the file holds something else, or answers to other prompts or other flags.
    """
    if not path.is_file():  # a pipe or a device is written to alone
        return set()
    digests = {job.index: job.digest for job in jobs}
    good: list[str] = []
    done: set[int] = set()
    *lines, rest = read_text(path).split("\n")
    for line in lines:
        row = _parsed(line)
        if "error" in row and "digest" in row:
            continue
        index = row.get("index")
        if not isinstance(index, int) or digests.get(index) != row.get("digest"):
            raise _foreign(path)
        done.add(index)
        good.append(f"{line}\n")
    if rest[: len(_BEGINNING)] != _BEGINNING[: len(rest)]:
        raise _foreign(path)
    if rest or len(good) < len(lines):
        write_whole(path, "".join(good).encode())
    return done


def _foreign(path: Path) -> UsageError:
    what = "something else, or answers to other prompts or with other settings"
    return UsageError(f"{path} holds {what}; name another --output, or add --overwrite")


def _parsed(line: str) -> dict[str, Any]:
    """An answer's line; empty if it is none."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def open_output(path: Path, *, keep: bool) -> TextIO:
    """The file that answers are added to.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        return path.open("a" if keep else "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another --output") from error


def _put(finished: queue.SimpleQueue[tuple[Job, Future[Answer]]], job: Job, done: Future[Answer]) -> None:
    finished.put((job, done))


def answer_all(
    llm: LLM, jobs: list[Job], given: dict[str, object], arguments: argparse.Namespace
) -> Iterator[tuple[Job, Answer | ParityError]]:
    """Each job with its answer, or with why it has none, in the order in which they finish.

    One thread a running request: the engine computes what they ask for in one batch.
    """
    finished: queue.SimpleQueue[tuple[Job, Future[Answer]]] = queue.SimpleQueue()
    workers = ThreadPoolExecutor(max_workers=min(len(jobs), arguments.max_num_seqs or 64))
    try:
        for job in jobs:
            future = workers.submit(_answer, llm, job, given, arguments)
            future.add_done_callback(partial(_put, finished, job))
        for _ in jobs:
            job, future = finished.get()
            error = future.exception()
            if error is not None and not isinstance(error, ParityError):
                raise error
            yield job, error or future.result()
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


def _answer(llm: LLM, job: Job, given: dict[str, object], arguments: argparse.Namespace) -> Answer:
    params = options.params_of(llm, {**given, **job.sampling})
    template = arguments.chat_template_kwargs
    match job.prompt:
        case str(prompt) if arguments.chat:
            return llm.chat(user_turn(prompt, arguments.system_prompt), params, **template)
        case Tokens(ids):
            return llm.generate([ids], params)[0]
        case str(prompt):
            return llm.generate([prompt], params)[0]
        case messages:
            return llm.chat(messages, params, **template)


def _line(job: Job, answer: Answer | ParityError) -> dict[str, Any]:
    name = {"index": job.index, "id": job.id, "digest": job.digest}
    return {**name, "error": str(answer)} if isinstance(answer, ParityError) else {**name, **record(answer)}


def _settings(arguments: argparse.Namespace, given: dict[str, object]) -> str:
    """What besides its line an answer depends on."""
    model = options.model_of(arguments)
    path = Path(model).expanduser()
    named = os.fspath(path.resolve()) if path.exists() else model
    chat = [arguments.chat, arguments.system_prompt, arguments.chat_template_kwargs]
    place = [arguments.stack, arguments.dtype, arguments.quantize, arguments.kv_cache_dtype]
    return json.dumps([named, *place, chat, given], sort_keys=True)
