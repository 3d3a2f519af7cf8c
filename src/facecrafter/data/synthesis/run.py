"""People who do not exist to a prepared folder: shard after shard, in parallel and resumable."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from facecrafter import weights
from facecrafter.data import shards
from facecrafter.data.prepare.folder import (
    GOES_ON,
    about_estimator,
    begin,
    check_kind,
    is_finished,
    read_list,
    write_index,
    write_shard,
)
from facecrafter.data.prepare.reader import Accepted, Result
from facecrafter.data.prepare.workers import check_workers, readers
from facecrafter.data.shards import FORMAT, MASK_SIZE
from facecrafter.data.synthesis import directions
from facecrafter.data.synthesis import people as person
from facecrafter.data.synthesis.people import Maker, Recipe
from facecrafter.data.synthesis.report import write_report
from facecrafter.errors import ConfigError, DataError
from facecrafter.estimators import emotion_estimator
from facecrafter.interruption import stating
from facecrafter.io import alone

SHARD = 50  # people, about 500 images
INDEX_EVERY = 10  # shards, after the first; until then the newest are not in the index
GENERATOR = ("face_generator_mapping", "face_generator_synthesis")


@dataclass(frozen=True)
class Synthesised:
    """What a folder of :func:`synthesise` holds.

    Attributes:
        folder: the prepared folder.
        people: who were tried, including those an earlier run had made.
        images: in the shards.
        rejected: people who were left out, and edits that kept nobody.
        resumed: how many of ``people`` an earlier run had made.
        seconds: wall-clock time.
    """

    folder: Path
    people: int
    images: int
    rejected: int
    resumed: int
    seconds: float


def synthesise(
    out: Path,
    *,
    file: Path = directions.ASSET,
    people: int = 1000,
    seed: int = 0,
    size: int = 256,
    workers: int = 0,
    progress: bool = True,
    overwrite: bool = False,
) -> Synthesised:
    """Make people who do not exist, each in up to twelve images, as a folder that
    :func:`facecrafter.data.shards.load` reads.

    A run that was stopped goes on with the next shard when it is called again, and one that was finished goes on where
    it is called with more people. A person depends on the seed and on their number alone. What was made can be trained
    on before the run ends: every few shards, and when it is stopped, the index and the report page are written.

    Args:
        out: a new or empty folder, or one that the same command has begun.
        file: of directions; the shipped one if none is named.
        people: how many to try; some are left out, see :mod:`facecrafter.data.synthesis.people`.
        seed: another seed makes other people.
        size: side of the stored images in pixels, 32 to 512.
        workers: processes, each with one thread; 0 for one a core, 1 for none beside this one.
        progress: show a bar on the terminal.
        overwrite: clear what an earlier run has made in ``out``, instead of going on with it.

    Raises:
        DataError: ``out`` is something else or was begun with other settings, or cannot be written.
        ConfigError: a setting out of its range, or another run is going on in ``out``.
        WeightsError: the generator's files, or those of an estimator, are not installed.
        KeyboardInterrupt: after Ctrl-C, with a note that says how many people are done.
    """
    start, out = time.monotonic(), Path(out)
    recipe = Recipe(seed, size)
    _check(recipe, people, workers)
    _check_files(file)
    settings = _settings(recipe, file)
    check_kind(out, "synthesis", "people who do not exist")
    with alone(out, "synthesis"):
        begin(out, settings, overwrite)
        parts = [range(first, min(first + SHARD, people)) for first in range(0, people, SHARD)]
        with stating(lambda: _kept(out, parts)):
            made = _make_all(partial(maker, recipe, file), out, parts, workers, progress)
        images, rejected = _index(out)
    if not images:
        raise DataError(f"not one of {people} people could be kept; {out / shards.REJECTED} says why")
    return Synthesised(out, people, images, rejected, people - made, time.monotonic() - start)


def maker(recipe: Recipe, file: Path = directions.ASSET) -> Maker:
    """A maker with a file's directions, in a process whose memory is set for it."""
    _keep_memory()
    return Maker(recipe, directions.load(file))


def _keep_memory() -> None:
    """Let glibc keep freed memory. It gives large blocks back at once, and to have zeroed pages of them again takes
    more time than the arithmetic of an image."""
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # of malloc.h
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(top_pad, 2**26)


