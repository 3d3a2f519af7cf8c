"""Ray Data in place of actors of our own: the same makers and bytes, to compare what they cost in `dataset bench`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from facecrafter.data.prepare.reader import Result
from facecrafter.datasets.engines import AHEAD, THREADS, Actor, Make, connected
from facecrafter.datasets.maker import Job
from facecrafter.errors import DataError
from facecrafter.interruption import ignored

STARTING = 600  # seconds that workers may take to load what they need


class _Row:
    """A maker as Ray Data calls it: a row with a job to a row with what came of it."""

    def __init__(self, make: Make) -> None:
        self._actor = Actor(make)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"number": row["job"].number, "results": self._actor.read(row["job"])}


def made(jobs: Sequence[Job], make: Make, workers: int, address: str) -> Iterator[tuple[int, list[Result]]]:
    """Shards by their numbers as they are done, in whatever order. The first one begins when every worker has started.

    Args:
        jobs: what to make.
        make: makes a worker's maker.
        workers: how many, each with one processor.
        address: of the cluster, as for :func:`facecrafter.datasets.engines.engine`.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
        DataError: a worker reported what is missing.
    """
    ray = connected(address)
    from ray.data import ActorPoolStrategy, DataContext, from_items

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars, context.wait_for_min_actors_s = False, STARTING
    try:
        rows = from_items([{"job": job} for job in jobs], override_num_blocks=len(jobs))
        pool = ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=AHEAD)
        environment: dict[str, Any] = {"env_vars": THREADS}
        worker: Any = _Row
        done = rows.map(worker, fn_constructor_args=(make,), compute=pool, num_cpus=1, runtime_env=environment)
        for row in done.iter_rows():
            if isinstance(row["results"], str):
                raise DataError(row["results"])
            yield row["number"], row["results"]
    finally:
        with ignored():
            ray.shutdown()
