"""Table 1: how closely pictures follow the pose, expression and emotion of a target, and whether they stay the person.

The judges look at a target's photo and at the picture made for it, so that an error is a difference between two of
their own readings. Which person meets which target is said in :mod:`facecrafter.evaluation.targets`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.evaluation import frechet, groups, leakage, metrics
from facecrafter.evaluation.looks import Seen
from facecrafter.evaluation.method import Method, Request, Subject
from facecrafter.evaluation.metrics import Column
from facecrafter.evaluation.studio import Studio
from facecrafter.evaluation.tables import FOLDER, ControlConfig, Distance, MethodConfig
from facecrafter.evaluation.targets import Pairs, choose
from facecrafter.perception.emotion import EMOTIONS

Array = NDArray[np.float64]

_BETWEEN = (
    Column(
        "pose_rmse",
        "Pose RMSE",
        "Root mean square over pictures and three numbers (mediapipe: yaw, pitch, roll; emoca: the global rotation as "
        "axis times angle, without the jaw) of picture less target.",
        "lower",
        "rms",
        "rad",
    ),
    Column("valence_rmse", "Valence RMSE", "Root mean square of picture less target.", "lower", "rms"),
    Column("arousal_rmse", "Arousal RMSE", "Root mean square of picture less target.", "lower", "rms"),
)
_AFTER = (
    Column(
        "class_accuracy",
        "Class accuracy",
        "Share of pictures whose likeliest emotion is the target's.",
        "higher",
        "mean",
    ),
    Column(
        "identity_similarity",
        "Identity similarity",
        "Cosine of the judge's embeddings of the picture and of the identity's photo.",
        "higher",
        "mean",
    ),
    Column(
        "identity_auc",
        "Identity AUC",
        "Chance that a picture is more like its own person than a picture is like another person of the table.",
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
        "How much likeness to the person whose landmarks they are the landmarks add, by the judge's cosine.",
        "lower",
        None,
    ),
)
# The paper's Exp-RMSE and Dist-RMSE by either definition, and the norm that a picture's score is; docs/evaluation.md
# says how the paper's printed values tell which one they are.
_EXPRESSION: dict[Distance, Column] = {
    "l2": Column(
        "expression_distance",
        "Expression distance",
        "Mean over pictures of the l2 norm of picture less target over the estimator's expression numbers "
        "(emoca: 50 FLAME coefficients; mediapipe: 52 blendshapes).",
        "lower",
        "mean",
    ),
    "rmse": Column(
        "expression_rmse",
        "Expression RMSE",
        "Root mean square over pictures and expression numbers of picture less target.",
        "lower",
        "rms",
    ),
}
_DISTRIBUTION: dict[Distance, Column] = {
    "l2": Column(
        "distribution_distance",
        "Distribution distance",
        "Mean over pictures of the l2 norm of picture less target over the eight emotion probabilities; at most 1.414.",
        "lower",
        "mean",
    ),
    "rmse": Column(
        "distribution_rmse",
        "Distribution RMSE",
        "Root mean square over pictures and the eight emotion probabilities; at most 0.5.",
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
        real: features of real pictures.
        probes: of the leakage matrix.
        photos: what the probes' photos show.
        curve: people behind the control curves.
        labels: P labels for each way of grouping the pictures, and the labels in order.
    """

    requests: list[Request]
    people: list[str]
    place: NDArray[np.int64]
    identities: Array
    wanted: Seen
    real: frechet.Gaussian
    probes: list[leakage.Probe]
    photos: Seen | None
    curve: list[Subject]
    labels: dict[str, tuple[list[str], tuple[str, ...]]]


def scores(
    seen: Seen, wanted: Seen, identities: Array, place: NDArray[np.int64], distance: Distance = "l2"
) -> dict[str, Array]:
    """The scores of P pictures, ``(P,)`` a column of :func:`columns_by`; NaN where no face was found.

    Args:
        seen: what the pictures show.
        wanted: what their targets show.
        identities: ``(I, D)`` embeddings of the people by the judge.
        place: ``(P,)``, which person each is of.
        distance: the definition of the expression and distribution columns.
    """
    norm, expression, distribution = _NORMS[distance], _EXPRESSION[distance].key, _DISTRIBUTION[distance].key
    feeling, asked = seen.emotion, wanted.emotion
    return {
        expression: norm(seen.expression, wanted.expression),
        "pose_rmse": metrics.distances(seen.pose, wanted.pose),
        "valence_rmse": metrics.distances(feeling[:, :1], asked[:, :1]),
        "arousal_rmse": metrics.distances(feeling[:, 1:2], asked[:, 1:2]),
        distribution: norm(feeling[:, 2:], asked[:, 2:]),
        "class_accuracy": metrics.same_class(feeling[:, 2:], asked[:, 2:]),
        "identity_similarity": metrics.cosines(seen.identity, identities[place]),
        "identity_auc": metrics.order(seen.identity, identities, place),
    }


