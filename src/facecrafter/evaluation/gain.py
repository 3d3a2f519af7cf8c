"""Measure how far a model turns heads whose landmarks are turned, on people that it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards
from facecrafter.errors import DataError
from facecrafter.evaluation.judges import Judges, JudgesConfig
from facecrafter.evaluation.pairs import by_person
from facecrafter.faces.asked import ANGLES, Asked, Pose
from facecrafter.faces.gain import Gain, rising
from facecrafter.faces.rig import load
from facecrafter.pipelines.moving import moved
from facecrafter.provenance import PACKAGE, commit
from facecrafter.request import Generator, Portrait, Progress, Request, images_of

# Degrees that the landmarks are turned by; roll is left out, for the images of prepared folders are upright.
TURNS = {"yaw": (-45, -38, -30, -15, 0, 15, 30, 38, 45), "pitch": (-30, -25, -20, -10, 0, 10, 20, 25, 30)}
# Heads turn to both sides alike, and training has every face in a mirror too.
SYMMETRIC = ("yaw",)


def fit(
    generator: Generator, prepared: shards.Prepared, people: int = 24, seed: int = 0, progress: Progress | None = None
) -> Gain:
    """Generate some people with turned landmarks, and have MediaPipe read the images.

    Args:
        generator: the model.
        prepared: photos; people held out of training take no part.
        people: how many, one photo and one image a turn each.
        seed: of the choice, and of the images.
        progress: called with the number of images' worth of work done.

    Raises:
        DataError: there are fewer people, or no face is found in the images of a turn.
    """
    made_with = commit(PACKAGE)  # before minutes go by in which files may change
    random, rig = np.random.default_rng(seed), load()
    photos = by_person(prepared, np.flatnonzero(~shards.held_out(prepared.persons)))
    if len(photos) < people:
        raise DataError(f"{people} people of the training are asked for, and there are {len(photos)}; ask for fewer")
    rows = [int(random.choice(photos[name])) for name in random.permutation(sorted(photos))[:people]]
    places = [(row, name, turn) for row in rows for name, turns in TURNS.items() for turn in turns]
    requests = []
    for row, name, turn in places:
        own = Portrait.of(prepared, row)
        points = moved([own.points], Asked(Pose(**{name: turn})), rig).points
        requests.append(Request(own, {"landmark": Portrait(points=points)}, seed))
    shown = Judges(JudgesConfig(), frechet=False).measure(images_of(generator, requests, progress))
    found: dict[str, tuple[tuple[float, float], ...]] = {}
    for name in TURNS:
        read = np.degrees(shown.pose[:, list(ANGLES).index(name)])
        means = _means(name, [(own, turn) for _, own, turn in places], read)
        found[name] = rising(_even(means) if name in SYMMETRIC else means)
    about = {
        "commit": made_with,
        "model": generator.name,
        "key": generator.key,
        "people": people,
        "of": "people that the model was trained with; none is held out",
        "seed": seed,
        "rig": rig.digest,
    }
    return Gain(found, about)


def _means(name: str, asked: Sequence[tuple[str, float]], read: NDArray[np.floating]) -> dict[float, float]:
    """What images show on average of each turn of an angle.

    Args:
        name: of the angle.
        asked: of each image, which angle was turned, and by how much.
        read: ``(P,)`` degrees; NaN where no face was found.

    Raises:
        DataError: no face was found in the images of a turn.
    """
    means = {}
    for turn in TURNS[name]:
        some = read[[one == (name, turn) for one in asked]]
        if not np.isfinite(some).any():
            raise DataError(f"no face was found in the images of {name} {turn} degrees; the model cannot be measured")
        means[float(turn)] = float(np.nanmean(some))
    return means


def _even(means: Mapping[float, float]) -> dict[float, float]:
    """The same for turns to either side: the mean of both, with its sign."""
    return {turn: (shown - means[-turn]) / 2 for turn, shown in means.items()}
