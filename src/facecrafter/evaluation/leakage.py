"""What moves when something else was asked to: leakage, control curves, and the shape that landmarks bring along.

**The matrix.** A probe is an image of a person with every control from one photo, and the same image, from the same
noise, with one thing changed: another person; the landmarks of another photo *of the same third person*, so that pose
and expression change and the face's shape does not; the emotion of another photo, and so any other control. Between the
first image and each of the others the judges measure how far identity went (1 - cosine), pose (length of the
difference), expression (length), and emotion (root mean square over valence, arousal and the eight probabilities).

A movement is divided by that between the *photos* which the change came from, averaged over the probes: two people's
photos, the two photos of the third person, the photos of the two emotions. So 1 on the diagonal says that as much moved
as was asked, and off the diagonal 0 is best and 1 as bad as if the other thing had been asked to change. Dividing by a
method's own direct effect instead would make a method that hardly follows seem leaky, or clean, for that reason alone,
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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facecrafter.controls import CONTROLS
from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.measurements import Measurements
from facecrafter.evaluation.metrics import cosines, distances
from facecrafter.evaluation.pairs import by_person, standardised
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.result import Curve, Leakage
from facecrafter.faces.emotion import Emotion
from facecrafter.request import Portrait, Request

Array = NDArray[np.float64]

ABOUT = (
    "How far a thing moved when one thing was changed, as a share of how far it is between the photos that the change "
    "came from, by the same judges: 1 on the diagonal is full control, 0 elsewhere is no leakage."
)
AXES = ("valence", "arousal")
ASKED = np.linspace(-1, 1, 9)
DRAWN = 10  # photos among which the farthest reading of a control is taken
# What judges measure between two images.
MOVEMENTS: dict[str, Callable[[Measurements, Measurements], Array]] = {
    "identity": lambda one, other: 1 - cosines(one.identity, other.identity),
    "pose": lambda one, other: np.linalg.norm(one.pose - other.pose, axis=1),
    "expression": lambda one, other: np.linalg.norm(one.expression - other.expression, axis=1),
    "emotion": lambda one, other: distances(one.emotion, other.emotion),
}


@dataclass(frozen=True)
class Probe:
    """What one row of movements is measured on.

    Attributes:
        person, other: whose identity, first and after the change.
        start: a photo of a third person, which gives every control first.
        changed: by control, the photo that gives it after its change.
        seed: of all images.
    """

    person: Portrait
    other: Portrait
    start: Portrait
    changed: dict[str, Portrait]
    seed: int

    @property
    def requests(self) -> list[Request]:
        """As it is, with another identity, with each control changed, and without those that carry a face's shape."""
        given = dict.fromkeys(self.changed, self.start)
        free = {name: one for name, one in given.items() if not CONTROLS[name].carries_shape}
        first = Request(self.person, given, self.seed)
        return [
            first,
            replace(first, identity=self.other),
            *(replace(first, conditions={**given, name: photo}) for name, photo in self.changed.items()),
            replace(first, conditions=free),
        ]

    @property
    def photos(self) -> list[Portrait]:
        """The photos that it is made of, in the order of the attributes: as many as there are requests."""
        return [self.person, self.other, self.start, *self.changed.values()]


def changes() -> dict[str, tuple[str, ...]]:
    """The changes of the matrix in order, each with what of :data:`MOVEMENTS` it is meant to move."""
    return {"identity": ("identity",), **{control.row: control.moves for control in CONTROLS.values()}}


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
    photos = by_person(prepared, rows)
    several = sorted(person for person, some in photos.items() if len(some) > 1)
    probes = []
    for number in range(count):
        person, other = people[number % len(people)], people[(number + 1) % len(people)]
        thirds = [one for one in several if one not in (prepared.persons[person], prepared.persons[other])]
        if not thirds:
            raise DataError("the leakage matrix needs a third person with two photos held out; set leakage: 0")
        some = photos[thirds[int(random.integers(len(thirds)))]]
        start = some[int(random.integers(len(some)))]
        changed = {}
        for name, control in CONTROLS.items():
            if control.carries_shape:
                own = [one for one in some if one != start]
                changed[name] = max(own, key=lambda one: float(np.linalg.norm(apart[one] - apart[start])))
            else:
                drawn = random.choice(rows, min(DRAWN, len(rows)), replace=False)
                readings = control.read(prepared)
                away = (readings[drawn] - readings[start]).reshape(len(drawn), -1)
                changed[name] = int(drawn[np.linalg.norm(away, axis=1).argmax()])
        first, second, third = (Portrait.of(prepared, row) for row in (person, other, start))
        others = {name: Portrait.of(prepared, row) for name, row in changed.items()}
        probes.append(Probe(first, second, third, others, seed + number))
    return probes


