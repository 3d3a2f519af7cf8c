"""What moves when something else was asked to: leakage, control curves, and the shape that landmarks bring along.

**The matrix.** A probe is an image of a person in somebody's pose and expression and emotion, and the same image,
from the same noise, with one of the three changed: another person; the landmarks of another photo *of the same third
person*, so that pose and expression change and the face's shape does not; the emotion of another photo. Between the
first image and each of the others the judges measure how far identity went (1 - cosine), pose (length of the
difference), expression (length), and emotion (root mean square over valence, arousal and the eight probabilities).

A movement is divided by that between the *photos* which the change came from, averaged over the probes: two people's
photos, the two photos of the third person, the photos of the two emotions. So 1 on the diagonal says that as much moved
as was asked, and off the diagonal 0 is best and 1 as bad as if the other thing had been asked to change. Dividing by a
method's own direct effect instead would make a method that hardly follows look leaky, or clean, for that reason alone,
and methods would not share a scale. Pose and expression come with landmarks together: their column is the mean of the
two ratios. Expression and emotion are not independent in faces, and no method can bring the cells between them to 0;
what counts is how methods differ.

**The curves.** One person at a time, with landmarks left free, is asked for a valence from -1 to 1 at arousal 0, and
for an arousal at valence 0; the curve is the mean of what is perceived.

**Shape.** How much more an image resembles the person whose landmarks it was given than the same image with
landmarks left free does, by the judge's cosine. A pose in common makes faces alike too, a little, so it is seldom
exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.measurements import Measurements
from facecrafter.evaluation.metrics import cosines, distances
from facecrafter.evaluation.pairs import standardised
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.result import Curve, Leakage
from facecrafter.faces.emotion import Emotion
from facecrafter.request import Portrait, Request

Array = NDArray[np.float64]

ABOUT = (
    "How far a thing moved when one thing was changed, as a share of how far it is between the photos that the change "
    "came from, by the same judges: 1 on the diagonal is full control, 0 elsewhere is no leakage."
)
KINDS = ("identity", "pose", "emotion")  # pose is pose and expression
AXES = ("valence", "arousal")
ASKED = np.linspace(-1, 1, 9)
DRAWN = 10  # photos among which the farthest emotion is taken


@dataclass(frozen=True)
class Probe:
    """What one row of movements is measured on.

    Attributes:
        person, other: whose identity, first and after the change.
        posed, moved: two photos of a third person: landmarks, first and after the change. The first also gives the
            emotion.
        mood: whose emotion after the change.
        seed: of all five images.
    """

    person: Portrait
    other: Portrait
    posed: Portrait
    moved: Portrait
    mood: Portrait
    seed: int

    @property
    def requests(self) -> list[Request]:
        """Five: as it is, another identity, other landmarks, another emotion, and without landmarks."""
        given = {"landmark": self.posed, "emotion": self.posed}
        first = Request(self.person, given, self.seed)
        return [
            first,
            replace(first, identity=self.other),
            replace(first, conditions={**given, "landmark": self.moved}),
            replace(first, conditions={**given, "emotion": self.mood}),
            replace(first, conditions={"emotion": self.posed}),
        ]

    @property
    def photos(self) -> list[Portrait]:
        """The five photos that it is made of, in the order of the attributes."""
        return [self.person, self.other, self.posed, self.moved, self.mood]


def choose_probes(prepared: Prepared, people: Sequence[int], count: int, seed: int) -> list[Probe]:
    """Probes of people of a prepared folder, drawn by a seed.

    Args:
        prepared: with held-out people, some of them with two photos or more.
        people: rows, one a person, each the next one's other.
        count: how many.
        seed: of the draws, and of the first probe's images.

    Raises:
        DataError: nobody but the probe's own people has two photos.
    """
    if count == 0:
        return []
    random = np.random.default_rng([seed, 1])
    rows = np.flatnonzero(held_out(prepared.persons))
    apart = dict(zip(rows.tolist(), standardised(prepared.angles[rows, :2], prepared.blendshapes[rows]), strict=True))
    photos: dict[str, list[int]] = {}
    for row in rows.tolist():
        photos.setdefault(prepared.persons[row], []).append(row)
    several = sorted(person for person, some in photos.items() if len(some) > 1)
    probes = []
    for number in range(count):
        person, other = people[number % len(people)], people[(number + 1) % len(people)]
        thirds = [one for one in several if one not in (prepared.persons[person], prepared.persons[other])]
        if not thirds:
            raise DataError("the leakage matrix needs a third person with two photos held out; set leakage: 0")
        some = photos[thirds[int(random.integers(len(thirds)))]]
        posed = some[int(random.integers(len(some)))]
        moved = max((one for one in some if one != posed), key=lambda one: np.linalg.norm(apart[one] - apart[posed]))
        moods = random.choice(rows, min(DRAWN, len(rows)), replace=False)
        mood = moods[np.linalg.norm(prepared.emotion[moods] - prepared.emotion[posed], axis=1).argmax()]
        rows_of = {"person": person, "other": other, "posed": posed, "moved": moved, "mood": int(mood)}
        portraits = {name: Portrait.of(prepared, row) for name, row in rows_of.items()}
        probes.append(Probe(**portraits, seed=seed + number))
    return probes


def movements(first: Measurements, second: Measurements) -> Array:
    """``(Q, 4)``: how far identity, pose, expression and emotion are apart in Q pairs of images."""
    return np.stack(
        [
            1 - cosines(first.identity, second.identity),
            np.linalg.norm(first.pose - second.pose, axis=1),
            np.linalg.norm(first.expression - second.expression, axis=1),
            distances(first.emotion, second.emotion),
        ],
        axis=1,
    )


def matrix(moved: Array, real: Array) -> Array:
    """The leakage matrix ``(3, 3)``: a row a change, a column what moved, both in the order of :data:`KINDS`.

    Args:
        moved: ``(Q, 3, 4)``: movements of Q probes for each change.
        real: ``(Q, 4)``: movements between the photos: of identity between those of the first change, of pose and
            expression between those of the second, of emotion between those of the third.
            Probes with a NaN on either side are left out.
    """
    whole = np.isfinite(moved).all((1, 2)) & np.isfinite(real).all(1)
    if not whole.any():
        return np.full((3, 3), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = moved[whole].mean(0) / real[whole].mean(0)
    return np.stack([ratios[:, 0], ratios[:, 1:3].mean(1), ratios[:, 3]], axis=1)


def real_movements(photos: Measurements) -> Array:
    """``(Q, 4)`` of the photos of Q probes, ``Q * 5`` in the order of :attr:`Probe.photos`; see :func:`matrix`."""
    person, other, posed, moved, mood = (photos.rows(slice(start, None, 5)) for start in range(5))
    people, poses, moods = movements(person, other), movements(posed, moved), movements(posed, mood)
    return np.stack([people[:, 0], poses[:, 1], poses[:, 2], moods[:, 3]], axis=1)


def leakage(images: Measurements, photos: Measurements) -> Leakage:
    """The matrix, as the result has it.

    Args:
        images: of Q probes, ``Q * 5`` in the order of :attr:`Probe.requests`.
        photos: of the same probes, ``Q * 5`` in the order of :attr:`Probe.photos`.
    """
    first, *changed, _ = (images.rows(slice(start, None, 5)) for start in range(5))
    moved = np.stack([movements(first, one) for one in changed], axis=1)
    real = real_movements(photos)
    whole = np.asarray(np.isfinite(moved).all((1, 2)) & np.isfinite(real).all(1))
    return Leakage(
        changed=list(KINDS),
        moved=list(KINDS),
        values=matrix(moved, real).tolist(),
        about=ABOUT,
        probes=len(whole),
        failures=int((~whole).sum()),
    )


def shape_leak(images: Measurements, photos: Measurements, people: Sequence[str]) -> Interval:
    """The shape that landmarks bring along, over Q probes of people, Q; see :func:`leakage` and this module."""
    given, free = images.rows(slice(0, None, 5)), images.rows(slice(4, None, 5))
    target = photos.rows(slice(2, None, 5)).identity
    more = cosines(given.identity, target) - cosines(free.identity, target)
    seen = np.isfinite(more)
    return bootstrap.mean(more[seen], [person for person, one in zip(people, seen, strict=True) if one])


def curve_requests(people: Sequence[Portrait], seed: int) -> list[Request]:
    """For each axis, each person, and each of :data:`ASKED` along it: that emotion, landmarks free."""
    requests = []
    for axis in range(len(AXES)):
        for number, person in enumerate(people):
            for asked in ASKED:
                point = (asked, 0.0) if axis == 0 else (0.0, asked)
                mood = replace(person, emotion=Emotion.from_valence_arousal(*point).vector)
                requests.append(Request(person, {"emotion": mood}, seed + number))
    return requests


def curves(emotion: Array, people: Sequence[str]) -> dict[str, Curve]:
    """The control curves by axis.

    Args:
        emotion: ``(2 * people * 9, 10)`` perceived in the images of :func:`curve_requests`.
        people: the same people's names.
    """
    cells = emotion[:, :2].reshape(len(AXES), len(people), len(ASKED), 2)
    found = {}
    for axis, name in enumerate(AXES):
        points = [_point(cells[axis, :, place, axis], people) for place in range(len(ASKED))]
        found[name] = Curve(
            asked=ASKED.tolist(),
            perceived=[point.value for point in points],
            low=[point.low for point in points],
            high=[point.high for point in points],
        )
    return found


def _point(perceived: Array, people: Sequence[str]) -> Interval:
    seen = np.isfinite(perceived)
    return bootstrap.mean(perceived[seen], [person for person, one in zip(people, seen, strict=True) if one])
