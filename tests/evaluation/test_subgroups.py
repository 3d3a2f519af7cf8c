"""Bands of yaw and skin tone, and metrics apart by them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.color import lab2rgb

from facecrafter.evaluation import subgroups
from facecrafter.evaluation.result import Column, Group
from facecrafter.faces.face import Face


def skin(lightness: float, red: float, yellow: float, side: int = 64) -> np.ndarray:
    colour = np.round(lab2rgb(np.array([[[lightness, red, yellow]]], float)) * 255).astype(np.uint8)
    return np.broadcast_to(colour, (side, side, 3)).copy()


POINTS = np.random.default_rng(0).uniform(10, 50, (478, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("lightness", "red", "yellow"), [(75, 10, 14), (65, 12, 18), (60, 12, 18), (52, 14, 18), (45, 12, 18), (30, 10, 12)]
)
def test_the_angle_is_that_of_the_colour(lightness: float, red: float, yellow: float) -> None:
    wanted = math.degrees(math.atan((lightness - 50) / yellow))
    assert subgroups.typology_angle(skin(lightness, red, yellow), POINTS) == pytest.approx(wanted, abs=2)


@pytest.mark.parametrize(
    ("angle", "band"),
    [
        (80, "very light"), (55.1, "very light"), (55, "light"), (41, "intermediate"), (28, "tan"), (10, "brown"),
        (-29, "brown"), (-30, "dark"), (-90, "dark"), (float("nan"), "without colour"),
    ],
)  # fmt: skip
def test_bands_of_skin_tone(angle: float, band: str) -> None:
    assert subgroups.skin_tone(angle) == band
    assert band in subgroups.TONES


def test_a_grey_image_has_no_angle() -> None:
    assert math.isnan(subgroups.typology_angle(np.full((64, 64, 3), 180, np.uint8), POINTS))


def test_only_skin_counts() -> None:
    image = skin(30, 10, 12)
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    for point in POINTS[list(subgroups.SKIN_POINTS)]:
        image[np.hypot(x - point[0], y - point[1]) < 4] = skin(75, 10, 14)[0, 0]
    assert subgroups.skin_tone(subgroups.typology_angle(image, POINTS)) == "very light"


def test_points_beyond_the_image_are_no_error() -> None:
    assert math.isfinite(subgroups.typology_angle(skin(60, 12, 18), POINTS * 9))


def test_a_real_face(face: Face) -> None:
    angle = subgroups.typology_angle(face.image, face.points)
    assert subgroups.skin_tone(angle) in ("very light", "light", "intermediate")
    dark = (face.image * 0.35).astype(np.uint8)
    assert subgroups.skin_tone(subgroups.typology_angle(dark, face.points)) in ("brown", "dark")


@pytest.mark.parametrize(("yaw", "band"), [(0, "0 to 15"), (-14.9, "0 to 15"), (15, "15 to 30"), (-31, "30 and more")])
def test_bands_of_yaw(yaw: float, band: str) -> None:
    assert subgroups.yaw_band(yaw) == band


def test_metrics_apart() -> None:
    columns = (
        Column("a", "A", "", "lower", "mean"),
        Column("b", "B", "", "lower", "rms"),
        Column("frechet", "F", "", "lower", None),
    )
    scores = {"a": np.array([1.0, 2, np.nan, 4]), "b": np.array([3.0, 4, np.nan, 1])}
    made = subgroups.split(columns, scores, ["x", "x", "y", "z"], ("z", "y", "x", "w"))
    assert list(made) == ["z", "y", "x"]
    assert (made["x"].count, made["x"].failures) == (2, 0)
    assert made["x"].values == {"a": 1.5, "b": pytest.approx(math.sqrt(12.5))}
    assert made["y"] == Group(count=1, failures=1, values={"a": None, "b": None})