def movements(first: Measurements, second: Measurements) -> Array:
    """``(Q, 4)``: how far each of :data:`MOVEMENTS` is apart in Q pairs of images."""
    return np.stack([movement(first, second) for movement in MOVEMENTS.values()], axis=1)


def matrix(moved: Array, real: Array) -> Array:
    """The leakage matrix ``(C, C)``: a row a change, a column what moved, both in the order of :func:`changes`.

    Args:
        moved: ``(Q, C, 4)``: movements of Q probes for each change.
        real: ``(Q, C, 4)``: movements between the photos that each change came from.
            Probes with a NaN on either side are left out, of the photos where what the change is meant to move is NaN.
    """
    whole, columns = _whole(moved, real), _columns()
    if not whole.any():
        return np.full((len(columns), len(columns)), np.nan)
    mean, wanted = moved[whole].mean(0), real[whole].mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [(mean[:, places] / wanted[change, places]).mean(1) for change, places in enumerate(columns)]
    return np.stack(shares, axis=1)


def _columns() -> list[list[int]]:
    """For each change, which of :data:`MOVEMENTS` it is meant to move."""
    return [[list(MOVEMENTS).index(name) for name in moves] for moves in changes().values()]


def _whole(moved: Array, real: Array) -> NDArray[np.bool_]:
    """``(Q,)``: which probes were measured on both sides; see :func:`matrix`."""
    wanted = [real[:, change, places] for change, places in enumerate(_columns())]
    return np.asarray(np.isfinite(moved).all((1, 2)) & np.isfinite(np.concatenate(wanted, axis=1)).all(1))


def real_movements(photos: Measurements) -> Array:
    """``(Q, C, 4)`` of the photos of Q probes, in the order of :attr:`Probe.photos`; see :func:`matrix`."""
    person, other, start, *changed = _by_place(photos)
    return np.stack([movements(person, other), *(movements(start, one) for one in changed)], axis=1)


def _by_place(measured: Measurements) -> list[Measurements]:
    """What was measured of Q probes' images, or of their photos, by place within a probe."""
    places = len(CONTROLS) + 3
    return [measured.rows(slice(start, None, places)) for start in range(places)]


def leakage(images: Measurements, photos: Measurements) -> Leakage:
    """The matrix as a result has it.

    Args:
        images: of Q probes, in the order of :attr:`Probe.requests`.
        photos: of the same probes, in the order of :attr:`Probe.photos`.
    """
    first, *changed, _ = _by_place(images)
    moved = np.stack([movements(first, one) for one in changed], axis=1)
    real = real_movements(photos)
    whole, names = _whole(moved, real), list(changes())
    return Leakage(
        changed=names,
        moved=names,
        values=matrix(moved, real).tolist(),
        about=ABOUT,
        probes=len(whole),
        failures=int((~whole).sum()),
    )


def shape_leak(images: Measurements, photos: Measurements, people: Sequence[str]) -> Interval:
    """The shape that landmarks bring along, over Q probes of people, Q; see :func:`leakage` and this module."""
    (given, *_, free), target = _by_place(images), _by_place(photos)[2].identity
    more = cosines(given.identity, target) - cosines(free.identity, target)
    measured = np.isfinite(more)
    return bootstrap.mean(more[measured], [person for person, one in zip(people, measured, strict=True) if one])


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
    measured = np.isfinite(perceived)
    return bootstrap.mean(perceived[measured], [person for person, one in zip(people, measured, strict=True) if one])
