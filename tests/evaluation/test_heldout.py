"""The held-out protocol: which pairs, and each score against a case whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.evaluation import heldout
from facecrafter.perception.emotion import Emotion
from facecrafter.perception.face import Face, head_angles


def pose(yaw: float, pitch: float) -> np.ndarray:
    """A 4x4 pose that looks so many degrees to the right and up."""
    y, p = np.radians([yaw, pitch])
    forward = np.array([np.sin(y) * np.cos(p), np.sin(p), np.cos(y) * np.cos(p)])
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    return matrix


class Moved:
    """An estimator that reads the first blendshapes as classes."""

    name = "moved"

    def estimate(self, faces):
        return [Emotion.from_probabilities(one.blendshapes[:8] / one.blendshapes[:8].sum()) for one in faces]


@pytest.fixture(autouse=True)
def moved(monkeypatch):
    monkeypatch.setattr(heldout, "estimator", Moved)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    random = np.random.default_rng(0)
    names = [f"person {number}" for number in range(600)]
    people = [name for name, out in zip(names, held_out(names), strict=True) if out][:12] + names[:5]
    persons = [name for name in people for _ in range(2)]
    count = len(persons)
    shapes = random.random((count, 52)).astype(np.float32)
    poses = [pose(*random.uniform(-40, 40, 2)) for _ in range(count)]
    return Prepared(
        images=np.zeros((count, 128, 128, 3), np.uint8),
        points=np.zeros((count, 478, 3), np.float32),
        blendshapes=shapes,
        angles=np.array([head_angles(one) for one in poses], np.float32),
        identity=np.zeros((count, 128), np.float32),
        emotion=np.stack([e.vector for e in Moved().estimate([face(shape, np.eye(4)) for shape in shapes])]),
        masks=np.zeros((count, 64, 64), np.uint8),
        persons=persons,
        files=[f"{number}.jpg" for number in range(count)],
    )


def face(shapes: np.ndarray, matrix: np.ndarray) -> Face:
    return Face(np.zeros((8, 8, 3), np.uint8), np.zeros((478, 3), np.float32), shapes, matrix, (0, 0, 8, 8))


PROTOCOL = heldout.Protocol(identities=6, targets=3)


def test_pairs_are_of_people_kept_out_and_never_of_one_person_twice(prepared):
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    assert len(pairs.identity) == len(pairs.target) == 18
    out = held_out(prepared.persons)
    assert out[pairs.identity].all() and out[pairs.target].all()
    for source, target in zip(pairs.identity, pairs.target, strict=True):
        assert prepared.persons[source] != prepared.persons[target]
    assert len(np.unique(pairs.identity)) == 6


def test_targets_of_each_person_spread_over_yaw(prepared):
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    yaw = prepared.angles[pairs.target, 0].reshape(6, 3)
    assert (np.diff(yaw, axis=1) > 0).all()


def test_pairs_depend_on_the_seed_alone(prepared):
    again = heldout.choose_pairs(prepared, PROTOCOL)
    assert np.array_equal(heldout.choose_pairs(prepared, PROTOCOL).target, again.target)
    other = heldout.choose_pairs(prepared, heldout.Protocol(identities=6, targets=3, seed=1))
    assert not np.array_equal(other.target, again.target)


def test_too_few_people_is_one_clear_error(prepared):
    with pytest.raises(DataError, match="100 people kept out are asked for"):
        heldout.choose_pairs(prepared, heldout.Protocol())


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_share_of_pairs_in_order(seed):
    random = np.random.default_rng(seed)
    positive, negative = random.integers(0, 6, 40) / 5.0, random.integers(-2, 4, 30) / 5.0
    share = np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
    assert heldout.auc(positive, negative) == pytest.approx(share)


def test_outputs_that_equal_their_targets_have_no_error(prepared):
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    faces = []
    for target in pairs.target:
        yaw, pitch, _ = prepared.angles[target]
        faces.append(face(prepared.blendshapes[target], pose(float(yaw), float(pitch))))
    scores = heldout.control_scores(faces, prepared, pairs)
    for name in ("yaw_error", "pitch_error", "blendshape_rmse", "valence_rmse", "arousal_rmse"):
        assert scores[name] == pytest.approx(0, abs=1e-3), name
    assert scores["yaw_correlation"] == pytest.approx(1)
    assert scores["emotion_agreement"] == 1


def test_a_known_error_is_measured_and_missing_faces_are_left_out(prepared):
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    faces: list[Face | None] = []
    for target in pairs.target:
        yaw, pitch, _ = prepared.angles[target]
        faces.append(face(prepared.blendshapes[target] + 0.1, pose(float(yaw) + 5, float(pitch))))
    faces[4] = None
    scores = heldout.control_scores(faces, prepared, pairs)
    assert scores["yaw_error"] == pytest.approx(5, abs=1e-2)
    assert scores["blendshape_rmse"] == pytest.approx(0.1, abs=1e-4)
