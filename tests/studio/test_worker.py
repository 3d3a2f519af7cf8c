from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from facecrafter.errors import PhotoError
from facecrafter.studio.worker import Busy, Cancelled, Task, Worker

SECONDS = 60


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(3)
    yield worker
    worker.stop()


class Held:
    """A task that goes on step by step, each when the test lets it."""

    def __init__(self, worker: Worker, urgent: bool = False) -> None:
        self.begun, self.go, self.steps = threading.Event(), threading.Semaphore(0), 0
        self.over = threading.Event()
        self.task = Task(self._do, total=4, urgent=urgent)
        self.task.finished.append(lambda task: self.over.set())
        worker.submit(self.task)

    def _do(self, task: Task) -> int:
        self.begun.set()
        for _ in range(4):
            assert self.go.acquire(timeout=SECONDS)
            self.steps += 1
            task.step(1)
        return self.steps

    def let_go(self) -> None:
        for _ in range(4):
            self.go.release()


def wait(event: threading.Event) -> None:
    assert event.wait(SECONDS)


def test_tasks_run_one_after_another_urgent_ones_first(worker: Worker) -> None:
    order: list[str] = []
    first = Held(worker)
    wait(first.begun)
    others = [(name, Held(worker, name == "preview")) for name in ("image", "preview", "other")]
    for name, held in others:
        held.task.finished.append(lambda task, name=name: order.append(name))
        held.let_go()
    assert [worker.ahead(held.task) for _, held in others] == [2, 1, 3]
    first.let_go()
    for _, held in others:
        wait(held.over)
    assert order == ["preview", "image", "other"]
    assert first.task.result == 4


def test_a_full_queue_refuses_and_says_when_to_come_back(worker: Worker) -> None:
    held = Held(worker)
    wait(held.begun)
    waiting = [Held(worker) for _ in range(3)]
    with pytest.raises(Busy) as error:
        Held(worker)
    assert error.value.seconds >= 1
    assert worker.waiting == 3
    worker.cancel(waiting[0].task)
    more = Held(worker)  # there is a place again
    for one in (held, *waiting, more):
        one.let_go()
    for one in (held, *waiting[1:], more):
        wait(one.over)


def test_what_waits_is_cancelled_at_once_and_what_runs_within_a_step(worker: Worker) -> None:
    running = Held(worker)
    wait(running.begun)
    waiting = Held(worker)
    worker.cancel(waiting.task)
    assert (waiting.task.status, waiting.begun.is_set()) == ("cancelled", False)
    running.go.release()
    worker.cancel(running.task)
    running.let_go()
    wait(running.over)
    assert running.steps <= 2
    assert (running.task.result, running.task.error) == (None, None)
    with pytest.raises(Cancelled):
        running.task.step(0)


@pytest.mark.parametrize("error", [PhotoError("no image"), OSError("/home/ann/me.jpg")])
def test_a_failure_is_the_tasks_own(worker: Worker, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def fail(task: Task) -> None:
        raise error

    failing = Task(fail)
    over = threading.Event()
    failing.finished.append(lambda task: over.set())
    worker.submit(failing)
    wait(over)
    assert failing.error is error
    assert "ann" not in caplog.text
    held = Held(worker)
    held.let_go()
    wait(held.over)


def test_a_task_whose_end_fails_does_not_end_the_worker(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    def fail(task: Task) -> None:
        raise OSError("/home/ann is full")

    over = threading.Event()
    task = Task(lambda task: 1)
    task.finished += [fail, lambda task: over.set()]
    worker.submit(task)
    wait(over)
    held = Held(worker)
    held.let_go()
    wait(held.over)
    assert task.status == "failed"
    assert "OSError" in caplog.text and "ann" not in caplog.text


def test_changes_are_watched_until_the_end(worker: Worker) -> None:
    held = Held(worker)
    wait(held.begun)

    async def watched() -> list[float]:
        progress = []
        async for _ in held.task.changes():
            progress.append(held.task.progress)
            held.go.release()
        return progress

    with ThreadPoolExecutor(1) as pool:  # browser tests leave a running loop in this thread
        progress = pool.submit(asyncio.run, watched()).result()
    assert progress[-1] == 1.0
    assert progress == sorted(progress)
    assert held.task.status == "done"
    assert held.task._watchers == []


def test_a_stopped_worker_takes_nothing_and_stops_at_a_step() -> None:
    worker = Worker(3)
    held = Held(worker)
    wait(held.begun)
    release: Callable[[], None] = held.let_go
    threading.Timer(0.05, release).start()
    worker.stop()
    assert held.steps <= 4
    assert not worker.is_running
    with pytest.raises(Busy):
        Held(worker)
