"""How a worker process ends when it is asked to: between two photos or frames, or soon by itself."""

from __future__ import annotations

import os
import threading
from types import FrameType

from facecrafter.data import shards
from facecrafter.errors import DataError


class Halted(DataError):
    """The machine failed, and not the photo: the run ends."""


_leaving = False  # whether it was asked to end
LAST_SECONDS = 5.0  # until it is ended where it does not come to a place to do so


def leave(number: int, frame: FrameType | None) -> None:
    """Let a worker give up its work, as the handler of a signal; see :func:`check_leaving`.

    If it was ended here, then perhaps while it sends a result, and the pool would wait for the other half for ever; and
    a pool that breaks while it is shut down prints a traceback.
    """
    global _leaving
    _leaving = True
    timer = threading.Timer(LAST_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()


def check_leaving() -> None:
    """Between two photos or frames.

    Raises:
        DataError: this worker was asked to end.
    """
    if _leaving:
        raise Halted(f"a worker process was ended; {shards.GO_ON}")
