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


def test_computing_in_place_changes_no_number(face: Face) -> None:
    """Against a plain loop that keeps every value, to the bit; the network and the points stay as they were."""
    points = np.stack([face.points, face.points * 1.1, face.points[:, ::-1]])
    net, given = network(), points.copy()
    constants = {number: value.copy() for number, value in net._constants.items()}
    known = {**constants, net._input: points[:, list(SUBSET), :2].astype(np.float32)}
    for step in net._steps:
        value = step.compute(*(known[one] for one in step.inputs))
        known[step.output] = np.maximum(value, 0) if step.relu else value
    for _ in range(2):
        np.testing.assert_array_equal(net.scores(points), known[net._output].reshape(3, -1))
    np.testing.assert_array_equal(points, given)
    assert all(np.array_equal(value, constants[number]) for number, value in net._constants.items())
