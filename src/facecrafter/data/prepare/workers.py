"""Many files at once, in processes that end when they are asked to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from facecrafter.data.prepare.reader import Job, Reader, Result
from facecrafter.data.prepare.source import Photo
from facecrafter.data.prepare.stopping import check_leaving, leave
from facecrafter.errors import DataError
from facecrafter.interruption import uninterrupted_start

_reader: Reader | None = None  # a worker's own


def _start_worker(job: Job) -> None:
    global _reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent sees to it
    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"
    _use_one_thread()
    _reader = Reader(job)


def _leave_with_parent() -> None:
    """End a worker whose parent was killed: the pool's queue would keep it waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _use_one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)
    os.environ["FACECRAFTER_WORKER"] = "1"


def _read(photo: Photo) -> list[Result]:
    assert _reader is not None
    check_leaving()
    return _reader.read(photo)


@contextmanager
def readers(job: Job, workers: int) -> Iterator[Callable[[list[Photo]], Iterable[list[Result]]]]:
    """A function that reads files in order, in this process or in several."""
    if workers == 1:
        with single_thread():
            reader = Reader(job)
            try:
                yield lambda photos: map(reader.read, photos)
            finally:
                reader.close()
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (job,))

    def read(photos: list[Photo]) -> Iterator[list[Result]]:
        with uninterrupted_start():  # a worker that still imports would answer Ctrl-C with a traceback
            return pool.map(_read, photos, chunksize=4)

    try:
        yield read
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

    threads, mark = cv2.getNumThreads(), os.environ.get("FACECRAFTER_WORKER")
    _use_one_thread()
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        if mark is None:
            del os.environ["FACECRAFTER_WORKER"]
