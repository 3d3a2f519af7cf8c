from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facecrafter.errors import CheckpointError, DataError
from facecrafter.estimators.blendshapes import network
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces import rig_fit
from facecrafter.faces.canonical import mean_face, mirrored, straightened, turned
from facecrafter.faces.face import BLENDSHAPES, MOUTH_CORNERS, Face, ffhq_frame
from facecrafter.faces.rig import SHIPPED, Reader, Rig, load, slopes_of
from facecrafter.faces.symmetry import LANDMARKS

JAW, CHIN = BLENDSHAPES.index("jawOpen"), 152


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load()


@pytest.fixture(scope="module")
def own(rig: Rig, face: Face) -> NDArray[np.float64]:
    """The astronaut's neutral face."""
    return rig.neutral_face(rig.straightened([face.points]).points, face.blendshapes[None])


def scores(names: dict[str, float]) -> NDArray[np.float64]:
    return np.array([names.get(name, 0.0) for name in BLENDSHAPES])


def test_the_shipped_rig_says_where_it_comes_from_and_is_small(rig: Rig) -> None:
    assert SHIPPED.stat().st_size < 1_000_000
    assert {"commit", "data", "photos", "people", "landmarks by", "emotions by", "slopes of"} <= rig.about.keys()
    assert rig.about["photos"] > 5000
    dead = {name for name, live in zip(BLENDSHAPES, rig.live, strict=True) if not live}
    assert {"cheekPuff", "jawForward", "noseSneerLeft", "cheekSquintRight"} <= dead
    assert not dead & {"jawOpen", "mouthSmileLeft", "eyeBlinkRight", "browInnerUp"}


def test_turning_is_undone(rig: Rig) -> None:
    placed = np.stack([turned(rig.mean, yaw, pitch) * 90 + 120 for yaw, pitch in ((0, 0), (30, -10), (-20, 15))])
    found = straightened(placed, rig.mean)
    np.testing.assert_allclose(found.points, np.broadcast_to(rig.mean, found.points.shape), atol=1e-6)
    np.testing.assert_allclose(found.yaw, (0, 30, -20), atol=1e-6)
    np.testing.assert_allclose(found.pitch, (0, -10, 15), atol=1e-6)


def test_angles_are_mediapipes(rig: Rig, face: Face, finder: FaceFinder) -> None:
    found = rig.straightened([face.points])
    # In the photo the face is high up, where MediaPipe's camera sees it from below; the aligned one is in the middle.
    yaw, pitch, _ = finder.find(face.image).angles
    assert found.yaw[0] == pytest.approx(yaw, abs=2)
    assert found.pitch[0] == pytest.approx(pitch, abs=3)


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (25, 0), (-25, 0), (0, 15), (10, -15)])
def test_a_pose_is_that_which_is_asked_for(rig: Rig, own: NDArray[np.float64], yaw: float, pitch: float) -> None:
    placed = rig.posed(own, yaw, pitch)
    found = rig.straightened([placed])
    assert found.yaw[0] == pytest.approx(yaw, abs=0.5)
    assert found.pitch[0] == pytest.approx(pitch, abs=0.5)
    np.testing.assert_allclose(ffhq_frame(placed), [[256, 0, 0], [0, 256, 0]], atol=0.01)  # on the template


def test_roll_turns_the_aligned_face_counter_clockwise(rig: Rig, own: NDArray[np.float64]) -> None:
    upright, rolled = rig.posed(own), rig.posed(own, roll=10)
    left, right = (rolled[number, :2] for number in MOUTH_CORNERS)
    before = upright[MOUTH_CORNERS[1], :2] - upright[MOUTH_CORNERS[0], :2]
    after = right - left
    turn = np.degrees(np.arctan2(before[1], before[0]) - np.arctan2(after[1], after[0]))
    assert turn == pytest.approx(10, abs=1e-3)


def test_the_linear_rig_drops_the_jaw(rig: Rig, own: NDArray[np.float64]) -> None:
    moved, got = rig.expressed(own, scores({"jawOpen": 0.6}), scores({}))
    assert moved[CHIN, 1] - own[CHIN, 1] > 0.1  # of the distance of the eyes' outer corners
    np.testing.assert_array_equal(got, scores({"jawOpen": 0.6}))


def test_the_loop_reaches_what_the_linear_rig_misses(rig: Rig, own: NDArray[np.float64]) -> None:
    def read(points: NDArray[np.floating]) -> NDArray[np.floating]:
        """A network whose jaw opens with the square of the chin's way, and which reads nothing else."""
        way = (points[:, CHIN, 1] - own[CHIN, 1]).clip(0)
        return np.stack([way**2 * 10 if name == "jawOpen" else way * 0 for name in BLENDSHAPES], 1)

    wanted = scores({"jawOpen": 0.4})
    linear = read(rig.expressed(own, wanted, scores({}))[0][None])[0, JAW]
    moved, got = rig.expressed(own, wanted, scores({}), read)
    assert abs(got[JAW] - 0.4) < 0.05 < abs(linear - 0.4)
    assert read(moved[None])[0, JAW] == got[JAW]


