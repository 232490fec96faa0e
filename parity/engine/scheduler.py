"""Decides what each step computes: admits, batches, preempts and ends requests. Plain Python, no tensor.

`plan` chooses the work of a step, `commit` takes what came of it; between the two, requests may be added and aborted, and
`ahead` may choose the step after it, which is then committed without a `plan` of its own.
Running requests stand in order of arrival and all of them arrived before any that waits; the latest is preempted first.
So the oldest always goes on, and everyone becomes the oldest.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence as Seq
from dataclasses import replace
from itertools import count

from ..core.batch import Chunk, Plan, Result
from ..core.errors import CapacityError, ContextExceeded, Overloaded, RequestError
from ..core.request import Finish, Output, Request
from ..core.service import STEP_TOKENS, Stats
from .limits import SchedulerConfig
from .pages import PagePool
from .prefix import Entry, PrefixCache, Snapshots
from .sequence import Sequence

NOTHING = Result()


class Scheduler:
    """Continuous batching over paged state. Not thread-safe: one thread calls it.

    Args:
        config: sizes and rules.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.pool = PagePool(config.num_pages, config.page_size)
        self.snapshots = Snapshots(config.num_snapshots if config.has_slots else 0)
        self.cache = PrefixCache(self.pool, self.snapshots)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        num_slots = min(config.max_num_seqs, config.num_slots) if config.has_slots else config.max_num_seqs
        self._num_slots = num_slots
        self.chunk_tokens: int | None = None
        """Most tokens of one sequence in one step; None leaves it to the step's budget."""
        self._slots = list(range(num_slots - 1, -1, -1))
        self._sequences: dict[str, Sequence] = {}
        self._deadlines: list[tuple[float, int, Sequence]] = []
        self._arrivals = count()
        self._ended: list[Output] = []
        self._planned_s = 0.0
        self._num_prompt = self._num_cached = self._num_generated = 0
        self._num_preemptions = self._num_steps = self._num_step_tokens = 0
        self._steps_by_tokens = [0] * (len(STEP_TOKENS) + 1)
        self._step_s = 0.0

    # Coming and going

    def add(self, request: Request) -> None:
        """Queues a request.

        Raises:
            RequestError: the prompt is empty, the id is in use, `n` is not 1, or an embedding is to come with logprobs.
            ContextExceeded: the prompt does not fit the context.
            CapacityError: the prompt does not fit the pages, even alone.
            Overloaded: the queue is full.
        """
        config, num_prompt = self.config, len(request.tokens)
        if not request.tokens:
            raise RequestError("the prompt is empty; give at least one token", field="prompt")
        if request.params.n != 1:
            raise RequestError("n must be 1 for one sequence; submit a request for each sample", field="n")
        if request.want == "embedding" and request.params.prompt_logprobs is not None:
            raise RequestError("an embedding comes without prompt_logprobs; ask for them apart", field="prompt_logprobs")
        if request.id in self._sequences:
            raise RequestError(f"a request with the id {request.id!r} is already running; choose another", field="id")
        max_tokens = request.params.max_tokens if request.want == "tokens" else 0
        num_needed = num_prompt + (max_tokens != 0)
        if num_needed > config.max_model_len:
            raise ContextExceeded(num_prompt, config.max_model_len)
        capacity = config.num_pages * config.page_size
        if num_needed > capacity:
            raise CapacityError(
                f"the prompt has {num_prompt} tokens and the memory for state holds {capacity} in all; "
                "shorten the prompt or give the engine more memory"
            )
        if len(self.waiting) >= config.max_num_waiting:
            raise Overloaded(f"{config.max_num_waiting} requests are waiting already; try again later")
        limit = min(config.max_model_len, capacity)
        if max_tokens is not None:
            limit = min(limit, num_prompt + max_tokens)
        sequence = self._sequences[request.id] = Sequence(request, limit)
        self.waiting.append(sequence)
        if request.deadline_s is not None:
            heapq.heappush(self._deadlines, (request.deadline_s, next(self._arrivals), sequence))

    def abort(self, request_id: str) -> None:
        """Ends a request with `abort`, wherever it is; the next `commit` says so. Unknown ids are ignored."""
        if request_id in self._sequences:
            self._ended.append(self._end(self._sequences[request_id], Finish("abort")))

    @property
    def has_work(self) -> bool:
        """Whether another step would do or report anything."""
        return bool(self._sequences or self._ended)

    # A step

    def plan(self, now_s: float) -> Plan:
        """The next step: running requests first, those decoding before those reading their prompts, then new ones."""
        self._planned_s = now_s
        self._expire(now_s)
        budget = self.config.max_num_batched_tokens
        chunks: list[Chunk] = []
        for sequence in sorted(self.running, key=lambda sequence: sequence.num_pending > 1):
            if budget and self._grow(sequence):
                chunks.append(self._chunk(sequence, budget))
                budget -= len(chunks[-1].tokens)
        while budget and (admitted := self._admit()):
            chunks.append(self._chunk(admitted, budget, admitted.chain[-1].snapshot if admitted.chain else None))
            budget -= len(chunks[-1].tokens)
        return Plan(tuple(chunks))

    def ahead(self, plan: Plan, now_s: float) -> Plan | None:
        """The step after `plan`, before that is committed: each of its sequences decodes on with the token it will bring.

        None where what comes next depends on the tokens, or on more than the tokens: someone could be admitted, has to be
        preempted, is past its deadline, reads its prompt still, or has to see a token before the next is chosen. What `plan`
        turns out to have ended is computed for nothing and thrown away by `commit`.
        """
        overdue = bool(self._deadlines) and self._deadlines[0][0] <= now_s
        if overdue or (self.waiting and self._slots):
            return None
        rows = {chunk.request.id: row for row, chunk in enumerate(plan.chunks)}
        going: list[tuple[int, Sequence]] = []
        num_missing = 0
        for sequence in self.running:
            row = rows.get(sequence.request.id)
            if row is None or not self._decodes_on(sequence, plan.chunks[row]):
                return None
            if len(sequence.tokens) + 1 < sequence.limit:
                going.append((row, sequence))
                num_missing += self.pool.pages_for(len(sequence.tokens) + 1) - len(sequence.pages)
        if not going or num_missing > self.cache.num_available:
            return None
        chunks = []
        for row, sequence in going:
            with sequence.after(plan.chunks[row]):
                self._grow(sequence)
                chunks.append(self._chunk(sequence, 1))
        return Plan(tuple(chunks), follows=tuple(row for row, _ in going))

    def _decodes_on(self, sequence: Sequence, chunk: Chunk) -> bool:
        here = self._current(chunk) is sequence
        return here and chunk.sample and chunk.rows == "last" and not sequence.awaits_tokens

    def commit(self, plan: Plan, results: Seq[Result], now_s: float) -> list[Output]:
        """Takes what a planned step brought, one result for each chunk; returns what there is to report, in order."""
        outputs, self._ended = self._ended, []
        for chunk, result in zip(plan.chunks, results, strict=True):
            sequence = self._current(chunk)
            if sequence is None or result.error is not None:
                self._discard(chunk)
            if sequence is not None:
                outputs += self._advance(sequence, chunk, result)
        if plan:
            self._num_steps += 1
            self._num_step_tokens += plan.num_tokens
            self._steps_by_tokens[bisect_left(STEP_TOKENS, plan.num_tokens)] += 1
        self._step_s += now_s - self._planned_s
        self._planned_s = now_s  # a step chosen ahead counts from here
        return outputs

    def fail(self, plan: Plan, message: str) -> list[Output]:
        """Ends the requests of a step that failed with `error`; the others are left as they are."""
        return self.commit(plan, [Result(error=message)] * len(plan.chunks), self._planned_s)

    # Parts of `plan`

    def _expire(self, now_s: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now_s:
            sequence = heapq.heappop(self._deadlines)[2]
            if sequence.status != "finished":
                self._ended.append(self._end(sequence, Finish("timeout")))

    def _grow(self, sequence: Sequence) -> bool:
        """Gives a running sequence the pages that its next step needs, preempting later ones; False if it was preempted."""
        while sequence.status == "running":
            num_missing = self.pool.pages_for(len(sequence.tokens)) - len(sequence.pages)
            if num_missing <= self.cache.num_available:
                sequence.pages += self.cache.allocate(num_missing)
                return True
            self._preempt(self.running[-1])
        return False

    def _preempt(self, sequence: Sequence) -> None:
        """Back to waiting; its tokens stay and their state is computed again, or found in the cache."""
        self._num_preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        sequence.status = "waiting"
        self.waiting.appendleft(sequence)

    def _admit(self) -> Sequence | None:
        """Starts the request that has waited longest, if there is room for all its tokens.

        A page for each running request stays free: one just admitted is not preempted by their growth at once, and one
        just preempted does not come back in the same step.
        """
        if not self.waiting or not self._slots:
            return None
        sequence = self.waiting[0]
        chain: list[Entry] = []
        if self.config.prefix_caching:
            tokens, limit, salt = sequence.tokens, sequence.max_cached, sequence.request.adapter
            chain = self.cache.match(tokens, limit, salt, snapshot=self.config.has_slots)
        pages = [entry.page for entry in chain]
        num_missing = self.pool.pages_for(len(sequence.tokens)) - len(pages)
        if num_missing + len(self.running) > self.cache.num_available:
            self.cache.release(pages)
            return None
        self.waiting.popleft()
        self.running.append(sequence)
        sequence.status = "running"
        sequence.chain, sequence.pages = chain, pages + self.cache.allocate(num_missing)
        sequence.slot = self._slots.pop()
        sequence.num_computed = sequence.last_snapshot = len(chain) * self.config.page_size
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
            sequence.queued_s = max(0.0, self._planned_s - (sequence.request.arrival_s or self._planned_s))
            self._num_prompt += sequence.num_prompt
            self._num_cached += sequence.num_cached
        return sequence

    def _chunk(self, sequence: Sequence, budget: int, restore: int | None = None) -> Chunk:
        """The next chunk, of at most `budget` tokens; with per-request state it ends where a snapshot is of use."""
        start, num_tokens, size = sequence.num_computed, len(sequence.tokens), self.config.page_size
        end = min(start + min(budget, self.chunk_tokens or budget), num_tokens)
        if not (self.config.has_slots and self._caches(sequence)):
            return sequence.chunk(end)
        last = (num_tokens - 1) // size * size
        if start < last < end:
            end = last
        elif end < num_tokens and end // size * size > start:
            end = end // size * size
        due = end == last or end - sequence.last_snapshot >= self.config.snapshot_every * size
        save = self.snapshots.reserve() if due and end % size == 0 else None
        return sequence.chunk(end, restore, save)

    # Parts of `commit`

    def _current(self, chunk: Chunk) -> Sequence | None:
        """The sequence that the chunk belongs to, unless it has ended since."""
        sequence = self._sequences.get(chunk.request.id)
        if sequence is None or sequence.request is not chunk.request:
            return None
        if sequence.status != "running" or sequence.num_computed != chunk.start:
            return None
        return sequence

    def _advance(self, sequence: Sequence, chunk: Chunk, result: Result) -> list[Output]:
        """Books one result; returns the output, if there is one."""
        if result.error is not None:
            return [self._end(sequence, Finish("error", message=result.error))]
        sequence.num_computed = chunk.length
        self._store(sequence, chunk)
        if sequence.prompt_logprobs is not None:
            sequence.prompt_logprobs += result.prompt_logprobs[len(sequence.prompt_logprobs) - chunk.start :]
        if sequence.request.want == "logits" and result.array is not None:
            result = replace(result, array=result.array[sequence.num_rows_sent - chunk.start :])
            sequence.num_rows_sent = chunk.length
        finish = None
        if chunk.sample:
            finish = self._append(sequence, result.token)
        elif not sequence.samples and sequence.num_pending == 0:
            finish = Finish("length" if sequence.request.want == "tokens" else "stop")
        if finish is not None:
            return [self._end(sequence, finish, result)]
        return [self._output(sequence, None, result)] if chunk.sample or result.array is not None else []

    def _append(self, sequence: Sequence, token: int | None) -> Finish | None:
        """Adds a chosen token; says why the request ends with it, if it does."""
        if token is None:
            return Finish("error", message="the step chose no token for this request")
        request, params = sequence.request, sequence.request.params
        may_stop = sequence.num_generated >= params.min_tokens
        sequence.tokens.append(token)
        self._num_generated += 1
        is_eos = token in self.config.eos_token_ids and not params.ignore_eos
        if may_stop and (is_eos or token in params.stop_token_ids):
            return Finish("stop", stop=token)
        if request.constraint is not None:
            try:
                request.constraint.accept(token)
                if request.constraint.done:
                    return Finish("stop")
            except Exception as error:  # a constraint is the caller's code: it ends its own request only
                return Finish("error", message=f"the constraint failed on token {token}: {error}")
        return Finish("length") if len(sequence.tokens) >= sequence.limit else None

    def _store(self, sequence: Sequence, chunk: Chunk) -> None:
        """Puts newly full pages into the cache, and the snapshot that the chunk saved with the last of them."""
        if not self._caches(sequence):
            return
        size, salt = self.config.page_size, sequence.request.adapter
        for index in range(len(sequence.chain), sequence.num_computed // size):
            parent = sequence.chain[-1] if sequence.chain else None
            tokens = sequence.tokens[index * size : (index + 1) * size]
            entry = self.cache.insert(parent, tokens, sequence.pages[index], salt)
            sequence.chain.append(entry)
            sequence.pages[index] = entry.page
        if chunk.save is not None:
            self.snapshots.keep(chunk.save, sequence.chain[-1])
            sequence.last_snapshot = sequence.num_computed

    # Shared parts

    def _caches(self, sequence: Sequence) -> bool:
        return self.config.prefix_caching and sequence.request.cache

    def _end(self, sequence: Sequence, finish: Finish, result: Result = NOTHING) -> Output:
        """Takes a request out, wherever it is; the output is its last."""
        if sequence.status == "running":
            self.running.remove(sequence)
            self._release(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.status = "finished"
        del self._sequences[sequence.request.id]
        return self._output(sequence, finish, result)

    def _output(self, sequence: Sequence, finish: Finish | None, result: Result) -> Output:
        prompt_logprobs = None
        tokens = () if result.token is None else (result.token,)
        if sequence.prompt_logprobs is not None and (tokens or finish):
            prompt_logprobs, sequence.prompt_logprobs = tuple(sequence.prompt_logprobs), None
        logprobs = () if result.logprob is None else (result.logprob,)
        return Output(sequence.request.id, tokens, logprobs, prompt_logprobs, result.array, finish, sequence.usage)

    def _release(self, sequence: Sequence) -> None:
        self.cache.release(sequence.rewind(0, self.config.page_size))
        self._slots.append(sequence.slot)
        sequence.slot = -1

    def _discard(self, chunk: Chunk) -> None:
        if chunk.save is not None:
            self.snapshots.drop(chunk.save)

    # Looking in

    def stats(self) -> Stats:
        """Counts now and since the start."""
        return Stats(
            num_running=len(self.running),
            num_waiting=len(self.waiting),
            num_pages_used=self.config.num_pages - self.cache.num_available,
            num_pages=self.config.num_pages,
            num_prompt_tokens=self._num_prompt,
            num_cached_tokens=self._num_cached,
            num_generated_tokens=self._num_generated,
            num_preemptions=self._num_preemptions,
            num_steps=self._num_steps,
            num_step_tokens=self._num_step_tokens,
            steps_by_tokens=tuple(self._steps_by_tokens),
            step_s=self._step_s,
        )

    def check(self, ahead: Plan | None = None) -> None:
        """Asserts, between steps, that every page, slot and snapshot has exactly the owners it should. O(pages).

        Args:
            ahead: the plan chosen ahead that is not yet committed, if there is one.
        """
        self.cache.check()
        self.snapshots.check(sum(chunk.save is not None for chunk in ahead.chunks) if ahead is not None else 0)
        held = Counter(page for sequence in self.running for page in sequence.pages)
        for page in range(self.config.num_pages):
            num_held = held[page] + self.cache.holds(page)
            assert self.pool.references(page) == num_held, f"page {page} is held {num_held} times, not as counted"
        for sequence in self.running:
            assert len(set(sequence.pages)) == len(sequence.pages), "a page stands twice in a sequence"
            assert len(sequence.pages) >= self.pool.pages_for(sequence.num_computed), "state without a page"
            assert [entry.page for entry in sequence.chain] == sequence.pages[: len(sequence.chain)]
        slots = self._slots + [sequence.slot for sequence in self.running]
        assert sorted(slots) == list(range(self._num_slots)), "a slot is lost or owned twice"
        assert all(not sequence.pages and sequence.slot == -1 for sequence in self.waiting), "one that waits holds state"
        assert len(self._sequences) == len(self.running) + len(self.waiting), "a request is lost"
