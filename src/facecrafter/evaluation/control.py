"""Table 1: how closely images follow the pose, expression and emotion of a target, and whether they stay the person.

The judges measure a target's photo and the image made for it, so that an error is a difference between two of
their own readings. Which person meets which target is decided in :mod:`facecrafter.evaluation.pairs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.controls import CONTROLS
from facecrafter.errors import DataError
from facecrafter.evaluation import frechet, leakage, metrics, subgroups
from facecrafter.evaluation.config import FOLDER, ControlConfig, Distance, MethodConfig
from facecrafter.evaluation.measurements import Measurements
from facecrafter.evaluation.pairs import Pairs, choose
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.result import Column, MethodResult, TableResult
from facecrafter.evaluation.session import Session
from facecrafter.faces import skin
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.request import Generator, Portrait, Request

Array = NDArray[np.float64]

_BETWEEN = (
    Column(
        "pose_rmse",
        "Pose RMSE",
        "Root mean square over images and three numbers (mediapipe: yaw, pitch, roll; emoca: the global rotation as "
        "axis times angle, without the jaw) of image less target.",
        "lower",
        "rms",
        "rad",
    ),
    Column("valence_rmse", "Valence RMSE", "Root mean square of image less target.", "lower", "rms"),
    Column("arousal_rmse", "Arousal RMSE", "Root mean square of image less target.", "lower", "rms"),
)
_AFTER = (
    Column(
        "class_accuracy",
        "Class accuracy",
        "Share of images whose likeliest emotion is the target's.",
        "higher",
        "mean",
    ),
    Column(
        "identity_similarity",
        "Identity similarity",
        "Cosine of the judge's embeddings of the image and of the identity's photo.",
        "higher",
        "mean",
    ),
    Column(
        "identity_auc",
        "Identity AUC",
        "Chance that an image is more like its own person than an image is like another person of the table.",
        "higher",
        "mean",
    ),
    Column(
        "frechet",
        "Frechet distance",
        "To the real images that the result names; over the named network and these numbers of images alone.",
        "lower",
        None,
    ),
    Column(
        "shape_leak",
        "Shape leak",
        "How much likeness to the person whose landmarks they are the landmarks add, by the judge's cosine; 0 is none.",
        None,  # the best is 0, and not what is furthest below it
        None,
    ),
)
# The paper's Exp-RMSE and Dist-RMSE by either definition, and the norm that an image's score is; docs/evaluation.md
# says how the paper's printed values tell which one they are.
_EXPRESSION: dict[Distance, Column] = {
    "l2": Column(
        "expression_distance",
        "Expression distance",
        "Mean over images of the l2 norm of image less target over the estimator's expression numbers "
        "(emoca: 50 FLAME coefficients; mediapipe: 52 blendshapes).",
        "lower",
        "mean",
    ),
    "rmse": Column(
        "expression_rmse",
        "Expression RMSE",
        "Root mean square over images and expression numbers of image less target.",
        "lower",
        "rms",
    ),
}
_DISTRIBUTION: dict[Distance, Column] = {
    "l2": Column(
        "distribution_distance",
        "Distribution distance",
        "Mean over images of the l2 norm of image less target over the eight emotion probabilities; at most 1.414.",
        "lower",
        "mean",
    ),
    "rmse": Column(
        "distribution_rmse",
        "Distribution RMSE",
        "Root mean square over images and the eight emotion probabilities; at most 0.5.",
        "lower",
        "rms",
    ),
}
_NORMS: dict[Distance, Callable[[Array, Array], Array]] = {"l2": metrics.lengths, "rmse": metrics.distances}


def columns_by(distance: Distance = "l2") -> tuple[Column, ...]:
    """The columns of the table, with expression and distribution by one of the two definitions."""
    return (_EXPRESSION[distance], *_BETWEEN, _DISTRIBUTION[distance], *_AFTER)


COLUMNS = columns_by()


@dataclass(frozen=True)
class Cast:
    """Everything that is the same for every method.

    Attributes:
        requests: P.
        people: names of the identities, P.
        place: ``(P,)``, which of the identities each is.
        identities: their photos' embeddings by the judge ``(I, D)``.
        wanted: what the targets' photos show, P rows.
        real: features of real images.
        probes: of the leakage matrix.
        photos: what the probes' photos show.
        curve: people behind the control curves.
        labels: P labels for each way of grouping the images, and the labels in order.
    """

    requests: list[Request]
    people: list[str]
    place: NDArray[np.int64]
    identities: Array
    wanted: Measurements
    real: frechet.Gaussian
    probes: list[leakage.Probe]
    photos: Measurements | None
    curve: list[Portrait]
    labels: dict[str, tuple[list[str], tuple[str, ...]]]


def scores(
    measured: Measurements, wanted: Measurements, identities: Array, place: NDArray[np.int64], distance: Distance = "l2"
) -> dict[str, Array]:
    """The scores of P images, ``(P,)`` a column of :func:`columns_by`; NaN where no face was found.

    Args:
        measured: what the images show.
        wanted: what their targets show.
        identities: ``(I, D)`` embeddings of the people by the judge.
        place: ``(P,)``, which person each is of.
        distance: the definition of the expression and distribution columns.
    """
    norm, expression, distribution = _NORMS[distance], _EXPRESSION[distance].key, _DISTRIBUTION[distance].key
    feeling, asked = measured.emotion, wanted.emotion
    return {
        expression: norm(measured.expression, wanted.expression),
        "pose_rmse": metrics.distances(measured.pose, wanted.pose),
        "valence_rmse": metrics.distances(feeling[:, :1], asked[:, :1]),
        "arousal_rmse": metrics.distances(feeling[:, 1:2], asked[:, 1:2]),
        distribution: norm(feeling[:, 2:], asked[:, 2:]),
        "class_accuracy": metrics.same_class(feeling[:, 2:], asked[:, 2:]),
        "identity_similarity": metrics.cosines(measured.identity, identities[place]),
        "identity_auc": metrics.order(measured.identity, identities, place),
    }


def measure(config: ControlConfig, progress: bool = True) -> TableResult:
    """Make the table and write its result folder; see :func:`facecrafter.evaluation.config.run`."""
    session = Session(config, progress)
    pairs, left_out = choose_pairs(session, config)
    cast = _cast(session, config, pairs)

    def row(entry: MethodConfig, method: Generator) -> MethodResult:
        return _row(session, config, cast, entry, method)

    rows = session.rows(cast.requests, True, row)
    roles = ("pose", "expression", "identity", "emotion", "frechet")
    return session.finish(columns_by(config.distance), roles, left_out=left_out, methods=rows)


def choose_pairs(session: Session, config: ControlConfig) -> tuple[Pairs, list[str]]:
    """The pairs, of photos in which the judges find a face; also the files in which they do not and which were left.

    Raises:
        DataError: fewer people or photos than asked for.
    """
    usable = np.ones(len(session.prepared), bool)
    while True:
        try:
            pairs = choose(session.prepared, config.identities, config.targets, config.pool, config.seed, usable)
        except DataError as error:
            raise DataError(f"{config.data}: {error}") from None
        rows = np.unique(np.concatenate([pairs.identity, pairs.target]))
        found = session.measure(session.prepared.images[rows]).found
        if found.all():
            return pairs, [session.prepared.files[row] for row in np.flatnonzero(~usable)]
        usable[rows[~found]] = False


def _cast(session: Session, config: ControlConfig, pairs: Pairs) -> Cast:
    prepared = session.prepared
    rows, place = np.unique(pairs.identity, return_inverse=True)
    targets, asked = np.unique(pairs.target, return_inverse=True)
    portraits = {row: session.portrait(row) for row in np.union1d(pairs.identity, pairs.target).tolist()}
    requests = []
    for number, (one, other) in enumerate(zip(pairs.identity.tolist(), pairs.target.tolist(), strict=True)):
        target = dict.fromkeys(CONTROLS, portraits[other])
        requests.append(Request(portraits[one], target, config.seed + number))
    probes = leakage.choose_probes(prepared, rows.tolist(), config.leakage, config.seed)
    return Cast(
        requests=requests,
        people=[request.identity.name for request in requests],
        place=place,
        identities=session.measure(prepared.images[rows]).identity,
        wanted=session.measure(prepared.images[targets]).rows(asked),
        real=session.real(),
        probes=probes,
        photos=session.measure([photo.image for probe in probes for photo in probe.photos]) if probes else None,
        curve=[portraits[row] for row in rows[: config.curve].tolist()],
        labels=_labels(requests),
    )


def _labels(requests: list[Request]) -> dict[str, tuple[list[str], tuple[str, ...]]]:
    """The group of each request, by the emotion and the yaw asked and by the skin tone in the identity's photo."""
    targets = [request.conditions["landmark"] for request in requests]
    tones: dict[str, str] = {}
    for request in requests:
        one = request.identity
        if one.file not in tones:
            tones[one.file] = skin.skin_tone(skin.typology_angle(one.image, one.points))
    return {
        "emotion": ([EMOTIONS[int(one.emotion[2:].argmax())] for one in targets], EMOTIONS),
        "yaw": ([subgroups.yaw_band(float(one.angles[0])) for one in targets], tuple(subgroups.YAWS)),
        "skin tone": ([tones[request.identity.file] for request in requests], skin.TONES),
    }


