"""Many files at once, in processes that end when they are asked to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from facecrafter.data.prepare.reader import LESS_MEMORY, Result
from facecrafter.data.prepare.stopping import check_leaving, leave
from facecrafter.errors import ConfigError, DataError, FaceCrafterError
from facecrafter.interruption import uninterrupted_start


class ReadsOne(Protocol):
    """What a worker has one of: it makes the results of one item after another, the same ones in every process."""

    def read(self, item: Any) -> list[Result]:
        """The results of an item."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


# How a process ends where a library fails in it; one that the system ends for its memory is killed.
_CRASHES = [
    getattr(signal, name) for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE") if hasattr(signal, name)
]

_reader: ReadsOne | FaceCrafterError | None = None  # a worker's own, or why it has none


def _start_worker(make: Callable[[], ReadsOne]) -> None:
    global _reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent sees to it
    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"
    _use_one_thread()
    try:
        _reader = make()
    except FaceCrafterError as error:  # raised by the first item: what is raised here breaks the pool without a reason
        _reader = error


def _leave_with_parent() -> None:
    """End a worker whose parent was killed: the pool's queue would keep it waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _use_one_thread() -> None:
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    os.environ["FACECRAFTER_WORKER"] = "1"


def _read(item: Any) -> list[Result]:
    assert _reader is not None
    check_leaving()
    if isinstance(_reader, FaceCrafterError):
        raise _reader
    return _reader.read(item)


@contextmanager
def readers(
    make: Callable[[], ReadsOne],
    workers: int,
    chunk: int = 4,
    crashed: Callable[[Any], list[Result]] | None = None,
) -> Iterator[Callable[[Sequence[Any]], Iterable[list[Result]]]]:
    """A function that reads items in order, in this process or in several.

    Args:
        make: makes a reader, once in every process; it and the items travel there.
        workers: processes; 1 for this one alone.
        chunk: how many items a process is given at once.
        crashed: the results of an item at which a process crashes, by itself too; without it that ends the work. In
            this one alone it ends the program.
    """
    if workers == 1:
        with single_thread():
            reader = make()
            try:
                yield lambda items: map(reader.read, items)
            finally:
                reader.close()
        return

    with ExitStack() as pools:
        pool = pools.enter_context(_pool(make, workers))

        def read(items: Sequence[Any]) -> Iterator[list[Result]]:
            nonlocal pool
            done = 0
            while done < len(items):
                with uninterrupted_start():  # a worker that still imports would answer Ctrl-C with a traceback
                    found = pool.map(_read, items[done:], chunksize=chunk)
                processes = multiprocessing.active_children()
                try:
                    for results in found:
                        yield results
                        done += 1
                except BrokenProcessPool:
                    if crashed is None or not _has_crashed(pool, processes):
                        raise
                    # It was at one of these, or at a later one, to which all this comes again.
                    suspects = items[done : done + workers * chunk]
                    for results in _one_by_one(make, suspects, crashed):
                        yield results
                        done += 1
                    pool = pools.enter_context(_pool(make, workers))

        yield read


def _one_by_one(
    make: Callable[[], ReadsOne], items: Sequence[Any], crashed: Callable[[Any], list[Result]]
) -> Iterator[list[Result]]:
    """The results of items in order, in one process, and in a new one after each at which it crashes."""
    left = list(items)
    while left:
        with _pool(make, 1) as pool:
            alive = True
            while left and alive:
                with uninterrupted_start():
                    future = pool.submit(_read, left[0])
                processes = multiprocessing.active_children()
                try:
                    results = future.result()
                except BrokenProcessPool:
                    if not _has_crashed(pool, processes):
                        raise
                    results, alive = crashed(left[0]), False
                del left[0]
                yield results


def _has_crashed(pool: ProcessPoolExecutor, processes: Sequence[BaseProcess]) -> bool:
    """Whether one of the processes of a broken pool crashed, and was not ended from outside or by itself."""
    pool.shutdown(cancel_futures=True)  # the pool asks how they ended too, and only one of two learns it
    return any(process.exitcode is not None and -process.exitcode in _CRASHES for process in processes)


@contextmanager
def submitting(make: Callable[[], ReadsOne], workers: int) -> Iterator[Callable[[Any], Future[list[Result]]]]:
    """A function that gives one item to one of several processes, which may also be a single one.

    Args:
        make: see :func:`readers`.
        workers: processes beside this one.
    """
    with _pool(make, workers) as pool:

        def submit(item: Any) -> Future[list[Result]]:
            with uninterrupted_start():
                return pool.submit(_read, item)

        yield submit


@contextmanager
def _pool(make: Callable[[], ReadsOne], workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes with a reader each, which end with this one."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (make,))
    try:
        yield pool
    except KeyboardInterrupt:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()  # see leave; it may be at a long video, which is read again
        raise
    except BrokenProcessPool:
        raise DataError(
            "a worker process died, perhaps for memory; run it again with fewer workers, it goes on from there"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def check_workers(workers: int) -> None:
    """Refuse what cannot be a number of processes, of which 0 means one a core.

    Raises:
        ConfigError: it is negative.
    """
    if workers < 0:
        raise ConfigError(f"workers {workers} is negative; 0 means one a core")


@contextmanager
def memory_errors_named() -> Iterator[None]:
    """Turn a lack of memory into one clear error.

    Raises:
        DataError: memory ran out.
    """
    try:
        yield
    except MemoryError:
        raise DataError(f"memory ran out; {LESS_MEMORY}") from None


@contextmanager
def single_thread() -> Iterator[None]:
    """The same arithmetic as in a worker, and this process as it was afterwards."""
    import cv2
    import torch

    threads, mark = (cv2.getNumThreads(), torch.get_num_threads()), os.environ.get("FACECRAFTER_WORKER")
    _use_one_thread()
    try:
        yield
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
        if mark is None:
            del os.environ["FACECRAFTER_WORKER"]
