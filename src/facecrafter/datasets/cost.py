"""What a plan will cost in time and disk, by rates that were measured."""

from __future__ import annotations

import math
from collections.abc import Iterator

from facecrafter.datasets.config import PlanConfig
from facecrafter.errors import ConfigError, counted

# Of the shipped mini model by `facecrafter dataset bench`, in processor time of one core of an AMD EPYC: images a
# second with all labels, three poses to an expression, and bytes an image in its shard.
RATE = 3.4
BYTES = 43_000
WORKERS = (10, 100)  # for which the time is given, beside that of one
SECONDS = {"minute": 60.0, "hour": 3600.0, "day": 86400.0}
SIZES = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}


def check_rate(rate: float | None) -> None:
    """Refuse a rate that no worker can have.

    Raises:
        ConfigError: it is not finite, or not above 0.
    """
    if rate is not None and not 0 < rate < math.inf:  # NaN fails this too
        raise ConfigError(
            f"--rate {rate:g} is no number of images a second; give a finite one above 0, such as {RATE:g}"
        )


def lines(config: PlanConfig, images: int, cells: int, people: int, rate: float | None = None) -> Iterator[str]:
    """The cost, a sentence a line.

    Args:
        config: of the plan.
        images, cells, people: how many.
        rate: images a second of one worker; None for :data:`RATE`, which is that of the mini model.

    Raises:
        ConfigError: see :func:`check_rate`.
    """
    check_rate(rate)
    shards = -(-images // config.shard_size)
    parts = counted(images, "image"), counted(people, "person", "people"), counted(cells, "cell")
    yield f"{parts[0]} of {parts[1]} in {parts[2]}, {counted(shards, 'shard')}"
    if rate is None and (config.model != "mini" or config.bfloat16):
        what = "in bfloat16" if config.model == "mini" else "for this model"
        yield f"how long it takes is not known {what}; measure it with 'dataset bench' and give --rate"
        return
    own = rate or RATE
    where = "the given rate" if rate else "measured with mini on one core; 'dataset bench' measures this machine"
    yield f"1 worker: {_range(config, images / own)} ({own:g} images a second, {where})"
    for workers in WORKERS:
        if workers <= shards:
            # A shard is made by one worker, so the last ones to finish decide.
            longest = min(images, -(-shards // workers) * config.shard_size)
            yield f"{workers} workers: {_range(config, longest / own)}"
    if shards < WORKERS[-1]:
        yield f"no more than {counted(shards, 'worker')} can share it: a shard is made by one"
    if config.model == "mini":
        yield f"disk: about {size(images * BYTES)}"


def _range(config: PlanConfig, seconds: float) -> str:
    """How long it takes where every image is in its cell at once, and where none is."""
    once, most = duration(seconds), duration(seconds * config.attempts)
    return once if once == most else f"{once}, {most} where all are made {config.attempts} times"


def duration(seconds: float) -> str:
    """Seconds in the unit of which there are two or more; three digits."""
    for unit in reversed(SECONDS):
        if seconds >= 2 * SECONDS[unit]:
            return f"{float(f'{seconds / SECONDS[unit]:.3g}'):,g} {unit}s"
    return f"{seconds:.0f} seconds" if seconds >= 2 else "a second or two"


def size(count: float) -> str:
    """Bytes in the largest unit of which there is one or more; three digits."""
    for unit, length in SIZES.items():
        if count >= length:
            return f"{float(f'{count / length:.3g}'):,g} {unit}"
    return f"{count:.0f} bytes"
