"""How often one visitor may ask."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_VISITORS = 4096  # whose rates are remembered


@dataclass(frozen=True)
class Rate:
    """A number of requests at once, and how fast more are allowed.

    Attributes:
        burst: requests at once, at least 1.
        per_second: how many more are allowed each second.
    """

    burst: int
    per_second: float


class RateLimit:
    """A bucket of tokens for every visitor (Turner, 1986).

    Args:
        rate: what each visitor may do.
        clock: seconds that only grow.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()  # between taking a bucket and putting it back it would be as good as full

    def wait(self, visitor: str) -> float:
        """Count a request; 0 where it is allowed, else the seconds after which it would be."""
        with self._lock:
            now = self._clock()
            left, then = self._buckets.pop(visitor, (float(self._rate.burst), now))
            left = min(float(self._rate.burst), left + (now - then) * self._rate.per_second)
            allowed = left >= 1
            self._buckets[visitor] = (left - allowed, now)
            while len(self._buckets) > MOST_VISITORS:
                self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate.per_second
