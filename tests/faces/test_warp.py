"""Photos with moved landmarks: still where nothing moves, and moved by as much as their points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from facecrafter.estimators.blendshapes import network
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.deformation import purse_lips, smile
from facecrafter.faces.face import BLENDSHAPES, MOUTH_CORNERS, NOSE_TIP, Face
from facecrafter.faces.landmarks import turn
from facecrafter.faces.rig import load
from facecrafter.faces.warp import TORN, moved_points, warped


def places(side: int) -> np.ndarray:
    """An image in which a pixel's colour says where it is: x and y, half a pixel less than the middle of the pixel."""
    rows, columns = np.mgrid[:side, :side]
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)


def test_a_photo_whose_points_stay_is_the_photo(face: Face) -> None:
    made = warped(face.image, face.points, face.points)
    assert made.torn == made.shown == 0
    np.testing.assert_array_equal(made.image, face.image)


def test_pixels_go_where_their_points_go(face: Face) -> None:
    wanted = smile(face.points)
    made = warped(places(256), face.points, wanted).image.astype(float)
    for point in (*MOUTH_CORNERS, NOSE_TIP):
        column, row = np.floor(wanted[point, :2]).astype(int)
        came = face.points[point, :2] + ([column, row] - (wanted[point, :2] - 0.5)) - 0.5
        np.testing.assert_allclose(made[row, column, :2], came, atol=1)
    np.testing.assert_allclose(made[0, :, :2], places(256)[0, :, :2], atol=1)  # the border stays


def test_a_face_that_is_moved_by_a_pixel_is_moved_by_a_pixel(face: Face) -> None:
    """Within the face, where all points move alike; half a pixel more or less would show."""
    made = warped(places(256), face.points, face.points + np.float32([1, 0, 0])).image.astype(float)
    middle = face.points[:, :2].mean(0).astype(int)
    inside = (slice(middle[1] - 20, middle[1] + 20), slice(middle[0] - 20, middle[0] + 20))
    np.testing.assert_allclose(made[inside][..., 0], places(256)[inside][..., 0] - 1.0, atol=0.51)
    assert abs((made[inside][..., 0] - places(256)[inside][..., 0]).mean() + 1) < 0.05


def test_the_finder_reads_what_a_photo_is_moved_to(face: Face, finder: FaceFinder) -> None:
    wanted = smile(face.points, -0.12)
    (read,) = finder.find_all(warped(face.image, face.points, wanted).image)
    corners = list(MOUTH_CORNERS)
    asked, shown = (float((one[corners] - face.points[corners])[:, 1].mean()) for one in (wanted, read.points))
    assert asked > 3 and 0.4 * asked < shown < 1.4 * asked


def test_torn_and_smeared(face: Face) -> None:
    through = face.points.copy()
    through[list(MOUTH_CORNERS), 1] -= 0.4 * len(face.image)
    assert warped(face.image, face.points, through).torn > 10 * TORN
    shut = purse_lips(face.points, 0.0)
    opened = shut.copy()
    opened[[95, 88, 178, 87, 14, 317, 402, 318, 324], 1] += 15  # the inner edge of the lower lip
    made = warped(face.image, shut, opened)
    assert made.torn >= made.shown > TORN  # there is nothing to see inside


@pytest.mark.parametrize("yaw", [60, -60])
def test_the_near_side_of_a_turned_head_is_seen_before_the_far_one(face: Face, yaw: float) -> None:
    """The colour of a pixel says on which side of the nose it was."""
    sides = np.zeros((256, 256, 3), np.uint8)
    sides[:, int(face.points[NOSE_TIP, 0]) :] = 255
    made = warped(sides, face.points, turn(face.points, yaw=yaw)).image
    nose = turn(face.points, yaw=yaw)[NOSE_TIP].astype(int)
    near = (
        made[nose[1] - 10 : nose[1], nose[0] - 24 : nose[0] - 8]
        if yaw > 0
        else 255 - made[nose[1] - 10 : nose[1], nose[0] + 8 : nose[0] + 24]
    )
    assert near.mean() < 32


def test_a_side_that_was_hidden_has_nothing_to_show(face: Face) -> None:
    far = turn(face.points, yaw=55)
    back = warped(face.image, far, turn(face.points, yaw=25))
    assert back.torn >= back.shown > 0.001
    there = warped(face.image, turn(face.points, yaw=25), far)
    assert there.torn > there.shown  # what the turn hides


def test_no_pixel_comes_from_beyond_its_triangle(face: Face) -> None:
    """Thin triangles have steep maps, and OpenCV draws their edges too."""
    made = warped(places(256), face.points, smile(face.points, 0.2)).image.astype(float)
    mouth = face.points[:, :2].mean(0).astype(int)
    near = made[mouth[1] - 60 : mouth[1] + 60, mouth[0] - 60 : mouth[0] + 60, :2]
    own = places(256)[mouth[1] - 60 : mouth[1] + 60, mouth[0] - 60 : mouth[0] + 60, :2]
    assert np.abs(near - own).max() < 40


def test_any_size(face: Face) -> None:
    small = face.resized(128)
    made = warped(small.image, small.points, smile(small.points))
    assert made.image.shape == (128, 128, 3)
    large = warped(face.image, face.points, smile(face.points)).image
    assert np.abs(made.image.astype(int) - replace(face, image=large).resized(128).image).mean() < 4


def test_no_change_moves_nothing(face: Face) -> None:
    rig, read = load(), network().scores
    same = moved_points(face.points, face.blendshapes, face.blendshapes, 256, rig, read)
    np.testing.assert_allclose(same, face.points, atol=1e-3)


def test_a_change_of_one_shape_is_read_by_the_network(face: Face) -> None:
    rig, read, wanted = load(), network().scores, np.array(face.blendshapes, np.float64)
    jaw = BLENDSHAPES.index("jawOpen")
    wanted[jaw] += 0.4
    moved = moved_points(face.points, face.blendshapes, wanted, 256, rig, read)
    before, after = read(np.stack([face.points, moved]))
    assert after[jaw] - before[jaw] == pytest.approx(0.4, abs=0.1)
    turned = moved_points(face.points, face.blendshapes, face.blendshapes, 256, rig, read, yaw=10, pitch=-5)
    straight = rig.straightened([face.points, turned])
    assert np.diff(straight.yaw)[0] == pytest.approx(10, abs=1) and np.diff(straight.pitch)[0] == pytest.approx(
        -5, abs=1
    )
