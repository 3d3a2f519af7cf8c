"""What every benchmark measures with: memory and spread."""

from __future__ import annotations

import gc
import statistics
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil
import torch

MIB = 2**20


@dataclass(frozen=True)
class Spread:
    """What several measurements say: the median, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


@contextmanager
def peak(device: torch.device) -> Iterator[list[float]]:
    """The most memory held while it lasts, in MiB, as the only item of a list. On a CPU the process's resident memory
    is looked at a hundred times a second."""
    result = [0.0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield result
        result[0] = torch.cuda.max_memory_allocated(device) / MIB
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            result[0] = max(result[0], resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield result
    finally:
        done.set()
        watcher.join()
        result[0] = max(result[0], resident())


def resident() -> float:
    """The process's resident memory in MiB."""
    return float(psutil.Process().memory_info().rss) / MIB


def held(device: torch.device) -> float:
    """The memory held now, in MiB, after what nobody needs any more was given back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(device) / MIB
    if sys.platform == "linux":
        import ctypes

        with suppress(AttributeError, OSError):  # other C libraries keep nothing back
            ctypes.CDLL(None).malloc_trim(0)
    return resident()
