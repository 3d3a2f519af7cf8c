"""Prepared photos with other expressions and poses, by moving their pixels: a second prepared folder.

Photos of the press hardly show most of MediaPipe's blendshapes, and few heads are turned far. A photo whose pixels are
moved as the rig moves its landmarks shows both, of the same person, with the light and skin of a photo.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter import weights
from facecrafter.data import shards
from facecrafter.data.prepare.folder import (
    GOES_ON,
    about_estimator,
    begin,
    check_kind,
    is_finished,
    write_index,
    write_shard,
)
from facecrafter.data.prepare.reader import Rejected, Result, accepted
from facecrafter.data.prepare.stopping import check_leaving
from facecrafter.data.prepare.workers import check_workers, memory_errors_named, readers
from facecrafter.data.shards import FORMAT, MASK_SIZE
from facecrafter.errors import ConfigError, DataError
from facecrafter.estimators import emotion_estimator
from facecrafter.estimators.blendshapes import network
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.asked import SIDES, live, sides_of
from facecrafter.faces.face import ALIGNED_SIZE, BLENDSHAPES, LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS, Face, picked
from facecrafter.faces.rig import Rig, load
from facecrafter.faces.warp import TORN, moved_points, warped
from facecrafter.interruption import stating
from facecrafter.io import alone
from facecrafter.provenance import code

Sample = tuple[int, str, str, Mapping[str, bytes]]  # number of the copy, the shard's path, key, content by suffix
CODE = ("data/warping.py", "faces/warp.py")  # another version of which makes other images

TURNED = 0.4  # share of the images whose heads are turned; the others keep their pose
# Degrees: how far a turned head may look, and by how much it is turned at most. More leaves hair and ears behind.
YAW, PITCH, MOST_YAW, MOST_PITCH = 40.0, 20.0, 15.0, 12.0
OUTWARD = 0.75  # share of the turned heads that are turned further to the side where they look already
CONTROLS = (1, 3)  # how many are set at once
VALUES = (0.25, 0.9)  # what a control is set to, evenly
ONE_SIDED = 0.25  # share of the controls with two sides of which one is set
SIDEWAYS = 0.7  # share of the gazes to the nose, or away from it, that both eyes follow to one side
SMILING = 0.5  # share of the images from which a part of the smile is taken away, so that the rest shows
OPPOSITE = {
    "eyeBlink": "eyeWide",
    "eyeLookDown": "eyeLookUp",
    "eyeLookIn": "eyeLookOut",
    "jawLeft": "jawRight",
    "mouthLeft": "mouthRight",
}
OPPOSITE |= {other: one for one, other in OPPOSITE.items()}
# How much of an image whose head is turned may be torn, its far side being hidden, and how much of that may be shown
# (see :class:`facecrafter.faces.warp.Warped`); and how far MediaPipe's points may be from those the pixels were moved
# to, as a mean in distances of the outer corners of the eyes, where the pose is kept and where it is not.
TORN_TURNED, SHOWN_TURNED, APART, APART_TURNED = 0.012, 0.005, 0.05, 0.25
TRIES = 3  # draws for an image
MOST_COPIES = 20
LOST = "it would be torn, or no face is found where it should be"


@dataclass(frozen=True)
class Recipe:
    """What everything in a folder is made with.

    Attributes:
        seed: another one draws other expressions.
        copies: images of each photo.
    """

    seed: int = 0
    copies: int = 1


@dataclass(frozen=True)
class Report:
    """What a folder of :func:`warp` holds.

    Attributes:
        folder: the prepared folder.
        images: in the shards.
        rejected: images that could not be made, see :data:`LOST`.
        seconds: wall-clock time.
    """

    folder: Path
    images: int
    rejected: int
    seconds: float


@dataclass(frozen=True)
class Drawn:
    """What is drawn for an image.

    Attributes:
        scores: ``(52,)`` that the face is to have.
        yaw, pitch: degrees that the head is turned by; 0 where it keeps its pose.
    """

    scores: NDArray[np.float64]
    yaw: float
    pitch: float


def warp(
    source: Path,
    out: Path,
    *,
    seed: int = 0,
    copies: int = 1,
    workers: int = 0,
    progress: bool = True,
    overwrite: bool = False,
) -> Report:
    """Make a prepared folder of another one's photos, with other expressions and poses.

    Held-out people are left out. A run that was stopped goes on with the next shard when it is called again; an image
    depends on the photo, the seed and its number alone.

    Args:
        source: what :func:`facecrafter.data.prepare.run.prepare` finished.
        out: a new or empty folder, or one that the same command has begun.
        seed: another seed draws other expressions.
        copies: images of each photo, 1 to :data:`MOST_COPIES`.
        workers: processes, each with one thread; 0 for one a core, 1 for none beside this one.
        progress: show a bar on the terminal.
        overwrite: clear what an earlier run has made in ``out``, instead of going on with it.

    Raises:
        DataError: ``source`` is no finished folder of photos, ``out`` is something else or was begun with other
            settings, or cannot be written; or not one image could be made.
        ConfigError: a setting out of its range, or another run is going on in ``out``.
        WeightsError: an estimator's file is missing.
        KeyboardInterrupt: after Ctrl-C, with a note that says how many shards are done.
    """
    start, source, out = time.monotonic(), Path(source), Path(out)
    recipe = Recipe(seed, copies)
    _check(recipe, workers)
    meta, index = shards.read_meta(source), shards.read_index(source)
    if {"warped", "synthesis", "dataset"} & meta.keys():
        raise DataError(f"{source} is not of photos as they were taken; name a folder of 'data prepare'")
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} is where the photos are; name another folder for the images")
    check_kind(out, "warped", "moved photos")
    ours = ~shards.held_out(index["person"])
    photos = np.bincount(np.array(index["shard"])[ours], minlength=max(index["shard"]) + 1).tolist() * copies
    with alone(out, "moving of photos"):
        begin(out, _settings(meta, index, recipe), overwrite)
        with stating(lambda: _kept(out, len(photos))), memory_errors_named():
            _make_all(recipe, source, out, photos, workers, progress)
        images, rejected = write_index(out, len(photos))
    if not images:
        raise DataError(f"not one image could be made from {source}; {out / shards.REJECTED} says why")
    return Report(out, images, rejected, time.monotonic() - start)


class Warper:
    """Makes one image after another.

    Args:
        recipe: what all images are made with.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.rig = recipe, load()
        self._finder, self._estimator = FaceFinder(), emotion_estimator.estimator()

    def close(self) -> None:
        """Free the landmark network."""
        self._finder.close()

    def read(self, item: Sample) -> list[Result]:
        """The image of a sample, or that it could not be made.

        Raises:
            DataError: the sample is damaged.
        """
        check_leaving()
        number, place, key, parts = item
        try:
            photo, about = shards.decode(parts), json.loads(parts["json"])
            with np.load(io.BytesIO(parts["npz"])) as arrays:
                embeddings = shards.identities(arrays)
            person, file = str(about["person"]), str(about["file"])
            _check_face(photo)
        except shards.DAMAGE:
            raise _damaged(Path(place)) from None
        digest = hashlib.sha256(f"{self.recipe.seed}\0{file}\0{number}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        for _ in range(TRIES):
            stored = self._moved(photo, draw(photo, self.rig, random))
            if stored is not None:
                face, more = stored.resized(ALIGNED_SIZE), {"warped": file}
                emotion = self._estimator.estimate([face])[0]
                name = f"{file}#{number}"
                return [accepted(f"{key}-{number}", person, name, face, stored, embeddings, emotion, more)]
        return [Rejected(f"{file}#{number}", LOST)]

    def _moved(self, photo: Face, drawn: Drawn) -> Face | None:
        """The photo as it was drawn; None where it is torn, or its face is not found again.

        Where the head keeps its pose the landmarks are those that the pixels were moved to. A head that is turned is
        less so than its landmarks, since hair and ears stay: MediaPipe reads it.
        """
        size, turned, read = len(photo.image), bool(drawn.yaw or drawn.pitch), network().scores
        wanted = moved_points(
            photo.points, photo.blendshapes, drawn.scores, size, self.rig, read, drawn.yaw, drawn.pitch
        )
        made = warped(photo.image, photo.points, wanted)
        if made.torn > (TORN_TURNED if turned else TORN) or (turned and made.shown > SHOWN_TURNED):
            return None
        found = self._finder.find_all(made.image)
        if not found:
            return None
        nearest = found[picked(found, "centre", made.image)]
        corners = [RIGHT_EYE_CORNERS[0], LEFT_EYE_CORNERS[0]]
        unit = float(np.linalg.norm(np.subtract(*wanted[corners, :2])))
        apart = np.linalg.norm((nearest.points - wanted)[:, :2], axis=1).mean()
        if apart > (APART_TURNED if turned else APART) * unit:
            return None
        points = nearest.points if turned else wanted
        scores = nearest.blendshapes if turned else np.asarray(read(points[None])[0], np.float32)
        return Face(made.image, points, scores, nearest.pose, photo.box, photo.others)


def _check_face(photo: Face) -> None:
    """Refuse what no face can be.

    Raises:
        ValueError: an array has another shape, or numbers that are not finite.
    """
    side = len(photo.image)
    arrays: list[tuple[NDArray[Any], tuple[int, ...]]] = [
        (photo.image, (side, side, 3)),
        (photo.points, (478, 3)),
        (photo.blendshapes, (52,)),
        (photo.pose, (4, 4)),
    ]
    if any(array.shape != shape or not np.isfinite(array).all() for array, shape in arrays):
        raise ValueError("no face")
    if abs(float(np.linalg.det(photo.pose[:3, :3]))) < 1e-6:
        raise ValueError("no pose")


def draw(photo: Face, rig: Rig, random: np.random.Generator) -> Drawn:
    """An expression and a turn for a photo, at random."""
    scores, yaw, pitch = np.array(photo.blendshapes, np.float64), 0.0, 0.0
    if random.random() < SMILING:
        scores[_numbers(sides_of("mouthSmile"))] *= random.random()
    for name in random.choice(live(rig), random.integers(CONTROLS[0], CONTROLS[1] + 1), replace=False).tolist():
        sides = _sides(name, random)
        scores[_numbers(sides)] = random.uniform(*VALUES)
        scores[_numbers([one for side in sides for one in _opposite(side)])] = 0
    if random.random() < TURNED:
        outward = random.random() < OUTWARD
        yaw, pitch = (
            _turn(now, most, step, outward, random)
            for now, most, step in zip(photo.angles, (YAW, PITCH), (MOST_YAW, MOST_PITCH), strict=False)
        )
    return Drawn(scores.clip(0, 1), yaw, pitch)


def _sides(name: str, random: np.random.Generator) -> list[str]:
    """Which blendshapes a control sets: both sides or one, and of a gaze mostly those by which both eyes look to the
    same side."""
    sides = list(sides_of(name))
    if name in ("eyeLookIn", "eyeLookOut") and random.random() < SIDEWAYS:
        one, other = random.permutation(SIDES).tolist()
        return [f"eyeLookIn{one}", f"eyeLookOut{other}"]
    if len(sides) > 1 and random.random() < ONE_SIDED:
        del sides[random.integers(2)]
    return sides


def _opposite(name: str) -> list[str]:
    """The blendshape that does the opposite of one, where there is one."""
    side = next((side for side in SIDES if name not in OPPOSITE and name.endswith(side)), "")
    other = OPPOSITE.get(name.removesuffix(side))
    return [other + side] if other else []


def _numbers(names: Sequence[str]) -> list[int]:
    return [BLENDSHAPES.index(name) for name in names]


def _turn(now: float, most: float, step: float, outward: bool, random: np.random.Generator) -> float:
    """By how many degrees a head that looks ``now`` that far is turned: at most a ``step``, and to no more than
    ``most``. One that looks further already stays."""
    if abs(now) >= most:
        return 0.0
    if outward:
        return float(np.copysign(random.uniform(0, min(step, most - abs(now))), now))
    return float(random.uniform(max(-step, -most - now), min(step, most - now)))


def _make_all(recipe: Recipe, source: Path, out: Path, photos: list[int], workers: int, progress: bool) -> None:
    """Write every shard that is not there yet: for each copy one for each of the source's.

    Args:
        recipe: what all images are made with.
        source, out: the folders.
        photos: how many images each shard is tried for.
        workers: see :func:`warp`.
        progress: show a bar.
    """
    from tqdm import tqdm

    todo = [number for number in range(len(photos)) if not is_finished(out, number)]
    if not todo:
        return
    left = sum(photos[number] for number in todo)
    (out / shards.IMAGES).unlink(missing_ok=True)  # what training unpacked before is no longer all
    with (
        tqdm(total=sum(photos), initial=sum(photos) - left, desc="images", unit="image", disable=not progress) as bar,
        readers(partial(Warper, recipe), workers or max(1, min(os.cpu_count() or 1, left // 32))) as read,
    ):
        for number in todo:
            copy, shard = divmod(number, len(photos) // recipe.copies)
            results: list[Result] = []
            for some in read([(copy, *one) for one in _samples(source, shard)]):
                results += some
                bar.update()
            write_shard(out, number, results)


def _samples(source: Path, number: int) -> list[tuple[str, str, dict[str, bytes]]]:
    """The samples of one of the source's shards, held-out people's left out: the shard's path, key and content of each.

    Raises:
        DataError: it is damaged or missing.
    """
    path = shards.shard_path(source, number)
    try:
        samples = list(shards.read_shard(path))
        ours = ~shards.held_out([json.loads(parts["json"])["person"] for _, parts in samples])
    except shards.DAMAGE:
        raise _damaged(path) from None
    return [(str(path), *one) for one, own in zip(samples, ours, strict=True) if own]


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged or missing; delete it and {shards.AGAIN}")


def _check(recipe: Recipe, workers: int) -> None:
    if not 0 <= recipe.seed < 2**32:
        raise ConfigError(f"seed {recipe.seed} is outside 0 to {2**32 - 1}")
    if not 1 <= recipe.copies <= MOST_COPIES:
        raise ConfigError(f"copies {recipe.copies} is outside 1 to {MOST_COPIES}")
    check_workers(workers)


def _settings(meta: Mapping[str, Any], index: Mapping[str, list[Any]], recipe: Recipe) -> dict[str, Any]:
    """What ``meta.json`` says. Two runs may share a folder only if they agree in all of it."""
    # All that the images are made from; emotions may be read again.
    known = {name: index[name] for name in ("key", "shard", "person", "file", "yaw", "pitch", "roll")}
    content = json.dumps([{name: value for name, value in meta.items() if name != "emotion"}, known])
    return {
        "format": FORMAT,
        "size": meta["size"],
        "mask_size": MASK_SIZE,
        "recognisers": meta["recognisers"],
        "landmarks": {"name": "face_landmarker", "sha256": weights.entry("face_landmarker").sha256},
        "emotion": about_estimator(emotion_estimator.estimator()),
        "photos": {"sha256": hashlib.sha256(content.encode()).hexdigest()},
        "warped": {"seed": recipe.seed, "copies": recipe.copies, "rig": load().digest, "code": code(*CODE)},
    }


def _kept(out: Path, count: int) -> str:
    """How many shards the folder has, for a run that was stopped."""
    done = sum(is_finished(out, number) for number in range(count))
    return f"{done} of {count} shards are done and kept in {out}; {GOES_ON}"
