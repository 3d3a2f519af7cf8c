"""Directions in the generator's style space: how to move one thing about a person and leave the rest.

Every measure of :mod:`facecrafter.data.synthesis.readings` is read off many images and regressed on their style w
(ridge), which gives a linear reading of w. Another regression, of two recognisers' embeddings, gives the matrix M of
what a step costs in identity. A person is then moved by the change d of least ``d^T M d`` that takes the readings to
their targets and leaves those alone that are to be kept: pose, skin, beard, glasses, apparent age and sex. An
expression's targets may be missed at a cost (:data:`SLACK`), so that those which contradict each other leave a face.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facecrafter.data.synthesis.readings import MEASURES, Array, Reading
from facecrafter.errors import WeightsError
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.weights import ASSETS

ASSET = ASSETS / "synthesis" / "directions.safetensors"
FORMAT = "facecrafter-directions-1"
PREFIX = "learned."  # how the tensors of learned changes are called, before the emotion
ROLE = "directions in the style space of the face generator"
LICENCE = "non-commercial research, as the face generator whose styles it moves"

# An edit goes into the first styles only, those of the layers up to 32 px: later ones paint skin and light.
EDITED_STYLES = 10
RIDGE = 0.1  # of the regressions, in variances of a style's number
FLOOR = 0.05  # of M: what a step costs that no recogniser notices, where the mean direction costs 1
RANK = 256  # of M above its floor: all of it, as many as there are numbers in the embeddings
# How far targets may be missed where they contradict each other, as a share of what moving a reading alone costs: of a
# blendshape; of a smile and of emotions; of the pose and of what is kept.
SLACK, SLACK_EMOTION, SLACK_KEPT = 1.0, 0.15, 0.02
YOUNGEST = 5.0  # years added to an age before its logarithm: a child's year counts more, and a baby's is finite
KEPT = ("lightness", "redness", "beard", "glasses", "age", "sex")
POSE = ("yaw", "pitch")
SIGNED = frozenset((*POSE, *KEPT, *EMOTIONS, "oneSidedSmile", "gazeRight", "gazeUp"))  # all but plain blendshapes


@dataclass(frozen=True)
class Samples:
    """Images of styles, as read.

    Attributes:
        styles: w ``(N, 512)``, after edits.
        measures: by name ``(N,)``, of :data:`MEASURES`.
        embeddings: dlib's and SFace's side by side ``(N, 256)``.
    """

    styles: Array
    measures: Mapping[str, Array]
    embeddings: Array


@dataclass(frozen=True)
class Linear:
    """A regression on embeddings ``(N, 256)``, such as of the apparent age.

    Attributes:
        weight: ``(256,)``.
        offset: what is added.
    """

    weight: Array
    offset: float

    def __call__(self, embeddings: Array) -> Array:
        """``(N, 256)`` to ``(N,)``, or one row to a number."""
        return np.asarray(embeddings @ self.weight + self.offset)


@dataclass(frozen=True)
class Directions:
    """Fitted directions.

    Attributes:
        names: K measures.
        readers: ``(K, 512)``, a change of w to a change of the measure in standard deviations.
        average: w at which all are 0, ``(512,)``.
        means, deviations: ``(K,)`` of the measures over people as they come (of their square roots, see :func:`scale`).
        identity: ``(512, R)``; M is its square and a floor on the diagonal.
        age: the logarithm of the apparent age and :data:`YOUNGEST`.
        sex: apparent sex, 0 (a man's) to 1 (a woman's).
        about: how they were made.
        learned: by emotion, what is added to the cheapest change at strength 1, ``(512,)``; see
            :mod:`facecrafter.data.synthesis.learning`.
    """

    names: tuple[str, ...]
    readers: Array
    average: Array
    means: Array
    deviations: Array
    identity: Array
    age: Linear
    sex: Linear
    about: Mapping[str, Any]
    learned: Mapping[str, Array] = field(default_factory=dict)

    def predict(self, style: Array, names: Sequence[str]) -> Array:
        """The readings of w ``(512,)`` in standard deviations from the average, by its direction alone."""
        return np.asarray(self._rows(names) @ (style - self.average))

    def standard(self, name: str, value: float) -> float:
        """A measure's value in standard deviations from its mean."""
        place = self.names.index(name)
        return float((scale(name, np.asarray(value)) - self.means[place]) / self.deviations[place])

    def move(
        self,
        style: Array,
        targets: Mapping[str, float],
        strength: float = 1.0,
        pose: Sequence[float] = (0.0, 0.0),
        emotion: str | None = None,
    ) -> Array:
        """The change of w ``(512,)`` that a person's face needs for an expression and a pose.

        Args:
            style: the person's w.
            targets: where readings go, in standard deviations; those of :data:`KEPT` that are not named stay.
            strength: which share of the way; over 1 beyond the targets.
            pose: yaw and pitch in degrees, reached whatever the strength.
            emotion: whose learned change is added, where there is one.
        """
        names = [*targets, *POSE, *(name for name in KEPT if name not in targets)]
        ways = np.zeros(len(names))
        now = self.predict(style, names)
        count = len(targets)
        ways[:count] = strength * (np.array(list(targets.values())) - now[:count])
        turned = [self.standard(name, degrees) for name, degrees in zip(POSE, pose, strict=True)]
        ways[count : count + 2] = np.array(turned) - now[count : count + 2]
        rows = self._rows(names)
        cheap = self._cheapest(rows.T)
        square = rows @ cheap
        slack = [SLACK_EMOTION if name in (*EMOTIONS, "smile") else SLACK for name in targets]
        slack += [SLACK_KEPT] * (len(names) - count)
        change = cheap @ np.linalg.solve(square + np.diag(slack * np.diag(square)), ways)
        return np.asarray(change + strength * self.learned.get(emotion or "", np.zeros(1)))

    def apparent_age(self, reading: Reading) -> float:
        """The apparent age of a face in years."""
        return float(np.exp(self.age(embedding(reading))) - YOUNGEST)

    def _rows(self, names: Sequence[str]) -> Array:
        return self.readers[[self.names.index(name) for name in names]]

    def _cheapest(self, columns: Array) -> Array:
        """``M^-1`` times ``(512, n)``, by its low rank."""
        inner = FLOOR * np.eye(self.identity.shape[1]) + self.identity.T @ self.identity
        return np.asarray((columns - self.identity @ np.linalg.solve(inner, self.identity.T @ columns)) / FLOOR)


