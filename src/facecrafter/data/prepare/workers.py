"""Many files at once, in processes that end when they are asked to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

from facecrafter.data.prepare.reader import Result
from facecrafter.data.prepare.stopping import check_leaving, leave
from facecrafter.errors import DataError, FaceCrafterError
from facecrafter.interruption import uninterrupted_start


class ReadsOne(Protocol):
    """What a worker has one of: it makes the results of one item after another, the same ones in every process."""

    def read(self, item: Any) -> list[Result]:
        """The results of an item."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


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
    make: Callable[[], ReadsOne], workers: int, chunk: int = 4
) -> Iterator[Callable[[Sequence[Any]], Iterable[list[Result]]]]:
    """A function that reads items in order, in this process or in several.

    Args:
        make: makes a reader, once in every process; it and the items travel there.
        workers: processes; 1 for this one alone.
        chunk: how many items a process is given at once.
    """
    if workers == 1:
        with single_thread():
            reader = make()
            try:
                yield lambda items: map(reader.read, items)
            finally:
                reader.close()
        return

    with _pool(make, workers) as pool:

        def read(items: Sequence[Any]) -> Iterator[list[Result]]:
            with uninterrupted_start():  # a worker that still imports would answer Ctrl-C with a traceback
                return pool.map(_read, items, chunksize=chunk)

        yield read


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
