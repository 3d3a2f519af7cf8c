"""One worker and its bounded queue: tasks that report progress and can be cancelled between two steps."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from facecrafter.errors import FaceCrafterError
from facecrafter.web.guard import place_of

log = logging.getLogger(__name__)

FIRST_GUESS = 3.0  # seconds of a task, before one was measured
MEMORY = 0.3  # of the last task in the mean of their durations


class Cancelled(Exception):
    """The task is no longer wanted."""


class Busy(Exception):
    """No more tasks can wait.

    Args:
        seconds: after which there will be a place, by what tasks took so far.
        reason: why.
    """

    def __init__(self, seconds: float, reason: str = "the queue is full") -> None:
        super().__init__(f"{reason}; ask again in {math.ceil(seconds)} s")
        self.seconds = max(1, math.ceil(seconds))


class Task:
    """Something that the worker does.

    Args:
        do: what; it calls :meth:`step` as it goes on.
        total: what its steps sum up to.
        urgent: goes before those that are not.

    Attributes:
        status: as in :data:`facecrafter.studio.schema.Status`.
        progress: from 0 to 1.
        result: what ``do`` gave.
        error: what it raised, if it raised something.
    """

    def __init__(self, do: Callable[[Task], Any], total: float = 1.0, urgent: bool = False) -> None:
        self.do, self.total, self.urgent = do, total, urgent
        self.status, self.progress = "queued", 0.0
        self.result: Any = None
        self.error: Exception | None = None
        self.seconds = 0.0
        self.finished: list[Callable[[Task], object]] = []
        self._cancelled = threading.Event()
        self._watchers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status not in ("queued", "running")

    def step(self, amount: float) -> None:
        """Add to what is done.

        Raises:
            Cancelled: it is no longer wanted.
        """
        if self._cancelled.is_set():
            raise Cancelled
        self.progress = min(1.0, self.progress + amount / self.total)
        self._tell()

    def cancel(self) -> None:
        """Stop it at its next step."""
        self._cancelled.set()

    def finish(self, status: str) -> None:
        """Nothing more happens to it. It has failed where what is called at its end does."""
        for call in self.finished:
            try:
                call(self)
            except Exception as error:  # the worker goes on with the next task
                log.error("the end of a task failed: %s", place_of(error))
                self.error, status = error, "failed"
        self.status = status
        self._tell()

    def begin(self) -> None:
        """It runs from now on."""
        self.status = "running"
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            for loop, event in self._watchers:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    async def changes(self, most_seconds: float = 15.0) -> AsyncIterator[None]:
        """Something may have changed; the last time when it is over. At least every ``most_seconds``."""
        watcher = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._watchers.append(watcher)
        try:
            while not self.is_over:
                watcher[1].clear()
                yield
                if not self.is_over:
                    try:
                        await asyncio.wait_for(watcher[1].wait(), most_seconds)
                    except TimeoutError:
                        continue
            yield
        finally:
            with self._lock:
                self._watchers.remove(watcher)

    async def over(self) -> None:
        """Wait for its end."""
        async for _ in self.changes():
            pass


class Worker:
    """Does one task after another in a thread of its own: a model is no place for two.

    Args:
        most_waiting: tasks in the queue.
        before: called in the thread before each task.
    """

    def __init__(self, most_waiting: int, before: Callable[[], object] = lambda: None) -> None:
        self.most_waiting, self._before = most_waiting, before
        self._waiting: list[tuple[bool, int, Task]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._running: Task | None = None
        self._stopped = False
        self._usual = FIRST_GUESS
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Put a task into the queue.

        Raises:
            Busy: it is full.
        """
        with self._changed:
            if self._stopped or len(self._waiting) >= self.most_waiting:
                raise Busy(self._usual * (len(self._waiting) + 1) / 2)
            heapq.heappush(self._waiting, (not task.urgent, next(self._numbers), task))
            self._changed.notify()

    def cancel(self, task: Task) -> None:
        """Take a task out of the queue, or stop it at its next step."""
        with self._changed:
            waits = [one for one in self._waiting if one[2] is task]
            if waits:
                self._waiting.remove(waits[0])
                heapq.heapify(self._waiting)
            task.cancel()
        if waits:
            task.finish("cancelled")

    def ahead(self, task: Task) -> int:
        """How many come before it."""
        with self._changed:
            order = sorted(self._waiting)
            place = next((index for index, one in enumerate(order) if one[2] is task), None)
            return 0 if place is None else place + (self._running is not None)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def is_running(self) -> bool:
        """Whether a task is in work."""
        return self._running is not None

    def stop(self) -> None:
        """Take no more tasks, and stop the one in work at its next step."""
        with self._changed:
            self._stopped = True
            if self._running is not None:
                self._running.cancel()
            self._changed.notify()
        self._thread.join(30)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if self._stopped:
                    return
                task = self._running = heapq.heappop(self._waiting)[2]
            task.finish(self._do(task))
            with self._changed:
                self._running = None

    def _do(self, task: Task) -> str:
        """Do a task; gives its status."""
        task.begin()
        started = time.monotonic()
        try:
            self._before()
            task.step(0)
            task.result = task.do(task)
        except Cancelled:
            return "cancelled"
        except FaceCrafterError as error:
            task.error = error
            return "failed"
        except Exception as error:
            log.error("a task failed: %s", place_of(error))
            task.error = error
            return "failed"
        finally:
            task.seconds = time.monotonic() - started
            self._usual += MEMORY * (task.seconds - self._usual)
        return "done"
