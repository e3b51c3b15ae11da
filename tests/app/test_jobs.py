"""Jobs: every one ends in exactly one final state, whatever happens to it."""

import random
import threading
import time
from dataclasses import dataclass

import pytest

from app.jobs import QueueFull, Status, Worker


@dataclass(frozen=True)
class Progress:
    step: int
    of: int


@dataclass(frozen=True)
class Preview:
    data: str


@pytest.fixture
def worker():
    made = Worker(limit=8)
    yield made
    made.stop()


def counting(count, gate=None, closed=None):
    def work():
        try:
            for i in range(count):
                if gate is not None:
                    gate.wait(5)
                yield Progress(i + 1, count)
        finally:
            if closed is not None:
                closed.append(True)

    return work


def runs(job):
    """Wait until the worker has taken the job."""
    until = time.monotonic() + 5
    while job.started is None and time.monotonic() < until:
        time.sleep(0.001)
    return job


def test_a_job_keeps_its_events_in_order_and_followers_may_come_late(worker):
    job = worker.submit("count", counting(5))
    assert job.wait(5)
    assert job.status is Status.SUCCEEDED
    assert [e.step for _, e in job.follow()] == [1, 2, 3, 4, 5]
    assert [n for n, _ in job.follow(start=3)] == [3, 4]
    assert (job.done, job.of) == (5, 5)


def test_a_failure_keeps_its_sentence(worker):
    def work():
        yield Progress(1, 2)
        raise ValueError("width must be a multiple of 8")

    job = worker.submit("fail", work)
    assert job.wait(5)
    assert (job.status, job.error) == (Status.FAILED, "width must be a multiple of 8")
    assert worker.submit("next", counting(1)).wait(5)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("ResourceExhaustedError: Out of memory error on GPU 0")])
def test_running_out_of_memory_is_caught_and_memory_freed(error):
    freed = []
    worker = Worker(relieve=lambda: freed.append(True))

    def work():
        yield Progress(1, 2)
        raise error

    job = worker.submit("big", work)
    assert job.wait(5)
    assert (job.status, job.error, freed) == (Status.FAILED, "memory ran out", [True])
    assert "smaller size" in job.hint
    worker.stop()


def test_cancelling_a_running_job_runs_its_clean_up_before_the_next_starts(worker):
    gate, closed = threading.Event(), []
    job = runs(worker.submit("long", counting(1000, gate, closed)))
    after = worker.submit("after", counting(1))
    worker.cancel(job)
    gate.set()
    assert after.wait(5)
    assert job.status is Status.CANCELED
    assert closed == [True]
    assert after.started >= job.ended


def test_cancelling_a_waiting_job_never_starts_it(worker):
    gate, started = threading.Event(), []
    blocker = runs(worker.submit("block", counting(1, gate)))

    def work():
        started.append(True)
        yield Progress(1, 1)

    job = worker.submit("waits", work)
    assert worker.place(job) == 1
    worker.cancel(job)
    gate.set()
    assert blocker.wait(5)
    assert (job.status, started) == (Status.CANCELED, [])


def test_waiting_jobs_can_be_moved(worker):
    gate = threading.Event()
    runs(worker.submit("block", counting(1, gate)))
    jobs = [worker.submit(name, counting(1)) for name in "abc"]
    worker.move(jobs[2], 0)
    assert [j.kind for j in worker.waiting()] == ["c", "a", "b"]
    gate.set()
    assert all(j.wait(5) for j in jobs)
    assert jobs[2].started <= jobs[0].started <= jobs[1].started
    with pytest.raises(ValueError, match="does not wait any more"):
        worker.move(jobs[0], 0)


def test_a_full_queue_says_so(worker):
    gate = threading.Event()
    runs(worker.submit("x", counting(1, gate)))
    for _ in range(8):
        worker.submit("x", counting(1, gate))
    with pytest.raises(QueueFull, match="8 jobs already wait"):
        worker.submit("x", counting(1, gate))
    gate.set()


def test_only_the_latest_preview_is_kept_and_numbers_stay(worker):
    def work():
        for i in range(3):
            yield Progress(i + 1, 3)
            yield Preview(str(i))

    job = worker.submit("previews", work)
    assert job.wait(5)
    events = list(job.follow())
    assert [e for _, e in events if isinstance(e, Preview)] == [Preview("2")]
    assert events[-1][0] == 5


def test_followers_hear_a_heartbeat_while_nothing_happens(worker):
    gate = threading.Event()
    job = worker.submit("slow", counting(1, gate))
    follower = job.follow(timeout=0.01)
    assert next(follower) == (0, None)
    gate.set()
    assert [e for _, e in follower if e is not None] == [Progress(1, 1)]


def test_two_hundred_jobs_with_random_cancels_each_end_once():
    ended = []
    worker = Worker(limit=1000, keep=1000, finished=ended.append)
    draw = random.Random(1)
    jobs = []

    def client():
        for _ in range(25):
            job = worker.submit("work", counting(draw.randrange(1, 6)))
            jobs.append(job)
            if draw.random() < 0.4:
                worker.cancel(job)

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert all(job.wait(20) for job in jobs)
    worker.stop()
    assert len(jobs) == 200
    assert sorted(j.id for j in ended) == sorted(j.id for j in jobs)
    assert {j.status for j in jobs} <= {Status.SUCCEEDED, Status.CANCELED}


def test_stopping_ends_everything():
    worker = Worker()
    gate = threading.Event()
    running, waiting = runs(worker.submit("a", counting(1000, gate))), worker.submit("b", counting(1))
    threading.Timer(0.05, gate.set).start()
    worker.stop()
    assert {running.status, waiting.status} == {Status.CANCELED}
    with pytest.raises(QueueFull, match="shutting down"):
        worker.submit("c", counting(1))
