"""Photos and videos to a prepared folder: find, align, estimate, and write shards, in parallel and resumable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import get_args

from facecrafter.data import shards, video
from facecrafter.data.prepare.folder import (
    begin,
    clear_begun,
    is_finished,
    kept,
    kept_when_stopped,
    read_begun,
    settings_of,
    write_index,
    write_shard,
)
from facecrafter.data.prepare.reader import Job, Reader, Rejected, Result, crashed
from facecrafter.data.prepare.source import Photo, check_folders, count_images, photos_of
from facecrafter.data.prepare.workers import check_workers, memory_errors_named, readers
from facecrafter.data.shards import REJECTED
from facecrafter.errors import ConfigError, DataError
from facecrafter.faces.face import Choice
from facecrafter.interruption import stating
from facecrafter.io import alone


@dataclass(frozen=True)
class Report:
    """What a run of :func:`prepare` did.

    Attributes:
        folder: the prepared folder.
        photos: photos and video frames found in the source: those prepared and those rejected.
        prepared: photos and frames in the shards.
        rejected: photos, frames and damaged videos listed in ``rejected.csv``.
        resumed: how many of ``photos`` an earlier run had finished.
        seconds: wall-clock time.
    """

    folder: Path
    photos: int
    prepared: int
    rejected: int
    resumed: int
    seconds: float


def prepare(
    source: Path,
    out: Path,
    *,
    size: int = 128,
    workers: int = 0,
    recognisers: Sequence[str] = ("dlib",),
    arcface: Path | None = None,
    choose: Choice = "centre",
    shard_size: int = 512,
    progress: bool = True,
    overwrite: bool = False,
    interval: float = 1.0,
    emonet: Path | None = None,
) -> Report:
    """Turn photos, and frames of videos, into a prepared folder, which :func:`facecrafter.data.shards.load` reads.

    A run that was stopped goes on where it stopped when it is called again: after Ctrl-C, SIGTERM or an error with the
    file it was at, after a kill with the shard. The bytes written depend on the photos and the
    settings alone, not on the number of workers. A script calls it under ``if __name__ == "__main__":``, as workers are
    spawned.

    Args:
        source: a folder of people (``Name/photo.jpg``), of loose photos (each its own person), or a tar or zip of one,
            with videos in place of photos or among them.
            A photo's person is the name of the folder it lies in; whose videos are whose decides
            :func:`facecrafter.data.video.source`, which knows MEAD's folders.
        out: a new or empty folder, or one that the same command has begun.
        size: side of the stored images in pixels, 32 to 1024.
        workers: processes, each with one thread; 0 for one a core, 1 for none beside this one.
        recognisers: whose embeddings to store: ``sface``, ``dlib``, ``arcface``.
        arcface: the path of ``arcface.onnx``, if that recogniser is asked for.
        choose: which of several faces is meant.
        shard_size: images a shard. A video is never divided between two.
        progress: show a bar on the terminal.
        overwrite: clear what an earlier run has prepared in ``out``, instead of going on with it.
        interval: seconds from one frame of a video to the next that is taken.
        emonet: EmoNet's file, to read emotions with it in place of the project's own estimator.

    Raises:
        DataError: no photos, not one face, ``out`` is something else or was begun with other settings, or cannot be
            written (a full disk); or memory, open files or the like ran out.
        ConfigError: a setting out of its range, or another preparation is going on in ``out``.
        WeightsError: a recogniser that is unknown or whose weights are missing.
        KeyboardInterrupt: after Ctrl-C, with a note that says how many files are done.
    """
    start, source, out = time.monotonic(), Path(source), Path(out)
    job = Job(size, choose, tuple(dict.fromkeys(recognisers)), arcface, interval, emonet)
    _check(job, workers, shard_size)
    check_folders(source, out)
    with alone(out, "preparation"), memory_errors_named(), photos_of(source, out, interval) as photos:
        begin(out, settings_of(job, shard_size, photos), overwrite)
        parts = _parts(photos, shard_size)
        with stating(lambda: kept(out, parts)):
            made = _prepare_all(job, out, parts, workers, progress)
            prepared, rejected = write_index(out, len(parts))
        clear_begun(out)
    if not prepared:
        raise DataError(f"not one of the {rejected} files in {source} gave a face; {out / REJECTED} says why")
    total = prepared + rejected
    return Report(out, total, prepared, rejected, total - made, time.monotonic() - start)


def _prepare_all(job: Job, out: Path, parts: list[list[Photo]], workers: int, progress: bool) -> int:
    """Write every shard that is not there yet; how many images and rejections are new."""
    todo = [number for number in range(len(parts)) if not is_finished(out, number)]
    begun = {number: read_begun(out, number, parts[number]) for number in todo}
    left = {number: parts[number][len(begun[number]) :] for number in todo}
    images, open_images = sum(map(count_images, parts)), sum(map(count_images, left.values()))
    if todo:  # what training unpacked before is no longer all
        (out / shards.IMAGES).unlink(missing_ok=True)
    # A worker takes seconds to start, so a few photos do not pay for one.
    count = workers or max(1, min(os.cpu_count() or 1, open_images // 32))
    made = 0
    with (
        _bar(progress, images, images - open_images) as advance,
        readers(partial(Reader, job), count if open_images else 1, crashed=crashed) as read,
    ):
        for number in todo:
            found = begun.pop(number)
            with kept_when_stopped(out, number, found):
                for photo, results in zip(left[number], read(left[number]), strict=True):
                    found.append(advance(photo, results))
                    made += len(results)
                write_shard(out, number, list(chain.from_iterable(found)))
    return made


def _check(job: Job, workers: int, shard_size: int) -> None:
    if not 32 <= job.size <= 1024:
        raise ConfigError(f"size {job.size} is outside 32 to 1024 pixels")
    check_workers(workers)
    if shard_size < 1:
        raise ConfigError(f"shard_size {shard_size} must be at least 1 photo")
    if job.choose not in get_args(Choice):
        raise ConfigError(f"choose '{job.choose}' is not one of {', '.join(get_args(Choice))}")
    if not job.recognisers:
        raise ConfigError("recognisers is empty; name at least one, such as sface")
    video.check_interval(job.interval)


def _parts(photos: list[Photo], shard_size: int) -> list[list[Photo]]:
    """The files of each shard, in order: as many as promise ``shard_size`` images, and always one."""
    parts: list[list[Photo]] = []
    room = 0
    for photo in photos:
        if not parts or photo.images > room:
            parts.append([])
            room = shard_size
        parts[-1].append(photo)
        room -= photo.images
    return parts


@contextmanager
def _bar(show: bool, total: int, done: int) -> Iterator[Callable[[Photo, list[Result]], list[Result]]]:
    """A progress bar on the terminal; its function counts what came of a file and hands it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("preparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("preparing", total=total, completed=done, note="")
        rejected = 0

        def advance(photo: Photo, results: list[Result]) -> list[Result]:
            nonlocal rejected
            rejected += sum(isinstance(result, Rejected) for result in results)
            bar.update(task, advance=photo.images, note=f"{rejected} rejected" if rejected else "")
            return results

        yield advance
