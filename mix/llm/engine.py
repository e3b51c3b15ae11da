"""Many texts at once: requests come and go, and every step computes the next tokens of all that are there.

Keys and values lie in blocks (mix/llm/paged.py), shared by texts that begin alike; mix/llm/scheduler.py says who goes
on. A request's tokens are those that `generate` would give it alone, whatever else is served beside it.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np
import paddle
from typing_extensions import Self

from mix.llm.blocks import BlockPool
from mix.llm.generate import Finished, LogitsMask, Prompts, Row, Token, advance, check_lengths
from mix.llm.paged import PagedCache, Span
from mix.llm.sampling import GenerationConfig
from mix.llm.scheduler import Scheduler, Text, Work
from mix.llm.text import Decoder, StopText

log = logging.getLogger(__name__)
# Attention takes 48 queries of a prompt at a time (24 on CPUs without AVX-512). A prompt that is cut elsewhere has sums
# in another order, and a quantised model makes a visible difference of that: it rounds to 8 bits.
GRAIN = 48


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one caller wants continued: token ids and how. `mask` is a constraint, made for this request alone.

    Answer `choice` of several to the same prompt draws its own numbers, as row `choice` of a batch does.
    """

    ids: Sequence[int]
    config: GenerationConfig
    mask: LogitsMask | None = None
    choice: int = 0


@dataclass(frozen=True)
class Usage:
    """Tokens of the prompt, tokens added to it, and how many of the prompt's were known from an earlier one."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(frozen=True)
class Ended:
    """The last event of a request: "stop", "length", "cancelled" or "error"; `text` is the rest of its text."""

    reason: str
    text: str
    usage: Usage
    error: Exception | None = None


EngineEvent = Token | Ended
Deliver = Callable[[EngineEvent], None]


class Busy(RuntimeError):
    """So many requests wait that another one is not taken; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Load:
    """What an engine has to do and has done."""

    running: int
    waiting: int
    blocks: int
    held: int  # blocks in use
    kept: int  # blocks that only wait for a text that begins as theirs did
    requests: int  # taken so far
    ended: int
    tokens: int  # chosen so far
    reused: int  # tokens of prompts that did not have to be computed
    preemptions: int
    steps: int


@dataclass(eq=False)
class Served(Text):
    """A text with its request, and where its events go."""

    row: Row = field(kw_only=True)
    config: GenerationConfig = field(kw_only=True)
    most: int = field(kw_only=True)  # tokens that may be added
    deliver: Deliver = field(kw_only=True)
    begun: float = field(default_factory=monotonic)

    @property
    def usage(self) -> Usage:
        return Usage(len(self.row.prompt), len(self.row.new), self.reused or 0)


