"""What every MediaPipe task needs: a quiet start, images in its own type, and a quiet end."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep start-up chatter that comes from C++ and knows no log level off the terminal."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def to_image(photo: NDArray[np.uint8]) -> Any:
    """``(H, W, 3)`` uint8 RGB as MediaPipe's image type."""
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(photo))


def end_quietly(task: Any, owner: object) -> None:
    """Close a MediaPipe task with its owner, or let it live until the interpreter ends, unclosed.

    Only the task's being held here makes closing safe: a task that is garbage together with its own thread pool, as in
    a cycle of references, would wait for a thread that has already gone.

    MediaPipe closes a forgotten task in ``__del__`` by handing work to a thread. While the interpreter ends there is no
    such thread any more, and a traceback is printed for a process that gives its memory back anyway. No hook at exit
    comes early enough, and MediaPipe makes its tasks by class name, so the object changes its class.
    """
    kind, ending = type(task), sys.is_finalizing

    def __del__(self: Any) -> None:
        if not ending():
            kind.close(self)

    task.__class__ = type(kind.__name__, (kind,), {"__del__": __del__})
    weakref.finalize(owner, task.close).atexit = False
