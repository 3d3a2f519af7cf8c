"""Photos with moved landmarks: still where nothing moves, and moved by as much as their points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.deformation import open_mouth, smile
from facecrafter.faces.face import MOUTH_CORNERS, NOSE_TIP, Face
from facecrafter.faces.landmarks import turn
from facecrafter.faces.rig import load
from facecrafter.faces.warp import facing, warped

MEAN = load().mean


def test_a_photo_whose_points_stay_is_the_photo(face: Face) -> None:
    made = warped(face.image, face.points, face.points, MEAN)
    assert made.folded < 1e-3  # the lids' points touch each other
    difference = np.abs(made.image.astype(int) - face.image)
    assert np.quantile(difference, 0.99) <= 1


def test_pixels_go_where_their_points_go(face: Face) -> None:
    """A smooth image of places, in which a pixel's colour says where it came from."""
    side = len(face.image)
    rows, columns = np.mgrid[:side, :side]
    places = np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)
    wanted = smile(face.points)
    made = warped(places, face.points, wanted, MEAN).image
    for point in (*MOUTH_CORNERS, NOSE_TIP):
        column, row = np.floor(wanted[point, :2]).astype(int)
        np.testing.assert_allclose(made[row, column, :2], face.points[point, :2] - 0.5, atol=2)
    np.testing.assert_allclose(made[:2, :, :2], places[:2, :, :2], atol=2)  # the border stays


def test_the_finder_reads_what_a_photo_is_moved_to(face: Face, finder: FaceFinder) -> None:
    wanted = smile(face.points, -0.12)
    (read,) = finder.find_all(warped(face.image, face.points, wanted, MEAN).image)
    corners = list(MOUTH_CORNERS)
    asked, shown = (float((one[corners] - face.points[corners])[:, 1].mean()) for one in (wanted, read.points))
    assert asked > 3 and 0.4 * asked < shown < 1.4 * asked


def test_a_face_that_is_pulled_through_itself_is_folded(face: Face) -> None:
    through = face.points.copy()
    through[list(MOUTH_CORNERS), 1] -= 0.4 * len(face.image)
    assert (
        warped(face.image, face.points, through, MEAN).folded
        > 0.01
        > warped(face.image, face.points, open_mouth(face.points, 0.05), MEAN).folded
    )


@pytest.mark.parametrize(("yaw", "hidden", "seen"), [(60, 454, 234), (-60, 234, 454)])
def test_a_turn_hides_the_far_side(face: Face, yaw: float, hidden: int, seen: int) -> None:
    assert facing(MEAN, MEAN).all()
    far = facing(turn(face.points, yaw=yaw), MEAN)
    assert not far[hidden] and far[seen] and far[468:].all()


def test_any_size(face: Face) -> None:
    small = face.resized(128)
    made = warped(small.image, small.points, smile(small.points), MEAN)
    assert made.image.shape == (128, 128, 3)
    large = warped(face.image, face.points, smile(face.points), MEAN).image
    reduced = replace(face, image=large).resized(128).image
    assert np.abs(made.image.astype(int) - reduced).mean() < 4