class Stream:
    """The events of one request, in order, the last one an `Ended`. An error of the request is raised at its end."""

    def __init__(self, engine: "Engine", text: Served, events: "queue.SimpleQueue[EngineEvent]") -> None:
        self._engine, self._text, self._events = engine, text, events
        self._over = False

    def __iter__(self) -> Iterator[EngineEvent]:
        return self

    def __next__(self) -> EngineEvent:
        if self._over:
            raise StopIteration
        event = self._next()
        if isinstance(event, Ended):
            self._over = True
            if event.error is not None:
                raise event.error
        return event

    def _next(self) -> EngineEvent:
        """Wait for the engine's thread; where there is none, do its work."""
        while not self._engine.started:
            with suppress(queue.Empty):
                return self._events.get_nowait()
            self._engine.step()
        return self._events.get()

    def take(self) -> list[EngineEvent]:
        """The events that are there already, without waiting; an `Ended` may have an error."""
        found: list[EngineEvent] = []
        while not self._over:
            try:
                found.append(self._events.get_nowait())
            except queue.Empty:
                break
            self._over = isinstance(found[-1], Ended)
        return found

    def close(self) -> None:
        """The rest is not wanted: the request ends as "cancelled" unless it has ended already."""
        self._engine.cancel(self._text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Engine:
    """Serves one model. `start()` gives it a thread of its own; without one, `step()` does a step of all requests.

    `blocks` of `block_size` tokens are what all texts together may hold, `max_running` how many are computed at once,
    `max_waiting` how many more are taken before `Busy`, `prefill_chunk` how many tokens of prompts a step may add,
    cut at multiples of `grain`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Decoder | None,
        *,
        blocks: int,
        block_size: int = 16,
        max_running: int = 16,
        max_waiting: int = 64,
        prefill_chunk: int = 256,
        grain: int = GRAIN,
    ) -> None:
        if max_running < 1 or max_waiting < 0 or prefill_chunk < 1:
            raise ValueError(
                f"max_running {max_running} and prefill_chunk {prefill_chunk} must be at least 1, max_waiting "
                f"{max_waiting} at least 0"
            )
        self.model, self.tokenizer = model, tokenizer
        self.max_waiting = max_waiting
        self.pool = BlockPool(blocks, block_size)
        self.scheduler: Scheduler[Served] = Scheduler(self.pool, max_running, prefill_chunk, grain)
        self.cache = PagedCache(model.cache_layout, blocks, block_size)
        self._changed = threading.Condition()  # guards what callers touch: _new, _counts["requests"], _stopping
        self._stepping = threading.RLock()  # held by whoever does a step
        self._new: list[Served] = []
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._counts = dict.fromkeys(("requests", "ended", "tokens", "reused", "steps"), 0)
        self._pace = 1.0  # seconds that a request took of late

    # --- what callers do ---

    def submit(self, request: Request, deliver: Deliver | None = None) -> Stream:
        """Take a request; `deliver` gets the events in the engine's thread, else the stream keeps them.

        ValueError for what can never be served: an empty or too long prompt, ids that the model does not know, a text
        that the blocks cannot hold. `Busy` when too many requests wait.
        """
        events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        text = self._text(request, deliver or events.put)
        scheduler = self.scheduler
        with self._changed:
            if self._stopping:
                raise Busy("this engine has been stopped", 1)
            there = sum(not t.cancelled for t in (*self._new, *list(scheduler.waiting), *list(scheduler.running)))
            if there >= scheduler.max_running + self.max_waiting:
                seconds = max(1, round(self._pace * (1 + self.max_waiting / scheduler.max_running)))
                raise Busy(f"{there} requests are served or waiting already; try again in {seconds} s", seconds)
            text.number = self._counts["requests"]
            self._counts["requests"] += 1
            self._new.append(text)
            self._changed.notify_all()
        return Stream(self, text, events)

    def most_tokens(self, prompt: int) -> int:
        """How many tokens can be added to a prompt of that many; 0 or less when it is too long."""
        room = min(self.model.config.max_position_embeddings, self.pool.count * self.pool.size)
        return room - prompt

    def cancel(self, text: Served) -> None:
        with self._changed:
            text.cancelled = True
            self._changed.notify_all()
        if not self.started:
            with self._stepping:
                self._receive()

    def load(self) -> Load:
        """A look at the engine, from any thread."""
        scheduler, pool, counts = self.scheduler, self.pool, self._counts
        waiting = len(scheduler.waiting) + len(self._new)
        blocks = (pool.count, pool.held, pool.kept)
        return Load(len(scheduler.running), waiting, *blocks, **counts, preemptions=scheduler.preemptions)

    # --- the thread ---

    @property
    def started(self) -> bool:
        """Whether a thread does the steps."""
        return self._thread is not None

    def start(self) -> "Engine":
        """Serve in a thread of the engine's own."""
        with self._changed:
            if self._thread is None:
                self._stopping = False
                self._thread = threading.Thread(target=self._serve, name="llm engine", daemon=True)
                self._thread.start()
        return self

    def stop(self) -> None:
        """End the thread after its step; requests that are still there end as "cancelled"."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._stepping:
            self._receive()
            for text in [*self.scheduler.running, *self.scheduler.waiting]:
                self._end(text, "cancelled")

    def __enter__(self) -> "Engine":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._new or self.scheduler.busy)
                if self._stopping:
                    return
            self.step()

    # --- one step ---

    def step(self) -> bool:
        """Compute the next tokens of all texts that are due; False when there is nothing to do."""
        with self._stepping:
            self._receive()
            works = self.scheduler.plan()
            if not works:
                return False
            try:
                scores = self._compute(works)
            except Exception as error:  # the requests' callers hear of it; the others go on
                log.exception("a step of %d requests failed", len(works))
                for work in works:
                    self._end(work.text, "error", error=error)
                return True
            for work in works:
                complete = work.complete
                self.scheduler.done(work)
                if complete:
                    self._advance(work.text, next(scores))
            self._counts["steps"] += 1
            return True

    def _receive(self) -> None:
        """Take what came since the last step, and let go of what is not wanted any more."""
        with self._changed:
            new, self._new = self._new, []
        for text in new:
            self.scheduler.add(text)
        for text in [t for t in (*self.scheduler.running, *self.scheduler.waiting) if t.cancelled]:
            self._end(text, "cancelled")

    def _compute(self, works: Sequence[Work[Served]]) -> Iterator[np.ndarray]:
        """One forward call; the scores (V,) of the texts that can choose a token now, in order."""
        spans = [Span(work.text.blocks, work.text.computed, work.count) for work in works]
        tokens = [work.text.tokens[span.past : span.after] for work, span in zip(works, spans, strict=True)]
        step = self.cache.step(spans)
        ids = np.concatenate(tokens).astype(np.int64).reshape([-1, 1] if step.single else [1, -1])
        ends = np.cumsum(step.counts) - 1
        wanted = ends[[work.complete for work in works]]
        keep = (
            None
            if step.single and len(wanted) == len(works)
            else paddle.to_tensor(wanted if len(wanted) else ends[-1:])
        )
        with paddle.no_grad():
            logits = self.model(paddle.to_tensor(ids), context=step, keep=keep).logits
            scores = logits.astype("float32").numpy()
        return iter(scores.reshape([-1, scores.shape[-1]]))

    def _advance(self, text: Served, raw: np.ndarray) -> None:
        """Choose the text's next token and tell its caller."""
        try:
            for event in advance(text.row, raw, text.config, text.most):
                if isinstance(event, Finished):
                    self._end(text, event.reason, event.text)
                else:
                    self._counts["tokens"] += 1
                    text.tokens.append(event.id)
                    self._tell(text, event)
        except ValueError as error:  # scores that are not numbers, a constraint that cannot be followed
            self._end(text, "error", error=error)

    def _tell(self, text: Served, event: EngineEvent) -> None:
        try:
            text.deliver(event)
        except Exception:  # whoever listened is gone
            log.info("nobody listens to request %d any more", text.number)
            text.cancelled = True

    def _end(self, text: Served, reason: str, rest: str = "", error: Exception | None = None) -> None:
        self.scheduler.remove(text)
        self._counts["ended"] += 1
        self._counts["reused"] += text.usage.cached
        if reason in ("stop", "length"):
            self._pace += 0.1 * (monotonic() - text.begun - self._pace)
        self._tell(text, Ended(reason, rest, text.usage, error))

    # --- requests ---

    def _text(self, request: Request, deliver: Deliver) -> Served:
        config, ids = request.config, tuple(int(i) for i in request.ids)
        if config.num_beams > 1:
            raise ValueError("the engine does no beam search; use num_beams=1, or model.generate")
        if config.stop_strings and self.tokenizer is None:
            raise ValueError("stop_strings need a tokenizer to be found: give the engine one")
        most = check_lengths(self.model.config, Prompts((ids,)), config)
        vocabulary = self.model.config.vocab_size
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise ValueError(
                f"token ids go from {min(ids)} to {max(ids)}, this model knows 0 to {vocabulary - 1}; is the "
                "tokenizer another model's?"
            )
        held = self.pool.count * self.pool.size
        if len(ids) + most - 1 > held:
            raise ValueError(
                f"a prompt of {len(ids)} tokens and max_new_tokens {most} exceed the {held} tokens that this engine "
                "can hold; ask for fewer, or give it more blocks"
            )
        seed = np.random.SeedSequence(config.seed).spawn(request.choice + 1)[-1]
        stop = None if self.tokenizer is None else StopText(self.tokenizer, config.stop_strings)
        row = Row(request.choice, ids, np.random.default_rng(seed), request.mask, stop)
        return Served(-1, list(ids), row=row, config=config, most=most, deliver=deliver)
