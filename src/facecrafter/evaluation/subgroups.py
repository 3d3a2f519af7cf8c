"""Whom a method serves how well: every metric apart by the emotion asked, by yaw, and by skin tone.

Skin tone is the individual typology angle (Chardon, Cretois & Hourseau, 1991), ``ITA = arctan((L* - 50) / b*)`` in
degrees, of the median CIELAB colour of forehead and cheeks, in the six bands of Del Bino & Bernerd (2013). It is
measured in the identity's photo. Photos are not colorimeters: light moves the angle, so bands are of the skin in the
photo and not of the person. A photo without colour has no angle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from facecrafter.evaluation.metrics import value
from facecrafter.evaluation.result import Column, Group

Array = NDArray[np.float64]

# Above which angle in degrees.
SKIN_TONES = {"very light": 55.0, "light": 41.0, "intermediate": 28.0, "tan": 10.0, "brown": -30.0, "dark": -90.0}
UNKNOWN_TONE = "without colour"
TONES = (*SKIN_TONES, UNKNOWN_TONE)
# From which absolute yaw on, in degrees.
YAWS = {"0 to 15": 0.0, "15 to 30": 15.0, "30 and more": 30.0}

# Mesh points on skin that is mostly bare: forehead, and both cheeks.
SKIN_POINTS = (151, 108, 337, 50, 205, 280, 425)
PATCH = 0.03  # radius of the patch around each, as a share of the image's side
GREY = 2.0  # a median colour nearer to the grey axis than this comes from an image without colour


def typology_angle(image: NDArray[np.uint8], points: NDArray[np.float32]) -> float:
    """The individual typology angle in degrees, in [-90, 90]; NaN for an image without colour.

    Args:
        image: ``(S, S, 3)`` uint8 sRGB, an aligned face.
        points: ``(478, 2 or 3)`` landmarks in pixels of it.
    """
    import cv2

    side = len(image)
    colours = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    middles = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1) + 0.5
    centres = points[list(SKIN_POINTS), :2].clip(0.5, side - 0.5)
    near = np.linalg.norm(middles[:, :, None] - centres, axis=-1).min(-1) <= max(1.0, PATCH * side)
    light, red, yellow = np.median(colours[near], axis=0)
    if np.hypot(red, yellow) < GREY:
        return float("nan")
    return float(np.degrees(np.arctan2(light - 50, max(yellow, 1e-6))))


def skin_tone(angle: float) -> str:
    """The band of a typology angle; NaN has one of its own."""
    if np.isnan(angle):
        return UNKNOWN_TONE
    return next((name for name, least in SKIN_TONES.items() if angle > least), "dark")


def yaw_band(degrees: float) -> str:
    """The band of a yaw, to either side."""
    return next(name for name, least in reversed(YAWS.items()) if abs(degrees) >= least)


def split(
    columns: Sequence[Column], scores: Mapping[str, Array], labels: Sequence[str], names: Sequence[str]
) -> dict[str, Group]:
    """The columns over the images of each label.

    A Frechet distance is not among them: over few images it depends on how many they are.

    Args:
        columns: of the table; those without scores are left out.
        scores: ``(P,)`` a column.
        labels: P.
        names: the labels in the order that a table has them; those that no image has are left out.

    Returns:
        By label; failures are images in which no face was found.
    """
    groups: dict[str, Group] = {}
    for name in names:
        here = np.array([label == name for label in labels])
        if here.any():
            ours = {column.key: value(column, scores[column.key][here]) for column in columns if column.key in scores}
            found = np.any([np.isfinite(scores[key][here]) for key in ours], axis=0)
            groups[name] = Group(count=int(here.sum()), failures=int((~found).sum()), values=ours)
    return groups
