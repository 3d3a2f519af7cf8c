"""A control from one end to the other: a strip of images, a grid of two controls, and a loop."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from facecrafter.errors import ConfigError, OutputError, reason_of
from facecrafter.faces.asked import ANGLES, Asked, Pose, check_lids, expression_of, sides_of
from facecrafter.io import exists, write_whole
from facecrafter.pipelines.generate import FaceCrafter
from facecrafter.pipelines.images import (
    KEY_IN_NAME,
    STATEMENT,
    WAY_OUT,
    contact_sheet,
    is_there,
    load_saved,
    save,
    shown_keys,
)
from facecrafter.pipelines.missing import Job, Summary, make_all
from facecrafter.pipelines.report import best_key
from facecrafter.request import Progress, Request

STRIP, LOOP = "sweep.png", "sweep.gif"
MOST = 64  # images
DIGITS = 4  # of a sweep's numbers behind the point
MILLISECONDS = 120  # an image of the loop is shown


@dataclass(frozen=True)
class Sweep:
    """A control and the numbers that it takes one after another."""

    name: str
    values: tuple[float, ...]


def sweep_of(text: str, relative: bool = False) -> Sweep:
    """A sweep from ``NAME=FIRST:LAST:COUNT``, say ``yaw=-30:30:7``.

    Args:
        text: the sweep.
        relative: its numbers are added to the photo's own, so that a blendshape goes down to -1.

    Raises:
        ConfigError: it is none, or the control is unknown.
    """
    name, _, numbers = (part.strip() for part in text.partition("="))
    try:
        if not name:
            raise ValueError
        first, last, count = numbers.split(":")
        ends, steps = (float(first), float(last)), int(count)
    except ValueError:
        raise ConfigError(f"'{text}' is no NAME=FIRST:LAST:COUNT, as in yaw=-30:30:7") from None
    if not 2 <= steps <= MOST:
        raise ConfigError(f"a sweep has from 2 to {MOST} images, not {steps}")
    for end in ends:  # an error before anything is loaded
        with_number(Asked(start="relative" if relative else "neutral"), name, end)
    values = tuple(round(float(value), DIGITS) + 0.0 for value in np.linspace(*ends, steps))
    if len(set(values)) < steps:
        raise ConfigError(f"'{text}' has the same number twice, to {DIGITS} digits; give ends that are further apart")
    return Sweep(name, values)


def controls_of(name: str) -> tuple[str, ...]:
    """What a sweep changes: an angle, or one or both sides of a blendshape."""
    return (name,) if name in ANGLES else sides_of(name, ANGLES)


def check_unswept(sweeps: Sequence[Sweep], given: Iterable[str]) -> None:
    """Make sure that no control is swept and also given a number, which would have no effect.

    Args:
        sweeps: the sweeps.
        given: names of angles, and full names of blendshapes.

    Raises:
        ConfigError: one is.
    """
    both = {name for sweep in sweeps for name in controls_of(sweep.name)}.intersection(given)
    if both:
        raise ConfigError(f"{min(both)} is swept and also given a number; leave one out")


def with_number(asked: Asked, name: str, value: float) -> Asked:
    """The same with one control at another number.

    Raises:
        ConfigError: an unknown control, or a number out of its range.
    """
    if name in ANGLES:
        return replace(asked, pose=replace(asked.pose or Pose(), **{name: value}))
    sides_of(name, ANGLES)
    changed = expression_of({name: value}, -1.0 if asked.start == "relative" else 0.0)
    return replace(asked, expression=dict(sorted({**asked.expression, **changed}.items())))


def cells(asked: Asked | None, sweeps: Sequence[Sweep]) -> list[tuple[str, Asked]]:
    """What is asked of each image and its name: the last sweep runs from left to right, one before it downwards.

    Raises:
        ConfigError: not one or two sweeps, of one control twice, of too many images, or an eye shut and wide open.
    """
    swept = [name for one in sweeps for name in controls_of(one.name)]
    if not 1 <= len(sweeps) <= 2 or len(set(swept)) < len(swept):
        raise ConfigError("a strip is one --sweep, and a grid two of different controls")
    found = []
    for values in product(*(one.values for one in sweeps)):
        numbers = [(sweep.name, value) for sweep, value in zip(sweeps, values, strict=True)]
        own = asked or Asked()
        for name, value in numbers:
            own = with_number(own, name, value)
        check_lids(own.expression)
        found.append(("_".join(f"{name}{value:g}" for name, value in numbers), own))
    if len(found) > MOST:
        raise ConfigError(f"a grid has at most {MOST} images, not {len(found)}")
    return found


def generate_sweep(
    crafter: FaceCrafter,
    requests: Sequence[tuple[str, Request]],
    columns: int,
    out: Path,
    loop: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    best_of: int = 1,
) -> Summary:
    """Make the images of a sweep, and a strip or grid of them; what is there is kept. A folder holds one sweep.

    Args:
        crafter: the model.
        requests: with the images' names; see :func:`cells`.
        columns: of the grid.
        out: the folder.
        loop: write a GIF too that goes there and back.
        overwrite: make images again that are there.
        progress: called with the number of images' worth of work done.
        best_of: of how many images each is the closest to its request.

    Raises:
        OutputError: the folder cannot be written to, or holds the strip or loop of another sweep, or another program's
            file of that name.
        PhotoError, NoFaceError: a photo cannot be read or shows no face.
        ConfigError: a setting cannot be used.
    """
    jobs = []
    for name, request in requests:
        key = best_key(crafter.key(request), best_of)
        jobs.append(Job(request, key, out / f"{name}_{key[:KEY_IN_NAME]}.png"))
    strip = out / STRIP
    if not overwrite:
        _check_strip(strip, [job.key for job in jobs])
        if loop:
            _check_loop(out / LOOP, [job.key for job in jobs])
        for job in jobs:
            job.done = is_there(job.path, job.key)
    done = make_all(crafter, jobs, progress, best_of)
    images = [load_saved(job.path) for job in jobs]
    save(contact_sheet(images, columns=columns), strip, overwrite=True)
    if loop:
        write_whole(out / LOOP, loop_of(images))
    return done


def _check_strip(path: Path, keys: Sequence[str]) -> None:
    """Make sure that a strip can be written.

    Raises:
        OutputError: there is one of other images, or a file that is no strip.
    """
    before = shown_keys(path)
    if before is not None and before != list(keys):
        raise OutputError(f"{path} shows another sweep; {WAY_OUT}")


def _check_loop(path: Path, keys: Sequence[str]) -> None:
    """The same of a loop. One that an earlier version wrote does not say what it shows.

    Raises:
        OutputError: see :func:`_check_strip`.
    """
    if not exists(path):
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OutputError(f"{path} cannot be read ({reason_of(error)}); {WAY_OUT}") from None
    if content and _statement(keys) not in content:
        raise OutputError(f"{path} exists already and is no loop of this sweep; {WAY_OUT}")


def _statement(keys: Sequence[str]) -> bytes:
    """What a loop says of itself: that it is generated, and of which images it is."""
    return f"{STATEMENT} {hashlib.sha256(' '.join(keys).encode()).hexdigest()[:16]}".encode()


def loop_of(images: Sequence[Image.Image]) -> bytes:
    """A GIF that goes there and back. It says that it is generated; its 256 colours need not keep the watermark."""
    frames, content = [*images, *images[-2:0:-1]], io.BytesIO()
    options = {"save_all": True, "append_images": frames[1:], "duration": MILLISECONDS, "loop": 0}
    comment = _statement([str(image.info["facecrafter"].get("key")) for image in images])
    frames[0].save(content, "GIF", comment=comment, **options)
    return content.getvalue()
