"""How far a reading moves: the variations themselves, and the distances, written out."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from facecrafter.data import shards
from facecrafter.data.shards import Prepared
from facecrafter.errors import NoFaceError
from facecrafter.estimators.emotion import tight_crop
from facecrafter.evaluation import emotion_variations as module
from facecrafter.evaluation.emotion_variations import equalised, grey, in_a_photo, lit, tight_colour_crop, vary
from facecrafter.faces.face import Face

IMAGE = np.random.default_rng(0).integers(40, 120, (50, 40, 3)).astype(np.uint8)


def test_a_photo_has_the_image_larger_and_off_its_middle() -> None:
    photo = in_a_photo(IMAGE)
    assert photo.shape == (70 + 46 + 23, 56 + 42 + 14, 3)
    inside = photo[46:116, 42:98]
    assert inside.mean() == pytest.approx(IMAGE.mean(), abs=1)
    assert (photo[:46, 42:98] == inside[0]).all()


def test_light_colours_and_histogram() -> None:
    np.testing.assert_array_equal(lit(IMAGE, 0.5), np.round(IMAGE * 0.5))
    assert lit(np.full((1, 1, 3), 200, np.uint8), 1.4).tolist() == [[[255, 255, 255]]]
    flat = grey(IMAGE)
    assert (flat == flat[:, :, :1]).all()
    np.testing.assert_allclose(flat[:, :, 0], IMAGE @ [0.299, 0.587, 0.114], atol=1)
    even = equalised(IMAGE) @ np.array([0.299, 0.587, 0.114])
    assert IMAGE.mean(2).std() < 20
    assert even.std() > 55  # an even histogram has 74


def test_the_colour_crop_frames_what_the_grey_one_does(face: Face) -> None:
    import cv2

    colour = tight_colour_crop(face)
    assert colour.shape == (192, 192, 3)
    small = cv2.resize(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), (48, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(float) - tight_crop(face.image, face.points)).mean() < 3


class Finder:
    """Finds a face in every image that is not dark."""

    def __enter__(self) -> Finder:
        return self

    def __exit__(self, *_: object) -> None: ...

    def find(self, image: np.ndarray) -> Any:  # type: ignore[type-arg]
        if image.mean() < 40:
            raise NoFaceError("too dark")
        points = np.random.default_rng(1).uniform(20, 100, (478, 3)).astype(np.float32)
        return SimpleNamespace(image=image, points=points, blendshapes=np.zeros(52, np.float32))


class Reader:
    """Says happy of bright crops, of pixels alone with less certainty."""

    def probabilities(self, crops: Any, shapes: Any = None) -> np.ndarray:  # type: ignore[type-arg]
        told = np.zeros((len(crops), 8))
        told[:, 1] = [0.9 if np.mean(crop) > 100 else 0.2 for crop in crops]
        told[:, 1] -= 0.1 if shapes is None else 0.0
        told[:, 0] = 1 - told[:, 1]
        return told

    def estimate_crops(self, crops: Any) -> list[Any]:
        return [SimpleNamespace(probabilities=row) for row in self.probabilities(crops)]


@pytest.fixture
def folder(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of one value each: 90 four times, 60 twice and 10 twice."""
    values = np.array([90, 90, 90, 90, 60, 60, 10, 10], np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (8, 128, 128, 3)).copy()
    monkeypatch.setattr(shards, "load", lambda folder: dataclasses.replace(prepared, images=images))
    monkeypatch.setattr(module, "FaceFinder", Finder)


@pytest.mark.usefixtures("folder")
def test_distances_and_shares_written_out(prepared: Prepared, tmp_path: Any) -> None:
    told = vary(Reader(), tmp_path, prepared.files, 8)  # type: ignore[arg-type]
    assert sorted(told) == ["brighter", "crop", "darker", "equalised", "grey", "in a photo"]
    assert told["grey"] == {"found": 1.0, "distance": 0.0, "same": 1.0, "pixels_distance": 0.0, "pixels_same": 1.0}
    # Only the four that were at 90 are bright enough after it: 126 and 84.
    brighter = told["brighter"]
    assert brighter["distance"] == pytest.approx(0.7 * 4 / 6)
    assert brighter["pixels_distance"] == pytest.approx(0.7 * 4 / 6)
    assert brighter["same"] == pytest.approx(2 / 6)
    # Half of 60 is too dark to be found.
    assert told["darker"]["found"] == pytest.approx(4 / 6)
    assert told["crop"]["pixels_distance"] == 0.0


@pytest.mark.usefixtures("folder")
def test_only_the_files_asked_for_and_so_many(prepared: Prepared, tmp_path: Any) -> None:
    assert vary(Reader(), tmp_path, prepared.files[4:5], 8)["brighter"]["distance"] == 0.0  # type: ignore[arg-type]
    with pytest.raises(NoFaceError, match="prepare it again"):
        vary(Reader(), tmp_path, prepared.files[6:], 8)  # type: ignore[arg-type]
