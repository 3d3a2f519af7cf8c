"""Fit the rig: how blendshapes move a face, from photos of many people, several of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import DataError
from facecrafter.faces import symmetry
from facecrafter.faces.canonical import mean_face, mirrored, straightened
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.faces.rig import Reader, Rig, slopes_of

# All of these are choices.
FRONTAL = 8.0  # degrees of yaw, pitch and roll within which a face belongs to the mean face
WITHIN = 40.0  # degrees of yaw and pitch: beyond, MediaPipe guesses half of the face
CALM = 20.0  # degrees of yaw and pitch: of the photos that typical expressions are taken from
RIDGE = 1.0  # on scores in [0, 1], of some 20,000 faces and mirror images; 10 hardly differs
REACH = 99.9  # per cent of the photos
NEUTRAL = 0.8  # probability from which on a face counts as neutral
# Of each emotion the faces with the highest probabilities, if they have at least the least.
PROTOTYPES, LEAST = 100, 0.3
USUAL = 512  # photos whose pose and expression can be drawn
SLOPES = 64  # photos whose slopes are averaged; 15 do nearly as well


def fit(
    points: NDArray[np.float32],
    blendshapes: NDArray[np.float32],
    angles: NDArray[np.float32],
    emotion: NDArray[np.float32],
    persons: Sequence[str],
    about: Mapping[str, Any] | None = None,
    usual: NDArray[np.bool_] | None = None,
    read: Reader | None = None,
) -> Rig:
    """Fit a rig by ridge regression on the differences between photos of one person, and their mirror images.

    Args:
        points: ``(N, 478, 3)`` landmarks in pixels of aligned images.
        blendshapes: ``(N, 52)`` their scores.
        angles: ``(N, 3)`` yaw, pitch and roll in degrees.
        emotion: ``(N, 10)`` valence, arousal, eight probabilities.
        persons: N names.
        about: where they come from.
        usual: ``(N,)`` photos whose pose and expression can be drawn; None for all.
        read: MediaPipe's network, for the slopes of its scores.

    Raises:
        DataError: too few photos, or of no person two.
    """
    scores = np.asarray(blendshapes, np.float64)
    frontal = np.abs(angles).max(1) < FRONTAL
    if frontal.sum() < 3:
        raise DataError(f"a rig needs photos that look straight ahead, and {frontal.sum()} of {len(points)} do")
    mean = mean_face(points[frontal])
    found = straightened(points, mean)
    lines = np.stack([_line(angles[:, number], own) for number, own in enumerate((found.yaw, found.pitch))])
    near = np.flatnonzero(np.maximum(np.abs(found.yaw), np.abs(found.pitch)) < WITHIN)
    _, people = np.unique(np.asarray(persons)[near], return_inverse=True)
    if np.bincount(people).max(initial=0) < 2:
        raise DataError("a rig needs several photos of one person, and there is no person with two")
    poses = np.stack([found.yaw, found.pitch], 1)[near]
    flipped = symmetry.blendshapes(scores[near].astype(np.float32)).astype(np.float64)
    causes = np.concatenate([_causes(scores[near], poses), _causes(flipped, poses * [-1, 1])])
    places = np.concatenate([found.points[near], mirrored(found.points[near])]).reshape(2 * len(near), -1)
    both = np.concatenate([people, people + people.max() + 1])
    offsets = _ridge(_own(causes, both), _own(places, both))[: len(BLENDSHAPES)].reshape(-1, 478, 3)
    calm = np.abs(angles[:, :2]).max(1) < CALM
    neutral, emotions, counts = _typical(scores[calm], np.asarray(emotion, np.float64)[calm, 2:])
    drawn = np.random.default_rng(0).permutation(near if usual is None else near[usual[near]])[:USUAL]
    draws = np.concatenate([angles[drawn, :2], scores[drawn]], 1)
    facts = {
        **(about or {}),
        "photos": len(near),
        "people": int(people.max() + 1),
        "with several photos": int((np.bincount(people) > 1).sum()),
        "photos of emotions": counts,
    }
    slopes = None
    if read is not None:
        faces = found.points[np.random.default_rng(1).permutation(near)[:SLOPES]]
        facts["slopes of"] = f"{len(faces)} of the photos"
        slopes = np.mean([slopes_of(face, offsets, read) for face in faces], axis=0)
    return Rig(mean, offsets, neutral, emotions, np.percentile(scores, REACH, axis=0), lines, draws, facts, slopes)


def _line(read: NDArray[np.floating], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the angle that MediaPipe reads to that of the points: slope and offset of the line whose inverse gives what
    MediaPipe reads with the least error."""
    slope, offset = np.polyfit(own, np.asarray(read, np.float64), 1)
    return np.array([1 / slope, -offset / slope])


def _causes(scores: NDArray[np.float64], poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """What moves points: blendshapes, and the pose, in which MediaPipe sees a face a little differently."""
    yaw, pitch = (poses / WITHIN).T
    return np.concatenate([scores, np.stack([yaw, pitch, yaw**2, pitch**2, np.abs(yaw)], 1)], 1)


def _own(values: NDArray[np.float64], people: NDArray[np.int_]) -> NDArray[np.float64]:
    """Values ``(N, D)`` less the mean of the person's own."""
    sums = np.zeros((people.max() + 1, values.shape[1]))
    np.add.at(sums, people, values)
    return values - (sums / np.maximum(np.bincount(people), 1)[:, None])[people]


def _ridge(causes: NDArray[np.float64], effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coefficients ``(C, E)`` of a ridge regression of ``(N, E)`` on ``(N, C)``."""
    squares = causes.T @ causes + RIDGE * np.eye(causes.shape[1])
    return np.asarray(np.linalg.solve(squares, causes.T @ effects), np.float64)


def _typical(
    scores: NDArray[np.float64], shares: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, int]]:
    """The scores of neutral faces ``(52,)``, what each emotion adds ``(8, 52)``, and of how many photos."""

    def symmetric(mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((mean + symmetry.blendshapes(mean.astype(np.float32))) / 2, np.float64)

    calm = shares[:, 0] >= NEUTRAL
    neutral = symmetric(scores[calm if calm.any() else slice(None)].mean(0))
    emotions, counts = np.zeros((len(EMOTIONS), scores.shape[1])), {EMOTIONS[0]: int(calm.sum())}
    for number, name in enumerate(EMOTIONS[1:], 1):
        most = np.argsort(-shares[:, number])[:PROTOTYPES]
        most = most[shares[most, number] >= LEAST]
        counts[name] = len(most)
        if len(most):
            emotions[number] = symmetric(np.average(scores[most], 0, shares[most, number])) - neutral
    return neutral, emotions, counts
