"""Operations counted, and what the machine could do at most: whether a run is fed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from facecrafter.data.dataset import images_at_once

if TYPE_CHECKING:
    from facecrafter.training.timebox import TimeBox


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def matmul_limit(device: torch.device, dtype: torch.dtype, repeats: int = 5, side: int | None = None) -> float:
    """The most floating-point operations a second that a large matrix product reaches on a device.

    Args:
        device: where.
        dtype: of the numbers.
        repeats: how often it is measured, after once that is not; the fastest counts.
        side: of the matrices; None for 8192 on a GPU and 2048 elsewhere.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(1 + repeats):
        wait(device)
        start = time.perf_counter()
        left @ right
        wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


@contextmanager
def counting() -> Iterator[list[float]]:
    """The floating-point operations of matrix products, convolutions and attention within it, as the only item of a
    list; the backward pass is counted too."""
    from torch.utils.flop_counter import FlopCounterMode

    counted = [0.0]
    with FlopCounterMode(display=False) as counter:
        yield counted
    counted[0] = float(counter.get_total_flops())


def encoding_rate(autoencoder: Any, size: int, device: torch.device) -> float:
    """Images a second that an autoencoder encodes.

    Args:
        autoencoder: on the device.
        size: side of the images in pixels.
        device: where.
    """
    images = torch.zeros(images_at_once(size, device), 3, size, size, device=device)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            autoencoder.encode(images)
        wait(device)
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)


class Pace:
    """How fast a run's steps are: samples a second, and what share of the machine they use.

    Args:
        box: says what the machine can do; None where it was not measured, and then operations are not counted.
        device: where it runs.
    """

    def __init__(self, box: TimeBox | None, device: torch.device) -> None:
        self.box, self.device = box, device
        self.operations = 0.0  # a sample's
        self.samples = 0
        self._began = time.perf_counter()

    @contextmanager
    def step(self, first: bool) -> Iterator[None]:
        """Around each step. By the clock the first one is counted and not timed: counting, and what a device does when
        it sees a shape for the first time, take longer than a step."""
        if not (self.box and first):
            yield
            return
        with counting() as counted:
            yield
        self.operations = counted[0] / max(1, self.samples)
        self.samples = 0
        wait(self.device)
        self._began = time.perf_counter()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around what is no step: its time does not count."""
        wait(self.device)
        start = time.perf_counter()
        yield
        self._began += time.perf_counter() - start

    @property
    def samples_per_second(self) -> float:
        """So far; with a device's queue, what was given to it."""
        return self.samples / max(time.perf_counter() - self._began, 1e-9)

    def measured(self) -> dict[str, float]:
        """What a record has of it."""
        rate = self.samples_per_second
        if not self.box or not self.samples:
            return {"samples_per_second": rate}
        counted = {"samples_per_second": rate, "operations_per_sample": self.operations}
        if math.isnan(self.box.limit):
            return counted
        return {**counted, "share_of_machine": rate * self.operations / self.box.limit}