def _row(session: Session, config: ControlConfig, cast: Cast, entry: MethodConfig, method: Generator) -> MethodResult:
    """Make and measure one method."""
    made = session.make(method, cast.requests)
    measured = session.measure(made.paths)
    columns = columns_by(config.distance)
    scored = scores(measured, cast.wanted, cast.identities, cast.place, config.distance)
    values = metrics.values(columns, scored, cast.people)
    features = session.features(made.paths)
    distance = metrics.frechet_distance(features, cast.people, cast.real, config.frechet_draws)
    values["frechet"] = distance
    groups = {name: subgroups.split(columns, scored, *labels) for name, labels in cast.labels.items()}
    # Of images made elsewhere there are those of the table alone.
    beyond = {} if entry.kind == FOLDER else _beyond(session, config, cast, method, values)
    counts = session.written(entry, method, made, cast.requests, measured, columns, scored)
    return MethodResult(**counts, values=values, groups=groups, **beyond)


def _beyond(
    session: Session, config: ControlConfig, cast: Cast, method: Generator, values: dict[str, Interval]
) -> dict[str, Any]:
    """Leakage and control curves; the shape leak goes into the values."""
    found: dict[str, Any] = {}
    if cast.photos is not None:
        requests = [request for probe in cast.probes for request in probe.requests]
        measured = session.measure(session.make(method, requests).paths)
        found["leakage"] = leakage.leakage(measured, cast.photos)
        names = [probe.person.name for probe in cast.probes]
        values["shape_leak"] = leakage.shape_leak(measured, cast.photos, names)
    if cast.curve:
        requests = leakage.curve_requests(cast.curve, config.seed)
        emotion = session.measure(session.make(method, requests).paths).emotion
        found["curves"] = leakage.curves(emotion, [person.name for person in cast.curve])
    return found