def _make_all(make: Callable[[], Maker], out: Path, parts: list[range], workers: int, progress: bool) -> int:
    """Write every shard that is not there yet; how many people are new."""
    todo = [number for number, part in enumerate(parts) if not _is_done(out, number, part)]
    total, left = sum(map(len, parts)), sum(len(parts[number]) for number in todo)
    count = workers or max(1, min(os.cpu_count() or 1, left // 8))
    made = 0
    with (
        _indexed_when_stopped(out),
        _bar(progress, total, total - left) as advance,
        readers(make, count, chunk=1) if todo else _none() as read,
    ):
        for place, number in enumerate(todo, 1):
            found: list[list[Result]] = []
            for results in read(parts[number]):
                found.append(results)
                advance(results)
            results = list(chain.from_iterable(found))
            more = {
                "people": len(parts[number]),
                "synthesis": [_origin(one) for one in results if isinstance(one, Accepted)],
            }
            write_shard(out, number, results, more)
            made += len(parts[number])
            if place == 1 or place % INDEX_EVERY == 0:
                _index(out)
    return made


def _is_done(out: Path, number: int, part: range) -> bool:
    """Whether a shard holds all of its people; the last one of an earlier run may have had fewer."""
    return is_finished(out, number) and read_list(out, number).get("people", 0) >= len(part)


def _origin(image: Accepted) -> dict[str, Any]:
    """What the list beside a shard says of an image: how it came about, and what the report is drawn from."""
    row = asdict(image.row)
    labels = {name: row[name] for name in ("yaw", "pitch", "emotion", "person")}
    origin: dict[str, Any] = json.loads(image.parts["json"])["synthesis"]
    return {**origin, **labels}


@contextmanager
def _none() -> Iterator[Callable[[range], list[list[Result]]]]:
    """In place of readers, where there is nothing to make."""
    yield lambda items: []


@contextmanager
def _indexed_when_stopped(out: Path) -> Iterator[None]:
    """Let what there is be complete in itself where something ends the work."""
    try:
        yield
    except BaseException:
        if is_finished(out, 0):
            _index(out)
        raise


def _index(out: Path) -> tuple[int, int]:
    """Write the index and the report of the shards that are there; how many images and rejections they have."""
    count = next(number for number in range(10**6) if not is_finished(out, number))
    (out / shards.IMAGES).unlink(missing_ok=True)  # what training unpacked before is no longer all
    counts = write_index(out, count)
    write_report(out, count)
    return counts


def _check(recipe: Recipe, count: int, workers: int) -> None:
    if not 32 <= recipe.size <= 512:
        raise ConfigError(f"size {recipe.size} is outside 32 to 512 pixels")
    if not 1 <= count <= SHARD * 10**5:
        raise ConfigError(f"people {count} is outside 1 to {SHARD * 10**5}")
    if not 0 <= recipe.seed < 2**32:
        raise ConfigError(f"seed {recipe.seed} is outside 0 to {2**32 - 1}")
    check_workers(workers)


def _check_files(file: Path) -> None:
    """Refuse directions or a generator that cannot be read, before a worker comes across them."""
    directions.load(file)
    for name in GENERATOR:
        weights.locate(name)
        weights.locate(f"{name}_graph")


def _settings(recipe: Recipe, file: Path) -> dict[str, Any]:
    """What ``meta.json`` says. Two runs may share a folder only if they agree in all of it."""
    return {
        "format": FORMAT,
        "size": recipe.size,
        "shard_size": SHARD,
        "mask_size": MASK_SIZE,
        "recognisers": {name: {"dimension": 128, "sha256": weights.entry(name).sha256} for name in ("dlib", "sface")},
        "landmarks": {"name": "face_landmarker", "sha256": weights.entry("face_landmarker").sha256},
        "emotion": about_estimator(emotion_estimator.estimator()),
        "synthesis": {
            "seed": recipe.seed,
            "generator": {name: weights.entry(name).sha256 for name in GENERATOR},
            "directions": weights.sha256(file),
            "truncation": list(person.TRUNCATION),
            "least": {
                "age": [person.LEAST_AGE, person.LEAST_AGE_EDITED],
                "sface": person.LEAST_SFACE,
                "dlib": person.LEAST_DLIB,
            },
        },
    }


def _kept(out: Path, parts: list[range]) -> str:
    """How many people the folder has, for a run that was stopped."""
    done = sum(len(numbers) for number, numbers in enumerate(parts) if _is_done(out, number, numbers))
    return f"{done} of {sum(map(len, parts))} people are done and kept in {out}; {GOES_ON}"


@contextmanager
def _bar(show: bool, total: int, done: int) -> Iterator[Callable[[list[Result]], None]]:
    """A progress bar on the terminal; its function counts a person."""
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc="people", unit="person", disable=not show) as bar:
        images = 0

        def advance(results: list[Result]) -> None:
            nonlocal images
            images += sum(isinstance(one, Accepted) for one in results)
            bar.set_postfix(images=images, refresh=False)
            bar.update()

        yield advance
