"""The project's own emotion network: one face alone says what it says among others, and bad input says what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from facecrafter.errors import FaceCrafterError, NoFaceError, PhotoError, WeightsError
from facecrafter.estimators.emotion import (
    FORMAT,
    SIZE,
    EmotionNet,
    Gate,
    PixelEmotion,
    grey_crop,
    load,
    save,
    tight_crop,
)
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.evaluation.emotion_variations import VARIATIONS, tight_colour_crop
from facecrafter.faces.emotion import EMOTIONS, features
from facecrafter.faces.face import Face


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random network with a prior and temperatures."""
    torch.manual_seed(3)
    network = EmotionNet((8, 16), 1)
    network.prior.copy_(torch.arange(1, 9) / 36)
    network.temperature.fill_(0.5)
    network.joint_temperature.fill_(2.0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight)
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    save(network, path)
    return path


@pytest.fixture(scope="module")
def estimator(file: Path) -> PixelEmotion:
    return PixelEmotion(file, batch=3)


CROPS = np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE), np.uint8)
SHAPES = np.random.default_rng(1).random((7, 52)).astype(np.float32)


def test_save_and_load(file: Path, tmp_path: Path) -> None:
    network = load(file)
    assert network.config == {"widths": [8, 16], "blocks": [1, 1], "stem": 0, "squeeze": 0}
    assert not network.training
    save(network, tmp_path / "again" / "net.safetensors")
    again = load(tmp_path / "again" / "net.safetensors").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())
    save(network, tmp_path / "half.safetensors", torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.7 * file.stat().st_size


def test_a_file_that_says_nothing_of_stem_and_gates_has_neither(file: Path, tmp_path: Path) -> None:
    with safe_open(file, "pt") as opened:
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no dict
    config = '{"widths": [8, 16], "blocks": 1}'
    save_file(state, tmp_path / "older.safetensors", {"format": FORMAT.format, "config": config})
    assert load(tmp_path / "older.safetensors").config == load(file).config


def test_a_stem_at_full_size_and_gates(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = EmotionNet((8, 16), (1, 2), stem=4, squeeze=2).eval()
    save(network, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    assert again.config == {"widths": [8, 16], "blocks": [1, 2], "stem": 4, "squeeze": 2}
    crops = torch.rand(3, 1, 48, 48)
    torch.testing.assert_close(again(crops), network(crops))
    assert again.stem(crops).shape == (3, 8, 24, 24)
    assert again.stages(again.stem(crops)).shape == (3, 16, 12, 12)


def test_a_gate_multiplies_channels_by_what_the_map_says() -> None:
    torch.manual_seed(0)
    gate, features = Gate(4, 2), torch.randn(2, 4, 3, 5)
    got = gate(features) / features
    assert torch.allclose(got, got[:, :, :1, :1].expand_as(got), atol=1e-4)  # one number a channel
    hidden = (features.mean((2, 3)) @ gate.squeeze.weight.T + gate.squeeze.bias).clamp(min=0)
    told = 1 / (1 + (-(hidden @ gate.excite.weight.T + gate.excite.bias)).exp())
    torch.testing.assert_close(got[:, :, 0, 0], told, rtol=1e-4, atol=1e-4)


def test_one_alone_is_the_same_one_among_others(estimator: PixelEmotion) -> None:
    together = estimator.probabilities(list(CROPS), SHAPES)
    assert together.shape == (7, 8)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-12)
    for row in range(7):
        alone = estimator.probabilities([CROPS[row]], SHAPES[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)
    assert estimator.probabilities([]).shape == (0, 8)


def test_a_mirror_changes_nothing(estimator: PixelEmotion) -> None:
    mirrored = [np.ascontiguousarray(crop[:, ::-1]) for crop in CROPS]
    np.testing.assert_allclose(estimator.probabilities(list(CROPS)), estimator.probabilities(mirrored), atol=1e-6)


def test_probabilities_are_scores_under_the_prior_written_out(estimator: PixelEmotion) -> None:
    network = estimator.network
    pixels = torch.from_numpy(CROPS)[:, None].float() / 255
    with torch.no_grad():
        scores = ((network(pixels) + network(pixels.flip(3))) / 2).double().numpy()
    weight, bias = network.shapes.weight.double().numpy(), network.shapes.bias.double().numpy()
    alone, both = estimator.probabilities(list(CROPS)), estimator.probabilities(list(CROPS), SHAPES)
    for row in range(7):
        told = weight @ features(SHAPES[row]) + bias
        for got, score, temperature in ((alone, scores[row], 0.5), (both, scores[row] + told, 2.0)):
            odds = [np.exp(score[k] / temperature) * (k + 1) / 36 for k in range(8)]
            np.testing.assert_allclose(got[row], np.array(odds) / sum(odds), atol=1e-5)


def test_the_crop_frames_a_face_as_fer2013_does(face: Face) -> None:
    crop = tight_crop(face.image, face.points)
    assert (crop.shape, crop.dtype) == ((SIZE, SIZE), np.uint8)
    # The points' box, moved into the crop by hand, has its usual place there.
    low, high = face.points[:, :2].min(0), face.points[:, :2].max(0)
    side = (high - low).mean() / 0.86
    assert side / 256 == pytest.approx(0.68, abs=0.15)
    left, top = (low + high) / 2 - (0.5 * side, 0.55 * side)
    region = face.image[round(top) : round(top + side), round(left) : round(left + side)].mean(2)
    assert crop.mean() == pytest.approx(region.mean(), abs=6)  # luma is not quite the channels' mean


def test_the_crop_depends_little_on_the_images_size(face: Face) -> None:
    crops = [tight_crop(one.image, one.points).astype(float) for one in (face, face.resized(128), face.resized(512))]
    assert np.abs(crops[0] - crops[1]).mean() < 3
    assert np.abs(crops[0] - crops[2]).mean() < 3


def test_colour_grey_and_any_size(estimator: PixelEmotion, face: Face) -> None:
    small, large = face.resized(96).image, face.image
    grey = np.repeat(grey_crop(large)[:, :, None], 3, axis=2)
    emotions = estimator.estimate_crops([small, large, grey, grey_crop(large)])
    assert len(emotions) == 4
    np.testing.assert_allclose(emotions[2].vector, emotions[3].vector, atol=0.02)
    assert emotions[0].label in EMOTIONS


def test_blendshapes_are_heard_of_the_classes_named_only() -> None:
    torch.manual_seed(1)
    network = EmotionNet((8,), 1)
    network.prior.copy_(torch.arange(1, 9) / 36)
    scores = torch.randn(7, 8)
    with torch.no_grad():
        told = network.shape_scores(SHAPES)
        torch.testing.assert_close(network.joint_scores(scores, SHAPES), scores + told)
        network.shape_classes[[4, 7]] = 0
        joint = network.joint_scores(scores, SHAPES) - scores
    heard = [0, 1, 2, 3, 5, 6]
    torch.testing.assert_close(joint[:, heard], told[:, heard])
    for row in range(7):
        weights = [(k + 1) / sum(one + 1 for one in heard) for k in heard]
        mean = sum(share * float(told[row, k].exp()) for share, k in zip(weights, heard, strict=True))
        np.testing.assert_allclose(joint[row, [4, 7]], np.log(mean), atol=1e-5)
    network.shape_classes.zero_()
    assert torch.equal(network.joint_scores(scores, SHAPES), scores)


def test_a_file_from_before_the_choice_hears_all_classes(file: Path, tmp_path: Path) -> None:
    with safe_open(file, "pt") as opened:
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no dict
        metadata = opened.metadata()
    del state["shape_classes"]
    save_file(state, tmp_path / "older.safetensors", metadata)
    assert load(tmp_path / "older.safetensors").shape_classes.tolist() == [1.0] * 8


def test_the_same_face_in_other_images_is_read_alike(finder: FaceFinder, face: Face) -> None:
    """With the shipped weights: as a tight crop, in a photo, brighter, darker, grey, equalised."""
    reader = PixelEmotion()
    first = finder.find(face.image)
    told = np.array(reader.estimate([first])[0].probabilities)
    assert told.max() > 0.5  # there is something that could move
    for name, change in VARIATIONS.items():
        again = np.array(reader.estimate([finder.find(change(face.image))])[0].probabilities)
        assert np.abs(again - told).sum() / 2 < 0.15, name
    pixels = reader.probabilities([tight_crop(first.image, first.points)])[0]
    crop = np.array(reader.estimate_crops([tight_colour_crop(first)])[0].probabilities)
    assert np.abs(crop - pixels).sum() / 2 < 0.05


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((48, 48, 3), np.uint8), "all of one colour"),
        (np.full((90, 70), 255, np.uint8), "all of one colour"),
        (np.full((48, 48), np.nan), "float64 of shape"),
        (np.zeros((0, 48, 3), np.uint8), "of shape"),
        (np.zeros((48, 48, 4), np.uint8), "of shape"),
        (np.zeros((2, 48, 48, 3), np.uint8), "of shape"),
    ],
)
def test_what_is_no_crop_is_refused(estimator: PixelEmotion, image: np.ndarray, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(PhotoError, match=said):
        estimator.estimate_crops([CROPS[0], image])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_landmarks_that_say_nothing_are_refused(estimator: PixelEmotion, face: Face, value: float) -> None:
    with pytest.raises(NoFaceError, match="look for the face again"):
        estimator.estimate([dataclasses.replace(face, points=np.full_like(face.points, value))])


def test_a_wrong_weights_file_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    broken = load(file)
    broken.head.bias.data[2] = torch.nan
    save(broken, tmp_path / "nan.safetensors")
    for name, said in {
        "cut.safetensors": "damaged",
        "text.safetensors": "damaged",
        "other.safetensors": "no emotion network of this project",
        "nan.safetensors": "not finite numbers",
        "none.safetensors": "there is no emotion network",
    }.items():
        with pytest.raises(WeightsError, match=said) as error:
            PixelEmotion(tmp_path / name)
        assert name in str(error.value)
        assert issubclass(error.type, FaceCrafterError)
