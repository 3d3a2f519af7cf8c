"""Where shards are made: in processes on this machine, or by Ray on many. Both give the same bytes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from facecrafter.data.prepare.reader import Result
from facecrafter.data.prepare.workers import ReadsOne, submitting
from facecrafter.datasets.maker import Job
from facecrafter.errors import ConfigError, DataError, FaceCrafterError, reason_of
from facecrafter.interruption import ignored

Make = Callable[[], ReadsOne]
Submit = Callable[[Job], "Future[list[Result]]"]

AHEAD = 2  # shards that a worker is given, so that it never waits for the next one
# More threads change the last digits of a sum, and so would machines with other numbers of cores.
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
LOCAL = "local"


def engine(make: Make, workers: int, ray: str | None) -> AbstractContextManager[Submit]:
    """What takes shards.

    Args:
        make: makes a worker's maker.
        workers: how many.
        ray: the address of a Ray cluster, ``auto``, or ``local`` for one that is started here; None for processes.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
    """
    return processes(make, workers) if ray is None else actors(make, workers, ray)


def made(jobs: Iterator[Job], submit: Submit, workers: int) -> Iterator[tuple[Job, list[Result]]]:
    """Shards as they are done, of which only a few are held at once.

    Raises:
        FaceCrafterError: a worker died, or reported what is missing.
    """
    open_jobs: dict[Future[list[Result]], Job] = {}
    more = True
    while more or open_jobs:
        while more and len(open_jobs) < AHEAD * workers:
            job = next(jobs, None)
            if job is None:
                more = False
            else:
                open_jobs[submit(job)] = job
        done, _ = wait(open_jobs, return_when=FIRST_COMPLETED)
        for future in done:
            yield open_jobs.pop(future), future.result()


@contextmanager
def processes(make: Make, workers: int) -> Iterator[Submit]:
    """Processes on this machine, one thread each."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(THREADS)  # before their libraries are loaded
    try:
        with submitting(make, workers) as submit:
            yield submit
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Actor:
    """A maker in a process of Ray."""

    def __init__(self, make: Make) -> None:
        os.environ["FACECRAFTER_WORKER"] = "1"
        import cv2

        cv2.setNumThreads(1)
        try:
            self._maker: ReadsOne | None = make()
            self._reason = ""
        except FaceCrafterError as error:  # as a result: Ray would start the actor again and again
            self._maker, self._reason = None, str(error)

    def read(self, job: Job) -> list[Result] | str:
        """The samples of a shard, or why there are none."""
        if self._maker is None:
            return self._reason
        try:
            return self._maker.read(job)
        except FaceCrafterError as error:
            return str(error)


@contextmanager
def actors(make: Make, workers: int, address: str) -> Iterator[Submit]:
    """Actors of a Ray cluster, each with one processor. One that dies is started again, and makes its shards again.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    ray = connected(address)
    try:
        options = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": -1}
        actor = ray.remote(**options)(Actor)
        environment = {"env_vars": THREADS}
        crew = [actor.options(runtime_env=environment).remote(make) for _ in range(workers)]
        busy = [0] * workers

        def submit(job: Job) -> Future[list[Result]]:
            place = busy.index(min(busy))
            busy[place] += 1
            future: Future[list[Result]] = Future()
            crew[place].read.remote(job).future().add_done_callback(lambda ready: _hand_on(ready, future, busy, place))
            return future

        yield submit
    finally:
        with ignored():
            ray.shutdown()


def _hand_on(ready: Future[Any], future: Future[list[Result]], busy: list[int], place: int) -> None:
    """Give what an actor answered to whoever waits for it."""
    busy[place] -= 1
    error = ready.exception()
    if error is not None:
        future.set_exception(DataError(f"Ray lost a worker ({reason_of(Exception(str(error)))}); run it again"))
    elif isinstance(ready.result(), str):
        future.set_exception(DataError(ready.result()))
    else:
        future.set_result(ready.result())


def processors(address: str) -> int:
    """How many processors a cluster has.

    Raises:
        ConfigError: see :func:`actors`.
    """
    return max(1, int(connected(address).cluster_resources().get("CPU", 1)))


def connected(address: str) -> Any:
    """Ray, connected to a cluster.

    Raises:
        ConfigError: it is not installed, or there is no cluster at the address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing leaves the machine
    try:
        import ray
    except ImportError:
        raise ConfigError("--ray needs Ray, which is not installed: pip install 'facecrafter[datasets]'") from None
    if ray.is_initialized():
        return ray
    here: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **here)
    except Exception as error:  # whatever its sockets and processes raise
        raise ConfigError(
            f"there is no Ray cluster at {address} ({reason_of(error)}); start one with: ray start"
        ) from None
    return ray
