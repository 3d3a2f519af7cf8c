"""The face mask: the landmark oval, less what is no person, as shares of any attention grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facecrafter.errors import WeightsError
from facecrafter.estimators import person as person_module
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.estimators.person import PersonSegmenter
from facecrafter.faces.face import LEFT_EYE, NOSE_TIP, RIGHT_EYE, Face, load_photo
from facecrafter.faces.segmentation import face_mask, oval_polygon, resize_mask


def circle(face: Face, centre: tuple[float, float], radius: float) -> Face:
    """The face with its oval replaced by a circle."""
    rollout = oval_polygon()
    turns = np.linspace(0, 2 * np.pi, len(rollout), endpoint=False)
    points = face.points.copy()
    points[rollout, 0], points[rollout, 1] = centre[0] + radius * np.cos(turns), centre[1] + radius * np.sin(turns)
    return replace(face, points=points)


def test_the_oval_is_one_closed_rollout() -> None:
    rollout = oval_polygon()
    assert len(rollout) == len(set(rollout.tolist())) == 36


def test_the_mask_covers_the_face_and_not_the_corners(face: Face) -> None:
    mask = face_mask(face)
    assert mask.shape == (256, 256) and mask.dtype == np.float32 and mask.min() == 0 and mask.max() == 1
    for point in (*RIGHT_EYE, *LEFT_EYE, NOSE_TIP):
        x, y = face.points[point, :2].astype(int)
        assert mask[y, x] == 1
    assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert 0.15 < mask.mean() < 0.5


@pytest.mark.parametrize("centre", [(128, 128), (100.25, 140.75)])
def test_area_and_centre_are_those_of_the_oval(face: Face, centre: tuple[float, float]) -> None:
    mask = face_mask(circle(face, centre, 60))
    polygon = 36 / 2 * 60**2 * np.sin(2 * np.pi / 36)
    assert mask.sum() == pytest.approx(polygon, rel=0.03)  # the filled outline is half a pixel wide
    rows, columns = np.mgrid[:256, :256] + 0.5
    assert (mask * columns).sum() / mask.sum() == pytest.approx(centre[0], abs=0.3)
    assert (mask * rows).sum() / mask.sum() == pytest.approx(centre[1], abs=0.3)


@pytest.mark.parametrize("size", [4, 8, 16, 32, 64, 100, 256, 512])
def test_any_grid_holds_the_same_share(face: Face, size: int) -> None:
    mask = face_mask(face, size)
    assert mask.shape == (size, size) and mask.dtype == np.float32
    assert mask.min() >= 0 and mask.max() <= 1
    assert mask.mean() == pytest.approx(face_mask(face).mean(), abs=0.003)


def test_a_place_of_the_grid_is_the_mean_over_it(face: Face) -> None:
    expected = face_mask(face).reshape(16, 16, 16, 16).mean((1, 3))
    np.testing.assert_allclose(face_mask(face, 16), expected, atol=1e-5)
    np.testing.assert_allclose(resize_mask(np.ones((64, 64), np.float32), 7), 1, atol=1e-6)


def test_an_oval_beyond_the_image_is_cut_off(face: Face) -> None:
    mask = face_mask(circle(face, (256, 128), 60))
    assert mask[128, -1] == 1 and mask[:, :190].sum() == 0


@pytest.fixture(scope="module")
def person(face: Face) -> NDArray[np.float32]:
    with PersonSegmenter() as segmenter:
        return segmenter.mask(face.image)


def test_the_person_is_segmented(face: Face, person: NDArray[np.float32]) -> None:
    assert person.shape == (256, 256) and person.dtype == np.float32
    assert person.min() >= 0 and person.max() <= 1
    oval = face_mask(face) == 1
    assert person[oval].mean() > 0.98
    assert person[:60, :20].mean() < 0.1 and person[:60, -20:].mean() < 0.1  # the wall behind her


def test_the_segmenter_takes_any_shape(astronaut: NDArray[np.uint8]) -> None:
    with PersonSegmenter() as segmenter:
        whole = segmenter.mask(astronaut)
        part = segmenter.mask(astronaut[:300, 100:360])
    assert whole.shape == (512, 512) and part.shape == (300, 260)
    assert np.abs(whole[:300, 100:360] - part).mean() < 0.15


def test_the_face_mask_is_cut_to_the_person(face: Face, person: NDArray[np.float32]) -> None:
    plain, both = face_mask(face), face_mask(face, person=person)
    np.testing.assert_allclose(both, plain * person, atol=1e-6)
    left = np.zeros_like(person)
    left[:, :128] = 1
    half = face_mask(face, person=left)
    assert half[:, 128:].max() == 0 and (half[:, :128] == plain[:, :128]).all()
    assert face_mask(face, 16, person=left)[:, 8:].max() == 0
    assert not face_mask(face, 16, person=np.zeros_like(person)).any()


def test_a_turned_head_loses_background(lfw: Path, finder: FaceFinder) -> None:
    """On real photos the person mask takes a little from the oval's rim and nothing from its middle."""
    with PersonSegmenter() as segmenter:
        for path in sorted(lfw.glob("*/*_0001.jpg")):
            found = finder.find(load_photo(path), 128, "centre", path)
            plain, both = face_mask(found), face_mask(found, person=segmenter.mask(found.image))
            assert 0.9 * plain.sum() < both.sum() <= plain.sum()


def test_a_person_mask_of_another_size_is_refused(face: Face) -> None:
    with pytest.raises(ValueError, match=r"\(128, 128\).*\(256, 256\)"):
        face_mask(face, person=np.ones((128, 128), np.float32))


def test_a_missing_segmenter_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def locate(name: str) -> Path:
        raise WeightsError(f"the weights '{name}' are not installed")

    monkeypatch.setattr(person_module.weights, "locate", locate)
    with pytest.raises(WeightsError, match="selfie_segmenter"):
        PersonSegmenter()
