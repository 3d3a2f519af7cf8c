from __future__ import annotations

import numpy as np

from facecrafter.estimators.blendshapes import SUBSET, network
from facecrafter.faces.face import BLENDSHAPES, Face


def test_the_scores_are_mediapipes_own(face: Face) -> None:
    scores = network().scores(face.points[None])
    assert scores.shape == (1, len(BLENDSHAPES))
    # Its own were of the photo's points, which alignment turned by less than a degree.
    np.testing.assert_allclose(scores[0], face.blendshapes, atol=0.02)
    assert face.blendshapes.max() > 0.5


def test_a_face_is_read_alike_alone_and_in_a_batch_and_at_any_place_and_size(face: Face) -> None:
    moved = face.points * 3 + 40
    both = network().scores(np.stack([face.points, face.points[:, ::-1], moved]))
    np.testing.assert_allclose(both[0], network().scores(face.points[None])[0], atol=1e-5)
    np.testing.assert_allclose(both[2], both[0], atol=1e-4)
    assert np.abs(both[1] - both[0]).max() > 0.1


def test_only_the_subset_is_read(face: Face) -> None:
    other = face.points.copy()
    others = np.setdiff1d(np.arange(478), SUBSET)
    other[others] += 50
    np.testing.assert_array_equal(network().scores(other[None]), network().scores(face.points[None]))
