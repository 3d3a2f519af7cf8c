"""Skin tone: the individual typology angle (Chardon, Cretois & Hourseau, 1991), ``ITA = arctan((L* - 50) / b*)`` in
degrees, of the median CIELAB colour of forehead and cheeks, in the six bands of Del Bino & Bernerd (2013).

Photos are not colorimeters: light moves the angle, so bands are of the skin in the photo and not of the person. A photo
without colour has no angle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Above which angle in degrees.
SKIN_TONES = {"very light": 55.0, "light": 41.0, "intermediate": 28.0, "tan": 10.0, "brown": -30.0, "dark": -90.0}
UNKNOWN_TONE = "without colour"
TONES = (*SKIN_TONES, UNKNOWN_TONE)
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
