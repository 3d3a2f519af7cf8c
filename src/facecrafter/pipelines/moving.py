"""Landmarks by numbers: a person's own face in the pose and with the expression that are asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import ConfigError
from facecrafter.estimators.blendshapes import network
from facecrafter.faces.asked import ANGLES, CLEARLY, Asked, Pose, drawn, in_words, wanted
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.faces.rig import Rig, load
from facecrafter.request import Portrait, Request


@dataclass(frozen=True)
class Moved:
    """Landmarks by numbers.

    Attributes:
        points: ``(478, 3)`` float32 in pixels of a 256 px aligned image.
        pose: their pose in degrees.
        scores: ``(52,)`` their blendshapes, as MediaPipe reads them straight ahead.
        asked: what was asked for.
        aim: the pose that the image should show, from which a gain turns the landmarks away.
        wanted: ``(52,)`` the blendshapes that it should show.
    """

    points: NDArray[np.float32]
    pose: Pose
    scores: NDArray[np.float64]
    asked: Asked
    aim: Pose
    wanted: NDArray[np.float64]

    def portrait(self, of: Portrait = Portrait()) -> Portrait:
        """A portrait with these landmarks; its angles and blendshapes are those that an image should show."""
        angles = np.array([getattr(self.aim, name) for name in ANGLES], np.float32)
        scores = self.wanted.astype(np.float32)
        return replace(of, points=self.points, angles=angles, blendshapes=scores, asked=self.asked)

    def described(self) -> dict[str, str]:
        """In words, for an image's metadata: what was asked for, and what the landmarks have of it; of what was drawn
        what is clearly there."""
        names: Collection[str] = self.asked.expression
        if self.asked.drawn:
            names = [name for name in names if self.scores[BLENDSHAPES.index(name)] >= CLEARLY]
        words = {**self.asked.described(), "pose": str(self.pose)}
        if names:
            words["expression"] = in_words({name: float(self.scores[BLENDSHAPES.index(name)]) for name in names})
        return words


def moved(points: Sequence[NDArray[np.float32]], asked: Asked, rig: Rig) -> Moved:
    """A person's landmarks with another pose and expression.

    Args:
        points: of one or several photos of the person, each ``(478, 3)``; the neutral face is that of all of them, and
            an expression or a pose that is kept is the first photo's. None for the mean face.
        asked: what to change.
        rig: how.

    Raises:
        ConfigError: there is no photo whose own expression could be kept, or the points have no depth.
    """
    if any(one.shape[-1] != 3 for one in points):
        raise ConfigError("landmarks of two coordinates cannot be turned; give three, as crafter.face(photo).points")
    if not points and asked.start != "neutral":
        raise ConfigError("an embedding has no expression or pose of its own to start from; give a photo of the person")
    read = network().scores
    own_pose, face = Pose(), rig.mean
    if points:
        straight = rig.straightened(points)
        face = straight.points[0]
        if asked.start == "neutral":
            face = rig.neutral_face(straight.points, read(straight.points))
        elif asked.pose is None or asked.start == "relative":
            own_pose = _within(float(straight.yaw[0]), float(straight.pitch[0]))
    now = np.asarray(read(face[None])[0], np.float64)
    # What nobody asked for need not be met to the last digit, which takes some 20 ms an image.
    aims = wanted(asked, rig, now)
    face, scores = rig.expressed(face, aims, now, None if asked.drawn else read)
    pose = asked.pose or own_pose
    if asked.pose is not None and asked.start == "relative":
        added = {name: getattr(own_pose, name) + getattr(asked.pose, name) for name in ANGLES}
        pose = _within(**added)
    turned = pose.turned(asked.gain) if asked.turns else pose
    points_moved = rig.posed(face, turned.yaw, turned.pitch, turned.roll)
    return Moved(points_moved, turned, scores, asked, pose, aims)


def with_drawn(request: Request) -> Request:
    """A request of an identity alone, with a pose and an expression that its seed draws: on the person's own face, or
    on the mean face where the identity is an embedding."""
    person, asked = request.identity, drawn(request.seed, load())
    described = dict(request.described)
    if person.photos:
        shape = Portrait(photos=person.photos, face=person.face, asked=asked)
    else:
        found = moved([], asked, load())
        shape = found.portrait()
        described |= {"landmarks": "the mean face, by numbers", **found.described()}
    return replace(request, conditions={**request.conditions, "landmark": shape}, described=described)


def seeded(request: Request, seed: int) -> Request:
    """The same request with another seed, which draws again what was drawn."""
    other = replace(request, seed=seed)
    shape = request.conditions.get("landmark")
    return with_drawn(other) if shape is not None and shape.asked is not None and shape.asked.drawn else other


def _within(yaw: float, pitch: float, roll: float = 0.0) -> Pose:
    """A photo's own pose, or the nearest that can be asked for."""
    given = zip(ANGLES.items(), (yaw, pitch, roll), strict=True)
    return Pose(**{name: round(float(np.clip(value, -most, most)), 2) for (name, most), value in given})