def embedding(reading: Reading) -> Array:
    """dlib's and SFace's embedding side by side, ``(256,)``."""
    return np.concatenate([reading.dlib, reading.sface]).astype(np.float64)


def scale(name: str, values: Array) -> Array:
    """Measures on the scale on which they are fitted: square roots of blendshapes, most of which hardly stir."""
    return values if name in SIGNED else np.sqrt(np.maximum(values, 0))


def fit(samples: Samples, plain: int, age: Linear, sex: Linear, about: Mapping[str, Any]) -> Directions:
    """Directions from samples.

    Args:
        samples: unedited people first, then edited ones, whose expressions are not those that people wear for a
            photo and do not come in the same company.
        plain: how many are unedited; means and deviations are theirs.
        age, sex: regressions on embeddings, see :func:`fit_linear`.
        about: how the samples were made.
    """
    measures = {name: scale(name, np.asarray(values)) for name, values in samples.measures.items()}
    measures |= {"age": age(samples.embeddings), "sex": sex(samples.embeddings)}
    names = tuple(measures)
    values = np.stack([measures[name] for name in names], axis=1)
    average = samples.styles.mean(0)
    means, deviations = values[:plain].mean(0), values[:plain].std(0)
    styles = samples.styles - average
    embeddings = samples.embeddings.reshape(len(styles), 2, -1)
    embeddings = (embeddings / embeddings.std((0, 2), keepdims=True)).reshape(len(styles), -1)
    penalty = RIDGE * float(styles.var())
    readers = ridge(styles, (values - means) / deviations, penalty).T
    left, sizes, _ = np.linalg.svd(ridge(styles, embeddings, penalty), full_matrices=False)
    cost = left[:, :RANK] * sizes[:RANK] * np.sqrt(len(left) / (sizes**2).sum())
    return Directions(names, readers, average, means, deviations, cost, age, sex, about)


def fit_linear(embeddings: Array, values: Array, penalty: float = 3e-5) -> Linear:
    """A regression of values ``(N,)`` on embeddings ``(N, 256)``."""
    centre = embeddings.mean(0)
    weight = ridge(embeddings - centre, values[:, None], penalty)[:, 0]
    return Linear(weight, float(values.mean() - centre @ weight))


def ridge(inputs: Array, targets: Array, penalty: float) -> Array:
    """Ridge regression of ``(N, m)`` on centred ``(N, n)``: ``(n, m)``.

    Args:
        inputs: centred.
        targets: their mean is taken away.
        penalty: a sample, added to the covariance's diagonal.
    """
    square = inputs.T @ inputs + penalty * len(inputs) * np.eye(inputs.shape[1])
    return np.asarray(np.linalg.solve(square, inputs.T @ (targets - targets.mean(0))))


def samples_of(styles: Iterable[Array], readings: Iterable[Reading]) -> Samples:
    """Samples from styles and what was read off their images."""
    found = list(readings)
    measures = {name: np.array([measure(one) for one in found]) for name, measure in MEASURES.items()}
    return Samples(np.array(list(styles), np.float64), measures, np.array([embedding(one) for one in found]))


def save(directions: Directions, path: Path) -> None:
    """Write directions, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors.numpy import save as pack

    from facecrafter.io import write_whole

    numbers = {
        "readers": directions.readers,
        "average": directions.average,
        "means": directions.means,
        "deviations": directions.deviations,
        "identity": directions.identity,
        "age": np.append(directions.age.weight, directions.age.offset),
        "sex": np.append(directions.sex.weight, directions.sex.offset),
        **{f"{PREFIX}{emotion}": change for emotion, change in directions.learned.items()},
    }
    metadata = {
        "format": FORMAT,
        "role": ROLE,
        "licence": LICENCE,
        "names": json.dumps(directions.names),
        "about": json.dumps(directions.about),
    }
    write_whole(
        path, pack({name: np.ascontiguousarray(array, np.float32) for name, array in numbers.items()}, metadata)
    )


def load(path: Path = ASSET) -> Directions:
    """Read what :func:`save` wrote.

    Raises:
        WeightsError: there is no such file, it is damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            numbers = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise KeyError("format")
        age, sex = (Linear(numbers[name][:-1], float(numbers[name][-1])) for name in ("age", "sex"))
        places = {name: numbers[name] for name in ("readers", "average", "means", "deviations", "identity")}
        names, about = tuple(json.loads(metadata["names"])), json.loads(metadata["about"])
        learned = {name.removeprefix(PREFIX): change for name, change in numbers.items() if name.startswith(PREFIX)}
        return Directions(names=names, age=age, sex=sex, about=about, learned=learned, **places)
    except FileNotFoundError:
        raise WeightsError(
            f"there is no file of directions {path}; make one with: facecrafter data directions FILE --fit"
        ) from None
    except (SafetensorError, OSError, KeyError, ValueError):
        raise WeightsError(f"{path} holds no directions of this project; make it again") from None
