"""Everything long is a generator of events; a Job drives one and keeps what it said, a Worker runs jobs in order.

One worker owns one device. Whoever wants to know follows a job: the browser, an SSE client and the command line see the
same log, at any time, from any point on. Cancelling takes effect after the current event: the generator is closed, its
`finally` blocks restore the world.
"""

import asyncio
import enum
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

Work = Callable[[], Iterator[Any]]
PREVIEWS = ("Preview",)  # of these only the latest is kept: they are large and nobody asks for old ones


class Status(str, enum.Enum):
    """Where a job is; the words are also those of the HTTP interface."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)


class QueueFull(RuntimeError):
    """So many jobs wait that another one is not taken."""


@dataclass(eq=False)
class Job:
    """One piece of work: its state, its log of events, and who waits for it."""

    id: str
    kind: str
    work: Work
    params: Mapping[str, Any] = field(
        default_factory=dict
    )  # what was asked, for history and for filling the form again
    owner: str = ""
    status: Status = Status.QUEUED
    error: str | None = None
    hint: str | None = None  # what to do about the error
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    done: int = 0
    of: int = 0
    events: list[Any] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _since: float = 0.0
    _first: int = 0
    _cancel: threading.Event = field(default_factory=threading.Event)
    _skip: threading.Event = field(default_factory=threading.Event)
    _listeners: list[Callable[[], None]] = field(default_factory=list)
    _ended: Callable[["Job"], None] = lambda job: None  # told of the end before those who wait for it

    def say(self, event: Any) -> None:
        """Append to the log and wake everybody who follows."""
        with self._changed:
            if type(event).__name__ in PREVIEWS:
                self._forget_previews()
            if hasattr(event, "step") and hasattr(event, "of"):
                if event.of != self.of or event.step < self.done:
                    self._since = time.time()  # another kind of work: loading and denoising run at their own speeds
                    self._first = event.step
                self.done, self.of = event.step, event.of
            self.events.append(event)
            self._wake()

    def _forget_previews(self) -> None:
        for i, old in enumerate(self.events):
            if type(old).__name__ in PREVIEWS:
                self.events[i] = None  # places stay, so that followers keep their count

    def become(self, status: Status, error: str | None = None, hint: str | None = None) -> None:
        """Change state; a final state stays."""
        with self._changed:
            if self.status.final:
                return
            self.status, self.error, self.hint = status, error, hint
            if status is Status.RUNNING:
                self.started = time.time()
            if status.final:
                self.ended = time.time()
                self._ended(self)
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        for listener in tuple(self._listeners):
            listener()

    def cancel(self) -> None:
        """Ask for the end; a running job ends after its current event."""
        self._cancel.set()

    @property
    def cancelled(self) -> bool:
        """Whether the end was asked for."""
        return self._cancel.is_set()

    def skip(self) -> None:
        """Ask the work to leave what it is at and go on with the next part, where it has parts."""
        self._skip.set()

    def take_skip(self) -> bool:
        """Whether a skip was asked for; asking takes the mark away."""
        asked = self._skip.is_set()
        self._skip.clear()
        return asked

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` at every change, on the thread that makes it: for those who must not block, see `afollow`."""
        with self._changed:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._changed:
                self._listeners.remove(listener)

    async def afollow(self, start: int = 0, timeout: float | None = None) -> AsyncIterator[tuple[int, Any]]:
        """As `follow`, without a thread that waits: a server may have hundreds of followers."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the follower's loop has ended before it could take its name off
                loop.call_soon_threadsafe(changed.set)

        with self.listening(wake):
            at = start
            while True:
                changed.clear()
                while at < len(self.events):
                    if (event := self.events[at]) is not None:
                        yield at, event
                    at += 1
                if self.status.final and at >= len(self.events):
                    return
                try:
                    await asyncio.wait_for(changed.wait(), timeout)
                except asyncio.TimeoutError:
                    yield at, None

    def follow(self, start: int = 0, timeout: float | None = None) -> Iterator[tuple[int, Any]]:
        """(number, event) from `start` on, until the job ends; (number, None) when `timeout` passes without one."""
        for i in itertools.count(start):
            while not self._reached(i, timeout):
                yield i, None
            if i >= len(self.events):
                return
            if (event := self.events[i]) is not None:
                yield i, event

    def _reached(self, count: int, timeout: float | None) -> bool:
        """Wait until the log is longer than `count` or the job ends; False when neither happened in time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.events) > count or self.status.final, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False when it did not come in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.status.final, timeout)

    @property
    def remaining(self) -> float | None:
        """Seconds left, estimated from the progress so far; None where nothing can be said."""
        done = self.done - self._first
        if self.started is None or done <= 0 or self.status.final:
            return None
        return (time.time() - self._since) * (self.of - self.done) / done


