"""A plan to a data set: shards made in parallel, resumable, the same bytes however many workers there are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from facecrafter.data.prepare.reader import Accepted, Result
from facecrafter.data.prepare.workers import check_workers
from facecrafter.data.shards import IMAGES, INDEX, shard_path
from facecrafter.datasets import engines
from facecrafter.datasets.basis import Basis
from facecrafter.datasets.maker import Job, Maker, Recipe, open_crafter
from facecrafter.datasets.output import (
    Counts,
    check_place,
    is_done,
    open_folder,
    read_list,
    settings_of,
    write,
    write_index,
)
from facecrafter.datasets.plan import Plan
from facecrafter.errors import ConfigError, DataError
from facecrafter.faces.rig import load
from facecrafter.interruption import stating
from facecrafter.io import alone

Engine = Callable[[], AbstractContextManager[engines.Submit]]

MANY = 100  # shards, whose check shows a bar
GOES_ON = "run the same command again, it goes on from there"


@dataclass(frozen=True)
class Made:
    """What a run of :func:`make` left.

    Attributes:
        folder: the data set.
        planned: images of the plan.
        counts: what the folder has.
        new: images that this run made, and those that missed their cell.
        empty: cells that were asked for and hold no image, by their names.
        damaged: shards that were there with another content than was written, and were made again.
        seconds: wall-clock time.
    """

    folder: Path
    planned: int
    counts: Counts
    new: int
    empty: list[str]
    damaged: list[str]
    seconds: float


def make(
    path: Path,
    out: Path,
    *,
    workers: int = 0,
    ray: str | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: bool = True,
) -> Made:
    """Make what a plan asks for.

    A run that was stopped in whatever way goes on with the shards that are not there, or damaged, when it is called
    again. The bytes depend on the plan, the model and the kind of processor, not on the number of workers or on Ray. A
    script calls it under ``if __name__ == "__main__":``, as workers are spawned.

    Args:
        path: the plan.
        out: a new or empty folder, or one that the same plan has begun.
        workers: processes, or actors of Ray; 0 for one a core.
        ray: the address of a Ray cluster; see :func:`facecrafter.datasets.engines.engine`.
        device: of the model.
        overwrite: clear what an earlier run has made in ``out``.
        progress: show a bar on the terminal.

    Raises:
        DataError: the plan is damaged, the folder was begun with another plan or on another basis, or not one image is
            in its cell; or the disk is full.
        ConfigError: a setting out of its range, no Ray, or another run is going on in ``out``.
        KeyboardInterrupt: after Ctrl-C, with a note that says how many images are done.
    """
    check_workers(workers)
    plan = Plan(path)
    crafter = open_crafter(plan.config, device)
    size, basis = crafter.generator.size, Basis.of(crafter)
    check_plan(plan, crafter.model.scale.embedding)
    del crafter  # workers have their own
    maker = partial(Maker, Recipe(plan.config, tuple(plan.cells), device, basis))
    count = workers or (engines.processors(ray) if ray else os.cpu_count() or 1)
    count = max(1, min(count, plan.shards))
    engine = partial(engines.engine, maker, count, ray)
    return run(plan, out, engine, count, settings_of(plan, size, basis), overwrite, progress)


def check_plan(plan: Plan, width: int) -> None:
    """Refuse a plan that was not written for what is here.

    Raises:
        ConfigError: its ids follow from another rig, or its embeddings have another number of values than the model
            reads.
    """
    if plan.rig != load().digest:
        raise ConfigError(f"{plan.path} was written with another rig; write it again with: facecrafter dataset plan")
    own = len(plan.persons([0])[0].embedding)
    if own != width:
        raise ConfigError(f"the model {plan.config.model} reads embeddings of {width} numbers, and the plan has {own}")


def run(
    plan: Plan,
    out: Path,
    engine: Engine,
    workers: int,
    settings: dict[str, object],
    overwrite: bool = False,
    progress: bool = True,
) -> Made:
    """Make a plan's shards by whatever takes them; see :func:`make`.

    Args:
        engine: gives what takes shards, where there are any to make.
        workers: how many it has.
        settings: of the folder.
    """
    start = time.monotonic()
    check_place(out)
    with alone(out, "data set"):
        open_folder(out, settings, overwrite)
        todo, damaged = _to_make(out, plan, progress)
        left = set(todo)
        if todo:  # what was gathered before is no longer all
            for name in (INDEX, IMAGES):
                (out / name).unlink(missing_ok=True)
        with stating(lambda: _kept(out, plan, left)):
            new = _make_all(plan, out, left, engine, workers, progress) if todo else 0
            counts = write_index(out, plan.shards)
    if not counts.images:
        first = read_list(out, 0)["rejected"][0]["reason"]
        raise DataError(
            f"not one of {plan.images} images is in its cell (the first: {first}); widen accept in the plan"
        )
    empty = [cell.name for number, cell in enumerate(plan.cells) if plan.counts[number] and not counts.cells[number]]
    return Made(out, plan.images, counts, new, empty, damaged, time.monotonic() - start)


def _to_make(out: Path, plan: Plan, progress: bool) -> tuple[list[int], list[str]]:
    """The shards that are not there as they were written, and the names of those of them that are there."""
    from tqdm import tqdm

    there = [number for number in range(plan.shards) if shard_path(out, number).exists()]
    bar = tqdm(there, desc="checking shards", unit="shard", disable=not progress or len(there) < MANY)
    done = {number for number in bar if is_done(out, number)}
    damaged = [shard_path(out, number).name for number in there if number not in done]
    return [number for number in range(plan.shards) if number not in done], damaged


def _make_all(plan: Plan, out: Path, left: set[int], engine: Engine, workers: int, progress: bool) -> int:
    """Write every shard that is left, which it then no longer is; how many images, made or given up, are new."""
    new, total = 0, plan.images
    with _bar(progress, total, total - _images(plan, left)) as advance, engine() as submit:
        for job, results in engines.made(_jobs(plan, sorted(left)), submit, workers):
            write(out, job.number, results)
            left.discard(job.number)
            new += len(results)
            advance(results)
    return new


def _jobs(plan: Plan, todo: list[int]) -> Iterator[Job]:
    """The shards to make, read from the plan when their turn comes."""
    for number in todo:
        rows = plan.rows(number)
        yield Job(number, tuple(rows), plan.persons([row.person for row in rows]))


def _images(plan: Plan, numbers: Iterable[int]) -> int:
    """How many images some shards have in the plan."""
    size = plan.config.shard_size
    return sum(min(size, plan.images - number * size) for number in numbers)


def _kept(out: Path, plan: Plan, left: set[int]) -> str:
    """How many images the folder has, for a run that was stopped."""
    done = plan.images - _images(plan, left)
    return f"{done} of {plan.images} images are done and kept in {out}; {GOES_ON}"


@contextmanager
def _bar(show: bool, total: int, done: int) -> Iterator[Callable[[list[Result]], None]]:
    """A progress bar on the terminal; its function counts a shard."""
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc="images", unit="image", disable=not show) as bar:
        left_out = 0

        def advance(results: list[Result]) -> None:
            nonlocal left_out
            left_out += sum(not isinstance(one, Accepted) for one in results)
            if left_out:
                bar.set_postfix({"missed": left_out}, refresh=False)
            bar.update(len(results))

        yield advance
