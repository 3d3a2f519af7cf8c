"""What a plan will cost in time and disk, by rates that were measured."""

from __future__ import annotations

from collections.abc import Iterator

from facecrafter.datasets.config import PlanConfig

# Of the shipped mini model by `facecrafter dataset bench`, in processor time of one core of an AMD EPYC: images a
# second with all labels, three poses to an expression, and bytes an image in its shard.
RATE = 2.5
BYTES = 43_000
HOUR, DAY = 3600.0, 86400.0
GIBIBYTE = 2**30


def lines(config: PlanConfig, images: int, cells: int, people: int, rate: float | None = None) -> Iterator[str]:
    """The cost, a sentence a line.

    Args:
        config: of the plan.
        images, cells, people: how many.
        rate: images a second of one worker; None for :data:`RATE`, which is that of the mini model.
    """
    yield f"{images:,} images of {people:,} people in {cells:,} cells, {-(-images // config.shard_size):,} shards"
    if rate is None and config.model != "mini":
        yield "how long it takes is not known for this model; measure it with 'dataset bench' and give --rate"
        return
    own = rate or RATE
    once, most = images / own, images * config.attempts / own
    again = f", {duration(most)} where all are made {config.attempts} times" if config.attempts > 1 else ""
    where = "the given rate" if rate else "measured with mini on one core; 'dataset bench' measures this machine"
    yield f"time: {duration(once)} of one worker{again} ({own:g} images a second, {where})"
    for workers in (10, 100):
        yield f"  {workers} workers: {duration(once / workers)} to {duration(most / workers)}"
    if config.model == "mini":
        yield f"disk: {images * BYTES / GIBIBYTE:.3g} GiB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, name in ((DAY, "days"), (HOUR, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.0f} seconds"
