"""Table 2: how different the images of one person are, by identity alone, and whether they stay the person.

As in Arc2Face's evaluation: several images a person from different noise, no control module.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import DataError, NoFaceError, PhotoError
from facecrafter.estimators.emotion_estimator import estimator
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.estimators.identity import recogniser
from facecrafter.evaluation import datasets, metrics
from facecrafter.evaluation.config import DiversityConfig, MethodConfig
from facecrafter.evaluation.judges import Judges
from facecrafter.evaluation.measurements import Measurements
from facecrafter.evaluation.result import Column, MethodResult, TableResult
from facecrafter.evaluation.session import Session
from facecrafter.faces.face import load_photo
from facecrafter.request import Generator, Portrait, Request

Array = NDArray[np.float64]

COLUMNS = (
    Column(
        "lpips",
        "LPIPS",
        "Mean LPIPS between an image and the others of the same person.",
        "higher",
        "mean",
    ),
    Column(
        "expression_spread",
        "Expression spread",
        "l2 norm of the standard deviations (ddof 1) of the estimator's expression numbers over a person's images "
        "(emoca: 50 FLAME coefficients; mediapipe: 52 blendshapes).",
        "higher",
        "mean",
    ),
    Column(
        "pose_spread",
        "Pose spread",
        "l2 norm of the standard deviations (ddof 1) of three numbers over a person's images (mediapipe: yaw, pitch, "
        "roll; emoca: the global rotation as axis times angle, without the jaw).",
        "higher",
        "mean",
        "rad",
    ),
    Column(
        "frechet",
        "Frechet distance",
        "To the real images that the result names; over the named network and these numbers of images alone.",
        "lower",
        None,
    ),
    Column(
        "identity_similarity",
        "Identity similarity",
        "Cosine of the judge's embeddings of the image and of the identity's photo.",
        "higher",
        "mean",
    ),
)


def scores(measured: Measurements, own: Array, place: NDArray[np.int64], apart: Array) -> dict[str, Array]:
    """The scores of P images, ``(P,)`` a column of :data:`COLUMNS`; NaN where no face was found.

    What is measured of a person's images together is the score of each of them, so that a mean over images is one over
    people, each counting as often as faces were found of it.

    Args:
        measured: what the images show.
        own: ``(I, D)`` embeddings of the people by the judge.
        place: ``(P,)``, which person each is of.
        apart: ``(P,)``, the mean distance of each image to the others of its person.
    """
    made = {"lpips": apart, "identity_similarity": metrics.cosines(measured.identity, own[place])}
    for key, rows in (("expression_spread", measured.expression), ("pose_spread", measured.pose)):
        made[key] = np.full(len(place), np.nan)
        for person in np.unique(place):
            here = np.flatnonzero((place == person) & measured.found)
            made[key][here] = metrics.spread(rows[here])
    return made


def distances_to_others(judges: Judges, images: Sequence[NDArray[np.uint8]]) -> Array:
    """The mean LPIPS of each of n images to the others, ``(n,)``; NaN where there is no other."""
    pairs = list(combinations(range(len(images)), 2))
    if not pairs:
        return np.full(len(images), np.nan)
    one, other = (np.array(side) for side in zip(*pairs, strict=True))
    apart = judges.lpips([images[index] for index in one.tolist()], [images[index] for index in other.tolist()])
    total = np.bincount(one, apart, len(images)) + np.bincount(other, apart, len(images))
    return np.asarray(total / (len(images) - 1))


def measure(config: DiversityConfig, progress: bool = True) -> TableResult:
    """Make the table and write its result folder; see :func:`facecrafter.evaluation.config.run`."""
    session = Session(config, progress)
    people, own, left_out = choose_people(session, config)
    place = np.repeat(np.arange(len(people)), config.samples)
    requests = [Request(people[who], seed=config.seed + number) for number, who in enumerate(place.tolist())]
    names = [request.identity.name for request in requests]
    real = session.real()

    def row(entry: MethodConfig, method: Generator) -> MethodResult:
        made = session.make(method, requests)
        measured = session.measure(made.paths)
        apart = _apart(session, measured, made.paths, place)
        scored = scores(measured, own, place, apart)
        values = metrics.values(COLUMNS, scored, names)
        distance = metrics.frechet_distance(session.features(made.paths), names, real, config.frechet_draws)
        values["frechet"] = distance
        return MethodResult(**session.written(entry, method, made, requests, measured, COLUMNS, scored), values=values)

    rows = session.rows(requests, False, row)
    roles = ("pose", "expression", "identity", "frechet", "lpips")
    return session.finish(COLUMNS, roles, people=len(people), left_out=left_out, methods=rows)


def choose_people(session: Session, config: DiversityConfig) -> tuple[list[Portrait], Array, list[str]]:
    """The people of the table, their embeddings ``(I, D)`` by the judge, and the photos that were left out because they
    are none, or the judges find no face in them.

    Raises:
        DataError: fewer people than asked for, or fewer than two with a face.
    """
    layout, folder = config.people.layout, config.people.folder
    people: list[Portrait] = []
    left_out: list[str] = []
    if folder is None:
        drawn = datasets.of_prepared(session.prepared, config.identities, config.seed)
        people = [session.portrait(row) for _, row in drawn]
    else:
        photos = datasets.LAYOUTS[layout](folder, config.identities, config.seed)
        people, left_out = read(photos, session.prepared.images.shape[1], config, session.progress)
    own = session.measure([person.image for person in people]) if people else None
    found = [] if own is None else own.found.tolist()
    left_out += [person.file for person, measured in zip(people, found, strict=True) if not measured]
    if own is None or sum(found) < 2:
        raise DataError(f"{sum(found)} of {config.identities} photos show a face; a table needs two people")
    measured = [person for person, one in zip(people, found, strict=True) if one]
    return measured, own.identity[own.found], left_out


def read(
    photos: Sequence[datasets.Photo], size: int, config: DiversityConfig, progress: bool = True
) -> tuple[list[Portrait], list[str]]:
    """Photos as portraits ``size`` pixels a side, and the files of those that show no face or are no images.

    Raises:
        WeightsError: a network that reads them cannot be loaded.
    """
    from tqdm import tqdm

    folder = config.people.folder
    embed, feel = recogniser(config.condition, config.people.arcface), estimator()
    people, left_out = [], []
    with FaceFinder() as finder:
        for photo in tqdm(photos, desc="reading photos", disable=not progress):
            file = photo.path.relative_to(folder).as_posix() if folder else photo.path.name
            try:
                face = finder.find(load_photo(photo.path))
            except (NoFaceError, PhotoError):
                left_out.append(file)
                continue
            small = face.resized(size)
            people.append(
                Portrait(
                    name=photo.person,
                    file=file,
                    image=small.image,
                    points=small.points,
                    size=size,
                    blendshapes=face.blendshapes,
                    angles=np.array(face.angles, np.float32),
                    embedding=embed.embed([face])[0],
                    emotion=feel.estimate([face])[0].vector,
                )
            )
    return people, left_out


def _apart(session: Session, measured: Measurements, paths: Sequence[Path], place: NDArray[np.int64]) -> Array:
    """:func:`distances_to_others` over each person's images in which a face was found; NaN for the others."""
    from tqdm import tqdm

    apart = np.full(len(paths), np.nan)
    for person in tqdm(np.unique(place), desc="LPIPS", disable=not session.progress):
        here = np.flatnonzero((place == person) & measured.found)
        apart[here] = distances_to_others(session.judges, [load_photo(paths[index]) for index in here.tolist()])
    return apart