def measure(config: ControlConfig, progress: bool = True) -> dict[str, Any]:
    """Make the table and write its result folder; see :func:`facecrafter.evaluation.tables.run`."""
    studio = Studio(config, progress)
    pairs, left_out = choose_pairs(studio, config)
    cast = _cast(studio, config, pairs)

    def row(entry: MethodConfig, method: Method) -> dict[str, Any]:
        return _row(studio, config, cast, entry, method)

    rows = studio.rows(cast.requests, True, row)
    roles = ("pose", "expression", "identity", "emotion", "frechet")
    return studio.finish(columns_by(config.distance), roles, left_out=left_out, methods=rows)


def choose_pairs(studio: Studio, config: ControlConfig) -> tuple[Pairs, list[str]]:
    """The pairs, of photos in which the judges find a face; also the files in which they do not and which were left.

    Raises:
        DataError: fewer people or photos than asked for.
    """
    usable = np.ones(len(studio.prepared), bool)
    while True:
        pairs = choose(studio.prepared, config.identities, config.targets, config.pool, config.seed, usable)
        rows = np.unique(np.concatenate([pairs.identity, pairs.target]))
        found = studio.look(studio.prepared.images[rows]).found
        if found.all():
            return pairs, [studio.prepared.files[row] for row in np.flatnonzero(~usable)]
        usable[rows[~found]] = False


def _cast(studio: Studio, config: ControlConfig, pairs: Pairs) -> Cast:
    prepared = studio.prepared
    rows, place = np.unique(pairs.identity, return_inverse=True)
    targets, asked = np.unique(pairs.target, return_inverse=True)
    subjects = {row: studio.subject(row) for row in np.union1d(pairs.identity, pairs.target).tolist()}
    requests = []
    for number, (one, other) in enumerate(zip(pairs.identity.tolist(), pairs.target.tolist(), strict=True)):
        requests.append(Request(subjects[one], subjects[other], subjects[other], config.seed + number))
    probes = leakage.choose_probes(prepared, rows.tolist(), config.leakage, config.seed)
    return Cast(
        requests=requests,
        people=[request.identity.name for request in requests],
        place=place,
        identities=studio.look(prepared.images[rows]).identity,
        wanted=studio.look(prepared.images[targets]).rows(asked),
        real=studio.real(),
        probes=probes,
        photos=studio.look([photo.image for probe in probes for photo in probe.photos]) if probes else None,
        curve=[subjects[row] for row in rows[: config.curve].tolist()],
        labels=_labels(requests),
    )


def _labels(requests: list[Request]) -> dict[str, tuple[list[str], tuple[str, ...]]]:
    """The group of each request, by the emotion and the yaw asked and by the skin tone in the identity's photo."""
    targets = [request.landmarks for request in requests if request.landmarks]
    tones: dict[str, str] = {}
    for request in requests:
        one = request.identity
        if one.file not in tones:
            tones[one.file] = groups.skin_tone(groups.typology_angle(one.image, one.points))
    return {
        "emotion": ([EMOTIONS[int(one.emotion[2:].argmax())] for one in targets], EMOTIONS),
        "yaw": ([groups.yaw_band(float(one.angles[0])) for one in targets], tuple(groups.YAWS)),
        "skin tone": ([tones[request.identity.file] for request in requests], groups.TONES),
    }


def _row(studio: Studio, config: ControlConfig, cast: Cast, entry: MethodConfig, method: Method) -> dict[str, Any]:
    """Make and measure one method."""
    made = studio.make(method, cast.requests)
    seen = studio.look(made.paths)
    columns = columns_by(config.distance)
    scored = scores(seen, cast.wanted, cast.identities, cast.place, config.distance)
    values = metrics.values(columns, scored, cast.people)
    features = studio.features(made.paths)
    distance = metrics.frechet_distance(features, cast.people, cast.real, config.frechet_draws)
    values["frechet"] = metrics.told(distance)
    row = studio.written(entry, made, cast.requests, seen, columns, scored)
    row["groups"] = {name: groups.split(columns, scored, *labels) for name, labels in cast.labels.items()}
    if entry.kind != FOLDER:  # of pictures made elsewhere there are those of the table alone
        row |= _beyond(studio, config, cast, method, values)
    return {**row, "values": values}


def _beyond(
    studio: Studio, config: ControlConfig, cast: Cast, method: Method, values: dict[str, Any]
) -> dict[str, Any]:
    """Leakage and control curves; the shape leak goes into the values."""
    told: dict[str, Any] = {}
    if cast.photos is not None:
        requests = [request for probe in cast.probes for request in probe.requests]
        seen = studio.look(studio.make(method, requests).paths)
        told["leakage"] = leakage.leakage(seen, cast.photos)
        names = [probe.person.name for probe in cast.probes]
        values["shape_leak"] = metrics.told(leakage.shape_leak(seen, cast.photos, names))
    if cast.curve:
        requests = leakage.curve_requests(cast.curve, config.seed)
        emotion = studio.look(studio.make(method, requests).paths).emotion
        told["curves"] = leakage.curves(emotion, [person.name for person in cast.curve])
    return told
