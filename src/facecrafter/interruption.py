"""Ctrl-C and SIGTERM: what was kept is reported with numbers, and what must not be cut in two is not.

Both arrive as ``KeyboardInterrupt``. Work that keeps something says what as a note on it (:func:`stating`), which the
command line prints.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM: the work is to stop as after Ctrl-C."""


def heed_sigterm() -> None:
    """Let SIGTERM raise :class:`Terminated`, so that files are kept or cleared away as after Ctrl-C.

    Whoever had it ignored keeps it so. In a process that a launcher of several started (``RANK``), it goes on to end
    the process at once: a process that waits for another in a collective operation would not see an exception.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and "RANK" not in os.environ:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


@contextmanager
def stating(kept: Callable[[], str]) -> Iterator[None]:
    """Add to an interrupt that passes through what of the work was kept.

    Args:
        kept: says it, with numbers, from what is there by then. Of several around each other the outermost counts.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        with deferred():
            interrupt.add_note(kept())
        raise


def kept_of(interrupt: KeyboardInterrupt) -> str | None:
    """What the outermost :func:`stating` reported of it, or of one that it came on top of; None without one."""
    latest: BaseException | None = interrupt
    while isinstance(latest, KeyboardInterrupt):
        if notes := getattr(latest, "__notes__", []):
            return str(notes[-1])
        latest = latest.__context__
    return None


@contextmanager
def deferred() -> Iterator[None]:
    """Let an interrupt wait until what is inside is done; a second one breaks in.

    In other threads than the main one, which no interrupt reaches, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def hold(number: int, frame: FrameType | None) -> None:
        waiting.append(number)
        if len(waiting) > 1:
            before[number](number, frame)

    try:
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):  # and not ignored, or left to the system
                before[number] = handler
                signal.signal(number, hold)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if len(waiting) == 1:
        before[waiting[0]](waiting[0], None)


def ignore() -> None:
    """Ignore interrupts from now on, since the process ends anyway."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore interrupts inside it, which are a few words about one that has arrived."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ignore()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def uninterrupted_start() -> Iterator[None]:
    """Start processes inside it that Ctrl-C in the terminal does not reach; this one hears of it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
