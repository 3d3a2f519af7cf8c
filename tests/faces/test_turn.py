"""Turned and moved landmarks: rigid where they should be, back on the template, and in the direction asked for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.deformation import EXPRESSIONS, open_mouth, raise_brows, smile
from facecrafter.faces.face import LEFT_EYE, MOUTH_CORNERS, NOSE_TIP, RIGHT_EYE, Face, ffhq_frame, load_photo
from facecrafter.faces.landmarks import draw, turn

Points = NDArray[np.float32]
CHIN, UPPER_LIP, LOWER_LIP, BROW = 152, 13, 14, 105


def distances(points: Points) -> NDArray[np.float32]:
    some = points[::16]
    return np.linalg.norm(some[:, None] - some[None], axis=-1)


def nose_offset(points: Points) -> NDArray[np.float32]:
    """The nose tip from the middle between the eyes, in pixels."""
    return points[NOSE_TIP, :2] - points[[*RIGHT_EYE, *LEFT_EYE], :2].mean(0)


def test_no_turn_changes_nothing(face: Face) -> None:
    np.testing.assert_allclose(turn(face.points)[:, :2], face.points[:, :2], atol=0.01)


@pytest.mark.parametrize(("yaw", "pitch"), [(30, 0), (-40, 0), (0, 20), (25, -15)])
def test_a_turned_face_is_the_same_body_on_the_template(face: Face, yaw: float, pitch: float) -> None:
    turned = turn(face.points, yaw, pitch)
    ratio = distances(turned)[~np.eye(30, dtype=bool)] / distances(face.points)[~np.eye(30, dtype=bool)]
    assert ratio.std() < 1e-4 * ratio.mean()
    np.testing.assert_allclose(ffhq_frame(turned), [[256, 0, 0], [0, 256, 0]], atol=0.05)


@pytest.mark.parametrize("angle", [10, 25, 40])
def test_the_nose_says_where_a_turned_face_looks(face: Face, angle: float) -> None:
    straight = nose_offset(face.points)
    assert nose_offset(turn(face.points, yaw=angle))[0] > straight[0] + 5
    assert nose_offset(turn(face.points, yaw=-angle))[0] < straight[0] - 5
    assert nose_offset(turn(face.points, pitch=angle))[1] < straight[1] - 1
    assert nose_offset(turn(face.points, pitch=-angle / 2))[1] > straight[1]


def test_turning_back_gives_the_face_back(face: Face) -> None:
    """Up to the little roll that going back onto the template takes out on the way."""
    there = turn(face.points, yaw=30)
    np.testing.assert_allclose(turn(there, yaw=-30)[:, :2], face.points[:, :2], atol=2)


def test_turn_takes_any_scale_and_size(face: Face) -> None:
    np.testing.assert_allclose(turn(face.points * 3 + 100, 20, 5), turn(face.points, 20, 5), atol=0.05)
    np.testing.assert_allclose(turn(face.points, 20, 5, size=512), turn(face.points, 20, 5) * 2, atol=0.05)


def test_a_real_face_seen_from_the_side_has_the_turned_landmarks(finder: FaceFinder, lfw: Path) -> None:
    """Faces at two angles: turning one to the other's explains most of the difference between their landmarks."""
    photos = sorted(lfw.glob("*/*.jpg"))
    faces = [finder.find(load_photo(path), 256) for path in photos]
    gains = []
    for first, second in pairwise(faces):
        yaw, pitch = (b - a for a, b in zip(first.angles[:2], second.angles[:2], strict=True))
        if abs(yaw) < 15:
            continue
        before = np.abs(first.points[:, :2] - second.points[:, :2]).mean()
        after = np.abs(turn(first.points, yaw, pitch)[:, :2] - second.points[:, :2]).mean()
        gains.append(after / before)
    assert len(gains) >= 5
    assert np.mean(gains) < 0.6


def gap(points: Points) -> float:
    return float(points[LOWER_LIP, 1] - points[UPPER_LIP, 1])


@pytest.mark.parametrize(
    ("move", "measure", "grows"),
    [
        (open_mouth, gap, True),
        (open_mouth, lambda points: points[CHIN, 1], True),
        (smile, lambda points: points[list(MOUTH_CORNERS), 1].mean(), False),
        (smile, lambda points: np.ptp(points[list(MOUTH_CORNERS), 0]), True),
        (EXPRESSIONS["mouth down"], lambda points: points[list(MOUTH_CORNERS), 1].mean(), True),
        (EXPRESSIONS["lips pursed"], lambda points: np.ptp(points[list(MOUTH_CORNERS), 0]), False),
        (EXPRESSIONS["lips pursed"], gap, False),
        (raise_brows, lambda points: points[BROW, 1], False),
        (EXPRESSIONS["eyes closed"], lambda points: points[145, 1] - points[159, 1], False),
    ],
)
def test_expressions_move_what_they_name(
    face: Face, move: Callable[[Points], Points], measure: Callable[[Points], float], grows: bool
) -> None:
    before = face.points.copy()
    change = measure(move(face.points)) - measure(face.points)
    assert change > 2 if grows else change < -2
    np.testing.assert_array_equal(face.points, before)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_leave_the_rest_of_the_face(face: Face, name: str) -> None:
    moved = EXPRESSIONS[name](face.points)
    far = [10, 168, 6] + ([] if name in ("mouth open", "smile", "mouth down", "lips pursed") else [CHIN, 61, 291])
    np.testing.assert_allclose(moved[far], face.points[far], atol=0.3)
    assert (draw(turn(moved), 256, 128) != draw(face.points, 256, 128)).any()
