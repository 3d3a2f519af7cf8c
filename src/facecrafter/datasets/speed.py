"""What `dataset make` costs beside the sampler, and how it grows with workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from facecrafter.data import shards
from facecrafter.data.prepare.reader import Accepted
from facecrafter.datasets import engines, rates
from facecrafter.datasets.basis import Basis
from facecrafter.datasets.make import check_plan
from facecrafter.datasets.maker import Job, Maker, Recipe, open_crafter
from facecrafter.datasets.plan import Plan, Row
from facecrafter.datasets.rates import Rates
from facecrafter.errors import ConfigError

SAMPLING = "sampling"


@dataclass(frozen=True)
class Speed:
    """What images of a plan cost.

    Attributes:
        images: how many were made, attempts included.
        parts: processor seconds an image, by what they were spent on; ``sampling`` is the sampler's own.
        share: of the processor time that is the sampler's: the speed as a share of the sampler's own.
        kilobytes: an image in its shard.
        rates: images a second of wall-clock time by kinds and numbers of workers, without their start.
    """

    images: int
    parts: dict[str, float]
    share: float
    kilobytes: float
    rates: Rates


def measure(
    path: Path, images: int = 64, workers: Sequence[int] = (1, 2), ray: str | None = None, device: str = "cpu"
) -> Speed:
    """Make the first images of a plan in this process, and again with several numbers of workers. Nothing is kept.

    Args:
        path: the plan.
        images: how many.
        workers: how many, each of which is measured.
        ray: the address of a Ray cluster, to compare its actors and Ray Data with processes.
        device: of the model.

    Raises:
        ConfigError: the plan has fewer images, or was not written for what is here.
    """
    plan = Plan(path)
    if plan.images < images:
        raise ConfigError(f"{path} has {plan.images} images, fewer than {images}; give --images {plan.images} or less")
    crafter = open_crafter(plan.config, device)
    check_plan(plan, crafter.model.scale.embedding)
    recipe = Recipe(plan.config, tuple(plan.cells), device, Basis.of(crafter))
    del crafter  # the workers have their own
    jobs = list(_jobs(plan, images))
    parts, made, size = _alone(recipe, jobs)
    return Speed(
        images=made,
        parts=parts,
        share=parts[SAMPLING] / sum(parts.values()),
        kilobytes=size / 1000,
        rates=rates.compare(jobs, partial(Maker, recipe), workers, ray),
    )


def _jobs(plan: Plan, images: int) -> Iterator[Job]:
    """The first images, as small shards of a batch each, so that workers share them evenly."""
    rows: list[Row] = []
    shard = 0
    while len(rows) < images:
        rows += plan.rows(shard)
        shard += 1
    size = plan.config.sampling.batch_size
    for number, first in enumerate(range(0, images, size)):
        own = rows[first : min(first + size, images)]
        yield Job(number, tuple(own), plan.persons([row.person for row in own]))


def _alone(recipe: Recipe, jobs: Sequence[Job]) -> tuple[dict[str, float], int, float]:
    """Processor seconds an image by part, how many images were made, and bytes an image: of one worker."""
    work: Any = jobs  # all of them are one item of this worker
    with engines.processes(partial(_TimedMaker, recipe), 1) as submit:
        (found,) = submit(work).result()
    return cast(tuple[dict[str, float], int, float], found)


class _TimedMaker:
    """A maker in a worker process, where everything computes on one thread, as for a data set.

    Args:
        recipe: of the plan.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._maker = Maker(recipe)

    def close(self) -> None:
        """Free the landmark network."""
        self._maker.close()

    def read(self, jobs: Sequence[Job]) -> list[Any]:
        """Make shards; one result, what :func:`_alone` gives."""
        maker = self._maker
        maker.read(Job(0, jobs[0].rows[:1], jobs[0].people))  # loads what is loaded once
        maker.faces.clear()
        before, seconds = maker.attempts, _timed(maker)
        start, samples = time.process_time(), []
        for job in jobs:
            results = maker.read(job)
            samples += [(one.row.key, one.parts) for one in results if isinstance(one, Accepted)]
        content = shards.pack(samples)
        seconds["encoding and the rest"] = time.process_time() - start - sum(seconds.values())
        made = maker.attempts - before
        parts = {name: total / made for name, total in seconds.items()}
        return [(parts, made, len(content) / max(1, len(samples)))]


def _timed(maker: Maker) -> dict[str, float]:
    """Let a maker's parts be timed from now on; seconds by name."""
    seconds: dict[str, float] = {}

    def wrap(owner: Any, name: str, label: str, all_of_it: Callable[[Any], Any] = lambda value: value) -> None:
        real = getattr(owner, name)
        seconds[label] = 0.0

        def timed(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            found = all_of_it(real(*given, **named))
            seconds[label] += time.process_time() - start
            return found

        setattr(owner, name, timed)

    wrap(maker.crafter.generator, "generate", SAMPLING, list)
    wrap(maker, "points", "landmarks by numbers")
    labeller = maker.labeller
    wrap(labeller.finder, "find_all", "finding the face")
    for name, network in labeller.recognisers.items():
        wrap(network, "embed", name)
    wrap(labeller.estimator, "estimate", "emotion")
    return seconds


def lines(speed: Speed) -> list[str]:
    """The result in words."""
    parts = ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in speed.parts.items())
    rate = 1 / sum(speed.parts.values())
    return [
        f"{speed.images} images, {speed.kilobytes:.1f} kB each; ms of one core an image: {parts}",
        f"{speed.share:.0%} of the sampler's own speed ({rate:.2f} images a second of one core)",
        *rates.lines(speed.rates),
    ]
