"""Requests to files: what is there is kept, what is missing is made, and a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from facecrafter.errors import FaceCrafterError
from facecrafter.io import place_for
from facecrafter.pipelines.generate import FaceCrafter
from facecrafter.pipelines.images import check_sheets, is_there, save, write_sheets
from facecrafter.pipelines.moving import seeded
from facecrafter.pipelines.reading import KEPT_FACES
from facecrafter.pipelines.report import best_key, rendered
from facecrafter.request import Progress, Request


@dataclass
class Job:
    """A request, the file where its image belongs, and what became of it.

    Attributes:
        request: what is asked for.
        key: of the image, see :meth:`facecrafter.pipelines.generate.FaceCrafter.key`.
        path: the file.
        done: whether the image is there, whole.
        error: why it could not be made.
    """

    request: Request
    key: str
    path: Path
    done: bool = False
    error: FaceCrafterError | None = None


@dataclass(frozen=True)
class Summary:
    """What a run did: images that it made, that were there already, and that failed.

    Attributes:
        jobs: all of them.
    """

    made: int
    there: int
    failed: int
    jobs: tuple[Job, ...] = field(default=(), compare=False, repr=False)


def make_missing(
    crafter: FaceCrafter, jobs: Sequence[Job], progress: Progress | None = None, best_of: int = 1
) -> Iterator[list[Job]]:
    """Make the images that are not there, in batches, each saved as soon as it is made. Nothing is made where their
    folder cannot be written to.

    Args:
        crafter: the model.
        jobs: of different keys; all have the same settings.
        progress: called with the number of images' worth of work done.
        best_of: of how many images the closest to its request is kept; see
            :func:`facecrafter.pipelines.report.closest`.

    Yields:
        The jobs of each batch. What is wrong with the photos of one is its ``error``; the others go on.

    Raises:
        ConfigError: a setting cannot be used.
        OutputError: an image, or to its folder, cannot be written.
    """
    missing = [job for job in jobs if not job.done]
    with ExitStack() as stack:
        for folder in {job.path.parent: None for job in missing}:
            stack.enter_context(place_for(folder))
        yield from _made(crafter, missing, progress, best_of)


def _made(crafter: FaceCrafter, missing: list[Job], progress: Progress | None, best_of: int) -> Iterator[list[Job]]:
    """The images of jobs; see :func:`make_missing`."""

    @lru_cache(maxsize=KEPT_FACES)
    def read(request: Request) -> Request | FaceCrafterError:
        try:
            return crafter.read(request)
        except FaceCrafterError as error:
            return error

    settings = missing[0].request.settings if missing else None
    batch_size = (settings or crafter.generator.settings).batch_size
    for first in range(0, len(missing), batch_size):
        batch = missing[first : first + batch_size]
        able: list[Job] = []
        requests: list[Request] = []
        for job in batch:
            found = read(replace(job.request, seed=0))
            if isinstance(found, FaceCrafterError):
                job.error = found
            else:
                able.append(job)
                requests.append(replace(found, seed=job.request.seed))
        if progress:
            progress(len(batch) - len(able))
        for index, image in rendered(crafter, requests, best_of, progress):
            job = able[index]
            image.info["facecrafter"] = {**image.info["facecrafter"], "key": job.key}
            save(image, job.path, overwrite=True)
            job.done = True
        yield batch


def make_all(crafter: FaceCrafter, jobs: Sequence[Job], progress: Progress | None = None, best_of: int = 1) -> Summary:
    """The same, where one that cannot be made ends the rest.

    Raises:
        PhotoError, NoFaceError: a photo cannot be read or shows no face.
        ConfigError: a setting cannot be used.
        OutputError: an image cannot be written.
    """
    there = sum(job.done for job in jobs)
    if progress:
        progress(there)
    for batch in make_missing(crafter, jobs, progress, best_of):
        for job in batch:
            if job.error is not None:
                raise job.error
    return Summary(len(jobs) - there, there, 0, tuple(jobs))


def generate_many(
    crafter: FaceCrafter,
    request: Request,
    count: int,
    out: Path,
    overwrite: bool = False,
    progress: Progress | None = None,
    best_of: int = 1,
) -> Summary:
    """Make images of one request with seeds that follow each other, and contact sheets of them all.

    An image is called by its seed. One that is there already, whole and of the same request, is kept, so a run that was
    stopped can be repeated, and a longer one adds what is new.

    Args:
        crafter: the model.
        request: of the first image.
        count: how many images, at least 1.
        out: the folder for them.
        overwrite: make images again that are there, and replace those of other requests.
        progress: called with the number of images' worth of work done.
        best_of: of how many images each is the closest to the request.

    Raises:
        OutputError: the folder holds images of another request, or cannot be written to.
        PhotoError, NoFaceError: a photo cannot be read or shows no face.
        ConfigError: a setting cannot be used.
    """
    requests = [seeded(request, request.seed + number) for number in range(count)]
    jobs = [Job(one, best_key(crafter.key(one), best_of), out / f"{one.seed:05d}.png") for one in requests]
    if not overwrite:
        for job in jobs:
            job.done = is_there(job.path, job.key)
        check_sheets(out, [job.key for job in jobs])
    done = make_all(crafter, jobs, progress, best_of)
    write_sheets(out, [job.path for job in jobs])
    return done
