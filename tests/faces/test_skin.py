"""The typology angle of skin, and its bands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.color import lab2rgb

from facecrafter.faces import skin
from facecrafter.faces.face import Face


def coloured(lightness: float, red: float, yellow: float, side: int = 64) -> np.ndarray:
    colour = np.round(lab2rgb(np.array([[[lightness, red, yellow]]], float)) * 255).astype(np.uint8)
    return np.broadcast_to(colour, (side, side, 3)).copy()


POINTS = np.random.default_rng(0).uniform(10, 50, (478, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("lightness", "red", "yellow"), [(75, 10, 14), (65, 12, 18), (60, 12, 18), (52, 14, 18), (45, 12, 18), (30, 10, 12)]
)
def test_the_angle_is_that_of_the_colour(lightness: float, red: float, yellow: float) -> None:
    wanted = math.degrees(math.atan((lightness - 50) / yellow))
    assert skin.typology_angle(coloured(lightness, red, yellow), POINTS) == pytest.approx(wanted, abs=2)


@pytest.mark.parametrize(
    ("angle", "band"),
    [
        (80, "very light"), (55.1, "very light"), (55, "light"), (41, "intermediate"), (28, "tan"), (10, "brown"),
        (-29, "brown"), (-30, "dark"), (-90, "dark"), (float("nan"), "without colour"),
    ],
)  # fmt: skip
def test_bands_of_skin_tone(angle: float, band: str) -> None:
    assert skin.skin_tone(angle) == band
    assert band in skin.TONES


def test_a_grey_image_has_no_angle() -> None:
    assert math.isnan(skin.typology_angle(np.full((64, 64, 3), 180, np.uint8), POINTS))


def test_only_skin_counts() -> None:
    image = coloured(30, 10, 12)
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    for point in POINTS[list(skin.SKIN_POINTS)]:
        image[np.hypot(x - point[0], y - point[1]) < 4] = coloured(75, 10, 14)[0, 0]
    assert skin.skin_tone(skin.typology_angle(image, POINTS)) == "very light"


def test_points_beyond_the_image_are_no_error() -> None:
    assert math.isfinite(skin.typology_angle(coloured(60, 12, 18), POINTS * 9))


def test_a_real_face(face: Face) -> None:
    angle = skin.typology_angle(face.image, face.points)
    assert skin.skin_tone(angle) in ("very light", "light", "intermediate")
    dark = (face.image * 0.35).astype(np.uint8)
    assert skin.skin_tone(skin.typology_angle(dark, face.points)) in ("brown", "dark")