def test_the_loop_meets_mediapipes_own_network(rig: Rig, own: NDArray[np.float64]) -> None:
    read = network().scores
    now = np.asarray(read(own[None])[0], np.float64)
    wanted = np.maximum(now, scores({"jawOpen": 0.5}))

    def error(one: Rig, loop: Reader | None) -> float:
        moved, _ = one.expressed(own, wanted, now, loop)
        return float(np.abs(read(moved[None])[0] - wanted)[rig.live].max())

    assert error(rig, read) < 0.03 and error(replace(rig, slopes=None), read) < 0.03
    assert error(rig, None) > 0.06


def test_slopes_are_those_of_the_network(rig: Rig, own: NDArray[np.float64]) -> None:
    def read(points: NDArray[np.floating]) -> NDArray[np.floating]:
        return (points - own).reshape(len(points), -1) @ weight

    weight = np.random.default_rng(0).normal(size=(478 * 3, 52))
    plain = np.stack([weight.T @ rig.offsets[cause].ravel() for cause in range(52)], axis=1)
    np.testing.assert_allclose(slopes_of(own, rig.offsets, read), plain, rtol=1e-4, atol=1e-4)


def test_a_neutral_face_takes_its_own_expression_away(rig: Rig, own: NDArray[np.float64]) -> None:
    smiling = rig.neutral + scores({"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5})
    photos = np.stack([own, own + rig.moved(smiling - rig.neutral)])
    found = rig.neutral_face(photos, np.stack([rig.neutral, smiling]))
    np.testing.assert_allclose(found, own, atol=1e-9)


def test_emotions_move_what_they_are_known_for(rig: Rig) -> None:
    happy, surprise = rig.emotion(np.eye(8)[1]), rig.emotion(np.eye(8)[3])
    assert happy[BLENDSHAPES.index("mouthSmileLeft")] > 0.4
    assert surprise[JAW] > 0.2
    np.testing.assert_allclose(rig.emotion([1, *[0] * 7]), 0)
    np.testing.assert_allclose(rig.emotion([0.5, 0.5, *[0] * 6]), happy / 2)


def made_up(people: int = 12, photos: int = 8) -> dict[str, object]:
    """Faces of people who differ, posed, with two expressions whose offsets are known."""
    rng, rig = np.random.default_rng(0), load()
    count = people * photos
    given = np.zeros((count, 52), np.float32)
    given[:, [JAW, BLENDSHAPES.index("browInnerUp")]] = rng.random((count, 2))
    people_of = np.repeat(np.arange(people), photos)
    shape = 0.02 * rng.normal(size=(people, 478, 3))
    shape = (shape + mirrored(shape)) / 2
    angles = np.zeros((count, 3), np.float32)
    angles[photos:, :2] = rng.uniform(-20, 20, (count - photos, 2))
    faces = rig.mean + shape[people_of] + np.tensordot(given, true_offsets(), 1)
    points = [turned(one, *pose[:2]) * 80 + 128 for one, pose in zip(faces, angles, strict=True)]
    emotion = np.zeros((count, 10), np.float32)
    emotion[:, 2] = 1
    return {
        "points": np.array(points, np.float32),
        "blendshapes": given,
        "angles": angles,
        "emotion": emotion,
        "persons": [str(number) for number in people_of],
    }


def true_offsets() -> NDArray[np.float64]:
    offsets = np.zeros((52, 478, 3))
    offsets[JAW, [CHIN, 17], 1] = 0.3
    offsets[BLENDSHAPES.index("browInnerUp"), [9, 8], 1] = -0.2
    return offsets


def test_a_fit_finds_the_offsets_of_a_persons_own_face(tmp_path: Path) -> None:
    fitted = rig_fit.fit(**made_up(), about={"data": "made up"})  # type: ignore[arg-type]
    offsets = true_offsets()
    for name in ("jawOpen", "browInnerUp"):
        number = BLENDSHAPES.index(name)
        np.testing.assert_allclose(fitted.offsets[number], offsets[number], atol=0.05)
        assert fitted.live[number]
    assert fitted.about["people"] == 12
    np.testing.assert_allclose(fitted.angles[:, 0], 1, atol=0.05)
    fitted.save(tmp_path / "rig.npz")
    again = load(tmp_path / "rig.npz")
    np.testing.assert_allclose(again.offsets, fitted.offsets, atol=1e-3)
    assert again.about["data"] == "made up" and again.slopes is None
    looped = rig_fit.fit(**made_up(), read=network().scores)  # type: ignore[arg-type]
    looped.save(tmp_path / "looped.npz")
    stored = load(tmp_path / "looped.npz").slopes
    assert stored is not None and looped.slopes is not None
    np.testing.assert_allclose(stored, looped.slopes, atol=2e-3, rtol=2e-3)
    assert stored[JAW, JAW] > 0.02 and again.digest != load(tmp_path / "looped.npz").digest


def test_a_mean_face_is_symmetric(rig: Rig) -> None:
    lopsided = np.stack([rig.mean, rig.mean]) * 70 + 100
    lopsided[:, 61, 1] += 5
    mean = mean_face(lopsided)
    np.testing.assert_allclose(mean, mean[list(LANDMARKS)] * [-1, 1, 1], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"persons": [str(number) for number in range(96)]}, "no person with two"),
        ({"angles": np.full((96, 3), 30.0)}, "look straight ahead, and 0 of 96"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        rig_fit.fit(**{**made_up(), **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"PK no archive", None])
def test_a_damaged_or_missing_rig_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "rig.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="controls fit"):
        load(path)
