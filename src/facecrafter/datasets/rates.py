"""How fast workers make images: processes, Ray's actors and Ray Data, all by the workers' own clocks.

A worker has loaded its model and made an image before it is given a job, and the first job waits until every worker
has. So what is measured is making, and waiting between jobs, while samples are written as for a data set.
"""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from facecrafter.datasets import engines, ray_data
from facecrafter.datasets.engines import AHEAD, Make, Submit
from facecrafter.datasets.maker import Job
from facecrafter.datasets.output import write

PROCESS, ACTOR, RAY_DATA = "process", "Ray actor", "Ray Data worker"
KINDS = {PROCESS: "processes", ACTOR: "Ray actors", RAY_DATA: "Ray Data workers"}
TURNS = 3  # in which kinds of workers are compared
ANSWER = 0.1  # seconds that a worker takes to answer whether it has started, so that another one is asked too
# Seconds of a pause. Until Ray Data has counted the cluster's processors, some seconds after its workers have started,
# it gives out AHEAD jobs a worker and then one at a time.
SETTLING = 5.0

# Images a second, by the kind of worker, how many there are, and the turn.
Rates = Mapping[str, Mapping[int, Sequence[float]]]


@dataclass(frozen=True)
class Stamp:
    """When a worker made a job.

    Attributes:
        worker: its machine and process.
        begin, end: seconds, by the clock of its machine.
        images: how many came of it, those that missed their cell included; attempts at the same one are one.
    """

    worker: str
    begin: float
    end: float
    images: int


@dataclass(frozen=True)
class Pause:
    """What a worker is given before its first job.

    Attributes:
        seconds: how long it takes.
        number: what tells it from a job.
    """

    seconds: float
    number: int = -1


def rate_of(stamps: Sequence[Stamp]) -> float:
    """Images a second from the first job's begin to the last one's end; a worker that has none meanwhile is idle.

    Machines of several workers need clocks that agree.
    """
    seconds = max(stamp.end for stamp in stamps) - min(stamp.begin for stamp in stamps)
    return sum(stamp.images for stamp in stamps) / seconds


class Clocked:
    """A maker that has made an image when it is there, and puts before the results of a job when it made them.

    Args:
        make: makes the maker.
        first: the image.
    """

    def __init__(self, make: Make, first: Job) -> None:
        self._maker = make()
        self._maker.read(first)
        self._name = f"{socket.gethostname()} {os.getpid()}"

    def close(self) -> None:
        """Free what the maker holds."""
        self._maker.close()

    def read(self, item: Job | Pause) -> list[Any]:
        """A :class:`Stamp`, and the results of a job."""
        begin, results = time.time(), []
        if isinstance(item, Job):
            results = self._maker.read(item)
        else:
            time.sleep(item.seconds)
        return [Stamp(self._name, begin, time.time(), len(results)), *results]


def compare(jobs: Sequence[Job], make: Make, workers: Sequence[int], ray: str | None) -> Rates:
    """Make the same jobs by every kind of workers, in turn.

    Args:
        jobs: what to make; it is written to a folder that is not kept.
        make: makes a worker's maker.
        workers: how many.
        ray: the address of a Ray cluster; None for processes alone, and once.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
        FaceCrafterError: a worker died, or reported what is missing.
    """
    kinds = list(KINDS) if ray else [PROCESS]
    rates: dict[str, dict[int, list[float]]] = {kind: {count: [] for count in workers} for kind in kinds}
    for count in workers:
        for _ in range(TURNS if ray else 1):
            for kind in kinds:
                rates[kind][count].append(rate_of(_stamps(kind, jobs, make, count, ray)))
            kinds.reverse()  # what a machine does slower with time is of no kind
    return rates


def _stamps(kind: str, jobs: Sequence[Job], make: Make, workers: int, ray: str | None) -> list[Stamp]:
    """When jobs were made, each of which is written as for a data set."""
    clocked = partial(Clocked, make, Job(0, jobs[0].rows[:1], jobs[0].people))
    stamps: list[Stamp] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (stamp, *results) in _made(kind, jobs, clocked, workers, ray):
            write(Path(folder), number, results)
            stamps.append(stamp)
    return stamps


def _made(
    kind: str, jobs: Sequence[Job], make: Make, workers: int, ray: str | None
) -> Iterator[tuple[int, Sequence[Any]]]:
    """Results by the numbers of jobs, which begin when every worker has started."""
    if kind == RAY_DATA and ray:
        pauses: list[Any] = [Pause(SETTLING)] * (AHEAD * workers)
        found = ray_data.made([*pauses, *jobs], make, workers, ray)
        yield from ((number, results) for number, results in found if number >= 0)
        return
    with engines.engine(make, workers, None if kind == PROCESS else ray) as submit:
        _wait_for_all(submit, workers)
        for job, results in engines.made(iter(jobs), submit, workers):
            yield job.number, results


def _wait_for_all(submit: Submit, workers: int) -> None:
    """Ask until every worker has answered."""
    answered: set[str] = set()
    pause: Any = Pause(ANSWER)
    while len(answered) < workers:
        asked: list[Any] = [submit(pause) for _ in range(AHEAD * workers)]
        answered.update(one.result()[0].worker for one in asked)


def lines(rates: Rates) -> Iterator[str]:
    """The rates in words, each the median of its turns, and what Ray Data's are of the actors' in the same turns."""
    for kind, counts in rates.items():
        for count, turns in counts.items():
            plural = kind if count == 1 else KINDS[kind]
            yield f"{count} {plural}: {_middle(turns)} images a second of wall-clock time"
    for count, turns in rates.get(RAY_DATA, {}).items():
        ratios = [one / other for one, other in zip(turns, rates[ACTOR][count], strict=True)]
        yield f"Ray Data with {count}: {_middle(ratios)} of what as many actors make"


def _middle(turns: Sequence[float]) -> str:
    """The median, and where there are several the least and the most."""
    several = f" ({min(turns):.2f} to {max(turns):.2f})" if len(turns) > 1 else ""
    return f"{statistics.median(turns):.2f}{several}"