class Worker:
    """One thread, one device, jobs in order.

    `accepted` is called with every job before it can start, `finished` when it has reached its end; `relieve` when
    memory ran out, before the next job.
    """

    def __init__(
        self,
        name: str = "device",
        limit: int = 64,
        keep: int = 200,
        relieve: Callable[[], None] = lambda: None,
        finished: Callable[[Job], None] = lambda job: None,
        accepted: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self.limit, self.keep = limit, keep
        self.relieve, self.finished, self.accepted = relieve, finished, accepted
        self.jobs: dict[str, Job] = {}
        self.current: Job | None = None
        self._line: list[Job] = []
        self._ready = threading.Condition()
        self._ids = itertools.count(1)
        self._stopping = False
        self._prefix = f"{name[:1]}{int(time.time() * 1000):x}"  # ids stay unique over restarts and workers
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, kind: str, work: Work, params: Mapping[str, Any] | None = None, owner: str = "") -> Job:
        """Put work at the end of the line. Raises QueueFull with a sentence."""
        with self._ready:
            if self._stopping:
                raise QueueFull("the studio is shutting down and takes no more jobs")
            if len(self._line) >= self.limit:
                raise QueueFull(f"{self.limit} jobs already wait; cancel some or try again later")
            job = Job(f"{self._prefix}-{next(self._ids)}", kind, work, params or {}, owner)
            job._ended = self._finish
            self._tell(self.accepted, job)
            self.jobs[job.id] = job
            self._line.append(job)
            self._prune()
            self._ready.notify()
        return job

    def cancel(self, job: Job) -> None:
        """End a job: at once while it waits, after its current event while it runs."""
        job.cancel()
        with self._ready:
            if job not in self._line:
                return
            self._line.remove(job)
        job.become(Status.CANCELED)

    def move(self, job: Job, place: int) -> None:
        """Give a waiting job another place in the line, 0 being the next to run; others shift."""
        with self._ready:
            if job not in self._line:
                raise ValueError(f"job {job.id} does not wait any more: it is {job.status.value}")
            self._line.remove(job)
            self._line.insert(max(0, min(place, len(self._line))), job)

    def place(self, job: Job) -> int | None:
        """How many jobs run or wait before this one; None when it does not wait."""
        with self._ready:
            if job not in self._line:
                return None
            return self._line.index(job) + (self.current is not None)

    def waiting(self) -> list[Job]:
        """The jobs in line, next first."""
        with self._ready:
            return list(self._line)

    def get(self, job_id: str) -> Job:
        """The job; KeyError with a sentence."""
        try:
            return self.jobs[job_id]
        except KeyError:
            raise KeyError(f"there is no job {job_id!r}; old ones are in the history") from None

    def stop(self, timeout: float = 10.0) -> None:
        """Cancel everything and end the thread."""
        with self._ready:
            self._stopping = True
            line, self._line = self._line, []
            current = self.current
            self._ready.notify_all()
        for job in line:
            job.cancel()
            job.become(Status.CANCELED)
        if current is not None:
            current.cancel()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._line or self._stopping)
                if self._stopping:
                    return
                self.current = job = self._line.pop(0)
                job.become(Status.RUNNING)
            try:
                self._drive(job)
            finally:
                with self._ready:
                    self.current = None

    def _drive(self, job: Job) -> None:
        try:
            work = job.work()
            for event in work:
                job.say(event)
                if job.cancelled:
                    close = getattr(work, "close", None)
                    if close is not None:
                        close()  # runs the work's own finally blocks
                    return job.become(Status.CANCELED)
        except MemoryError as why:
            self._out_of_memory(job, str(why))
        except Exception as why:
            if _means_no_memory(why):
                self._out_of_memory(job, str(why))
            elif isinstance(why, ValueError | KeyError | OSError):
                job.become(Status.FAILED, _sentence(why))
            else:
                log.exception("job %s (%s) failed", job.id, job.kind)
                job.become(Status.FAILED, f"{type(why).__name__}: {why}", "this is a bug; the log has the details")
        else:
            job.become(Status.SUCCEEDED)

    def _out_of_memory(self, job: Job, why: str) -> None:
        log.warning("job %s ran out of memory: %s", job.id, why)
        self.relieve()
        job.become(Status.FAILED, "memory ran out", "try a smaller size, one picture at a time, or bfloat16")

    def _finish(self, job: Job) -> None:
        self._tell(self.finished, job)

    def _tell(self, tell: Callable[[Job], None], job: Job) -> None:
        try:
            tell(job)
        except Exception:  # a full disk under the catalogue must not take the worker down
            log.exception("job %s could not be recorded", job.id)

    def _prune(self) -> None:
        """Forget the oldest finished jobs; their pictures and settings are in the catalogue."""
        done = [job for job in self.jobs.values() if job.status.final]
        for job in done[: max(0, len(done) - self.keep)]:
            del self.jobs[job.id]


def _sentence(why: Exception) -> str:
    return str(why.args[0]) if isinstance(why, KeyError) and why.args else str(why)


def _means_no_memory(why: Exception) -> bool:
    text = str(why).lower()
    return any(words in text for words in ("out of memory", "resourceexhausted", "cannot allocate memory", "bad_alloc"))
