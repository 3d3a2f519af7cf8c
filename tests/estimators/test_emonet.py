"""EmoNet is the published network, weight by weight; its files are checked, and its answers are emotions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from facecrafter.errors import ConfigError, FaceCrafterError, NoFaceError, PhotoError, WeightsError
from facecrafter.estimators.emonet import BROWS, OUTLINE, EmoNet, EmoNetEstimator, decode, load, tight_crop
from facecrafter.estimators.emotion_estimator import estimator_for
from facecrafter.faces.emotion import EMOTIONS, OWN, Emotion
from facecrafter.faces.face import Face

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


# --- the published definition, by rule --------------------------------------------------------------------------------


def norm(name: str, width: int) -> Shapes:
    lines = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{line}": (width,) for line in lines}, f"{name}.num_batches_tracked": ()}


def layer(name: str, outputs: int, *rest: int) -> Shapes:
    """A convolution or linear layer with a bias."""
    return {f"{name}.weight": (outputs, *rest), f"{name}.bias": (outputs,)}


def block(name: str, inputs: int, outputs: int) -> Shapes:
    widths = (inputs, outputs // 2, outputs // 4, outputs // 4)
    shapes: Shapes = {}
    for number in (1, 2, 3):
        shapes |= norm(f"{name}.bn{number}", widths[number - 1])
        shapes[f"{name}.conv{number}.weight"] = (widths[number], widths[number - 1], 3, 3)
    if inputs != outputs:
        shapes |= norm(f"{name}.downsample.0", inputs)
        shapes[f"{name}.downsample.2.weight"] = (outputs, inputs, 1, 1)
    return shapes


def published(classes: int) -> Shapes:
    shapes = layer("conv1", 64, 3, 7, 7) | norm("bn1", 64)
    shapes |= block("conv2", 64, 128) | block("conv3", 128, 128) | block("conv4", 128, 256)
    for index in (0, 1):
        parts = [f"b{part}_{level}" for level in (1, 2, 3, 4) for part in (1, 2, 3)]
        for part in [*parts, "b2_plus_1"]:
            shapes |= block(f"m{index}.{part}", 256, 256)
        shapes |= block(f"top_m_{index}", 256, 256)
        shapes |= layer(f"conv_last{index}", 256, 256, 1, 1) | norm(f"bn_end{index}", 256)
        shapes |= layer(f"l{index}", 68, 256, 1, 1)
    shapes |= layer("bl0", 256, 256, 1, 1) | layer("al0", 256, 68, 1, 1)
    shapes |= layer("conv1x1_input_emo_2", 256, 768, 1, 1)
    for index in (0, 2, 4, 6):
        shapes |= block(f"emo_net_2.{index}", 256, 256)
    return shapes | layer("emo_fc_2.0", 128, 256) | norm("emo_fc_2.1", 128) | layer("emo_fc_2.3", classes + 2, 128)


# The published files are 56,087,163 and 56,085,615 bytes long: these numbers in float32, and 106 kB of names.
NUMBERS = {8: (13_963_410, 13_995_282), 5: (13_963_023, 13_994_895)}


@pytest.mark.parametrize("classes", NUMBERS)
def test_names_and_shapes_are_the_published_ones(classes: int) -> None:
    with torch.device("meta"):
        network = EmoNet(classes)
    state = network.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == published(classes)
    floats = sum(value.numel() for value in state.values() if value.is_floating_point())
    assert (sum(value.numel() for value in network.parameters()), floats) == NUMBERS[classes]
    assert len(state) == 682


def reference(state: State, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The published forward pass, function by function from the names of the weights."""

    def normed(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{line}"] for line in ("running_mean", "running_var", "weight", "bias")
        )
        shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
        x = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + 1e-5)
        return F.relu(x * weight.view(shape) + bias.view(shape))

    def conv(name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    def convs(name: str, x: Tensor) -> Tensor:
        one = conv(f"{name}.conv1", normed(f"{name}.bn1", x), padding=1)
        two = conv(f"{name}.conv2", normed(f"{name}.bn2", one), padding=1)
        three = conv(f"{name}.conv3", normed(f"{name}.bn3", two), padding=1)
        if f"{name}.downsample.2.weight" in state:
            x = conv(f"{name}.downsample.2", normed(f"{name}.downsample.0", x))
        return torch.cat([one, two, three], 1) + x

    def hourglass(name: str, level: int, x: Tensor) -> Tensor:
        low = convs(f"{name}.b2_{level}", F.max_pool2d(x, 2))
        low = hourglass(name, level - 1, low) if level > 1 else convs(f"{name}.b2_plus_1", low)
        low = convs(f"{name}.b3_{level}", low)
        return convs(f"{name}.b1_{level}", x) + low.repeat_interleave(2, 2).repeat_interleave(2, 3)

    x = normed("bn1", conv("conv1", pixels, stride=2, padding=3))
    x = convs("conv4", convs("conv3", F.max_pool2d(convs("conv2", x), 2)))
    first = convs("top_m_0", hourglass("m0", 4, x))
    first = normed("bn_end0", conv("conv_last0", first))
    carried = conv("bl0", first)
    second = convs("top_m_1", hourglass("m1", 4, x + carried + conv("al0", conv("l0", first))))
    second = normed("bn_end1", conv("conv_last1", second))
    heat = conv("l1", second)
    mask = heat.sum(1, keepdim=True)
    y = conv("conv1x1_input_emo_2", torch.cat([x, carried * mask, second * mask], 1))
    for index in (0, 2, 4, 6):
        y = F.max_pool2d(convs(f"emo_net_2.{index}", y), 2)
    y = F.linear(y.mean((2, 3)), state["emo_fc_2.0.weight"], state["emo_fc_2.0.bias"])
    return heat, F.linear(normed("emo_fc_2.1", y), state["emo_fc_2.3.weight"], state["emo_fc_2.3.bias"])


@pytest.fixture(scope="module")
def state() -> State:
    """Random weights of 8 classes; the norms' statistics and scales are random too, so that none can be passed over."""
    torch.manual_seed(0)
    state = EmoNet(8).state_dict()
    for name, value in state.items():
        if name.removesuffix("running_var") != name or (name.endswith("weight") and value.ndim == 1):
            value.uniform_(0.5, 1.5)
        elif name.endswith("running_mean") or (name.endswith("bias") and f"{name[:-4]}running_mean" in state):
            value.normal_(std=0.2)
    return state


@pytest.fixture(scope="module")
def file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("emonet") / "emonet_8.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def estimator(file: Path) -> EmoNetEstimator:
    return EmoNetEstimator(file, batch=2)


@pytest.fixture(scope="module")
def crops() -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8))


def same(one: Emotion, other: Emotion) -> None:
    np.testing.assert_allclose(one.vector, other.vector, atol=1e-5)


def test_the_forward_pass_is_the_published_one(state: State, estimator: EmoNetEstimator) -> None:
    pixels = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        output = estimator.network(pixels)
        heat, scores = reference(state, pixels)
    assert output.heatmaps.shape == (1, 68, 64, 64) and output.scores.shape == (1, 10)
    torch.testing.assert_close(output.heatmaps, heat, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.scores, scores, rtol=1e-4, atol=1e-4)


def test_one_alone_is_the_same_as_in_a_batch(estimator: EmoNetEstimator, crops: list[NDArray[np.uint8]]) -> None:
    together = estimator.estimate_crops(crops)  # a batch of two, and one
    assert len(together) == 3 and together[0] != together[1]
    assert estimator.estimate_crops(crops) == together
    same(estimator.estimate_crops(crops[:1])[0], together[0])
    same(estimator.estimate_crops(crops[::-1])[2], together[0])
    assert estimator.estimate([]) == estimator.estimate_crops([]) == []


def of_five(state: State) -> State:
    """The same weights as a network of five classes: the last layer's rows for those, and for valence and arousal."""
    rows = [0, 1, 2, 3, 6, 8, 9]
    return state | {name: state[name][rows] for name in ("emo_fc_2.3.weight", "emo_fc_2.3.bias")}


@pytest.mark.parametrize("classes", [8, 5])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_saved_network_comes_back(classes: int, prefix: str, state: State, tmp_path: Path) -> None:
    saved = state if classes == 8 else of_five(state)
    extra = {} if prefix else {"emo_net_1.weight": torch.zeros(3)}
    torch.save({f"{prefix}{name}": value for name, value in (saved | extra).items()}, tmp_path / "emonet.pth")
    network = load(tmp_path / "emonet.pth")
    assert (network.classes, network.training) == (classes, False)
    assert not any(value.requires_grad for value in network.parameters())
    loaded = network.state_dict()
    assert set(loaded) == set(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_files_without_batch_counts_in_half_precision_load(state: State, tmp_path: Path) -> None:
    kept = {name: value.half() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(kept, tmp_path / "emonet.pth")
    loaded = load(tmp_path / "emonet.pth").state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in kept.items())


def test_the_estimator_says_which_file_it_has(estimator: EmoNetEstimator, state: State, tmp_path: Path) -> None:
    torch.save(of_five(state), tmp_path / "any.pth")
    assert (estimator.name, EmoNetEstimator(tmp_path / "any.pth").name) == ("emonet_8", "emonet_5")


# --- wrong files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [(None, False, OWN), (OWN, False, OWN), (None, True, "emonet_8"), ("emonet_8", True, "emonet_8")],
)
def test_the_estimator_of_a_name(name: str | None, given: bool, expected: str, file: Path) -> None:
    assert estimator_for(name, file if given else None).name == expected


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        (OWN, True, "the model learned emotions from the project's own estimator; leave --emonet out"),
        ("emonet_8", False, "learned emotions from emonet_8, .* give it with --emonet emonet_8.pth"),
        ("emonet_5", True, r"learned emotions from emonet_5, and .*emonet_8\.pth is emonet_8; give emonet_5.pth"),
        ("hsemotion", False, "learned emotions from 'hsemotion', an estimator that this version does not know"),
    ],
)
def test_another_estimator_than_the_needed_one_is_refused(name: str, given: bool, words: str, file: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        estimator_for(name, file if given else None)


def hollow(classes: int = 8, **changed: object) -> dict[str, object]:
    """A state of the right names and shapes that is small on disk: each tensor is one number, repeated."""
    state: dict[str, object] = {name: torch.zeros(()).expand(shape) for name, shape in published(classes).items()}
    return state | changed


def without(*names: str) -> dict[str, object]:
    return {name: value for name, value in hollow().items() if name not in names}


def saved(content: object) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


class Trap:
    """What a pickle may run when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (eval, ("open('sprung', 'w').close()",))


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: None, "there is no EmoNet file"),
    "a folder": (Path.mkdir, "there is no EmoNet file"),
    "an empty file": (Path.touch, "is damaged, or is no file of PyTorch weights"),
    "words": (lambda path: path.write_text("hello"), "is damaged, or is no file of PyTorch weights"),
    "code": (saved({"conv1.weight": Trap()}), "is a pickle with objects of other programs (eval)"),
    "a list": (saved([torch.zeros(3)]), "holds something else than named weights"),
    "a checkpoint around it": (saved({"state_dict": hollow()}), "holds something else than named weights"),
    "numbers for names": (saved({1: torch.zeros(3)}), "holds something else than named weights"),
    "another network": (saved({"conv1.weight": torch.zeros(3)}), "its last layer is not one of 8 or 5 classes"),
    "seven classes": (saved(hollow(7)), "its last layer is not one of 8 or 5 classes"),
    "one missing": (saved(without("l1.bias")), "1 of 682 weights are missing, l1.bias the first"),
    "norms missing": (saved(without("bn1.running_mean", "bn1.running_var")), "2 of 682 weights are missing"),
    "another shape": (
        saved(hollow(**{"al0.bias": torch.zeros(255)})),
        "al0.bias has the shape (255,) in place of (256,)",
    ),
    "last layers that disagree": (
        saved(hollow(**{"emo_fc_2.3.bias": torch.zeros(7)})),
        "emo_fc_2.3.weight has the shape (10, 128) in place of (7, 128)",
    ),
    "not a number": (saved(hollow(**{"bn1.bias": torch.full((64,), torch.nan)})), "bn1.bias has values that are not"),
    "infinite": (saved(hollow(**{"bn1.bias": torch.full((64,), torch.inf)})), "bn1.bias has values that are not"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, words = WRONG[case]
    monkeypatch.chdir(tmp_path)
    make(Path("emonet.pth"))
    with pytest.raises(WeightsError) as raised:
        EmoNetEstimator(Path("emonet.pth"))
    told = str(raised.value)
    assert words in told and "emonet.pth" in told and "\n" not in told and not told.endswith(".")
    assert told.endswith("give the published emonet_8.pth or emonet_5.pth, whole")
    assert not Path("sprung").exists()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_damaged(share: float, file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=r"half\.pth is damaged"):
        load(tmp_path / "half.pth")


def test_weights_that_overflow_are_named(tmp_path: Path, crops: list[NDArray[np.uint8]]) -> None:
    torch.save(hollow(**{"emo_fc_2.3.bias": torch.full((10,), 3e38), "emo_fc_2.0.bias": torch.full((128,), 3e38),
                         "emo_fc_2.1.weight": torch.full((128,), 3e38)}), tmp_path / "emonet.pth")  # fmt: skip
    with pytest.raises(WeightsError, match=r"emonet\.pth answers with values that are not finite"):
        EmoNetEstimator(tmp_path / "emonet.pth").estimate_crops(crops[:1])


# --- answers ----------------------------------------------------------------------------------------------------------


def test_scores_of_eight_classes() -> None:
    (emotion,) = decode(np.log([[0.05, 0.5, 0.1, 0.05, 0.1, 0.1, 0.05, 0.05, np.exp(0.25), np.exp(-0.5)]]))
    assert emotion.probabilities == pytest.approx((0.05, 0.5, 0.1, 0.05, 0.1, 0.1, 0.05, 0.05))
    assert (emotion.valence, emotion.arousal) == pytest.approx((0.25, -0.5))


FIVE = ("neutral", "happy", "sad", "surprise", "anger")


@pytest.mark.parametrize("names", [EMOTIONS, FIVE])
def test_every_score_is_the_class_of_its_name(names: tuple[str, ...]) -> None:
    scores = np.concatenate([5 * np.eye(len(names)), np.zeros((len(names), 2))], 1)
    emotions = decode(scores.astype(np.float32))
    assert tuple(emotion.label for emotion in emotions) == names
    for emotion in emotions:
        known = [share for name, share in zip(EMOTIONS, emotion.probabilities, strict=True) if name in names]
        assert min(known) > 0 and sum(known) == pytest.approx(1)
        assert sum(emotion.probabilities) == pytest.approx(1)


def test_extreme_scores_stay_in_range() -> None:
    (emotion,) = decode(np.array([[1e30, -1e30, 0, 0, 0, 1.7, -40]], np.float32))
    assert emotion == Emotion(1.0, -1.0, (1.0, 0, 0, 0, 0, 0, 0, 0))


def test_a_face_is_read_at_any_aligned_size(estimator: EmoNetEstimator, face: Face) -> None:
    (emotion,) = estimator.estimate([face])
    assert emotion == estimator.estimate_crops([tight_crop(face)])[0]
    large = np.abs(tight_crop(face.resized(512)).astype(int) - tight_crop(face)).mean()
    small = np.abs(tight_crop(face.resized(128)).astype(int) - tight_crop(face)).mean()
    assert large < 2 and small < 5


def test_the_crop_is_a_square_around_brows_and_chin(face: Face) -> None:
    """On an image whose colours are its coordinates, the crop's colours say where it was cut."""
    ramp = np.arange(256, dtype=np.uint8)
    image = np.stack([np.tile(ramp, (256, 1)), np.tile(ramp[:, None], (1, 256)), np.zeros((256, 256), np.uint8)], 2)
    crop = tight_crop(dataclasses.replace(face, image=image)).astype(float)
    points = face.points[[*OUTLINE, *BROWS], :2]
    box, middle = points.max(0) - points.min(0), (points.max(0) + points.min(0)) / 2
    side = box.sum() / 1.1
    places = middle[None] + (np.array([[64.5, 100.5], [128.5, 128.5], [180.5, 150.5]]) / 256 - 0.5) * side - 0.5
    seen = np.stack([crop[100, 64, :2], crop[128, 128, :2], crop[150, 180, :2]])
    np.testing.assert_allclose(seen, places, atol=0.6)
    forehead = face.points[10, 1]
    assert points[:, 1].min() > forehead and points[:, 1].max() == face.points[:, 1].max()


def test_beyond_the_image_its_edge_is_repeated(face: Face) -> None:
    lower = dataclasses.replace(face, points=face.points + np.array([0, 100, 0], np.float32))
    crop = tight_crop(lower)
    assert (crop[-20:] == crop[-1]).all()
    assert crop[-1].std() > 5


def test_wide_crops_are_stretched(estimator: EmoNetEstimator, crops: list[NDArray[np.uint8]]) -> None:
    large = [np.asarray(Image.fromarray(crop).resize((512, 512), Image.Resampling.NEAREST)) for crop in crops[:1]]
    wide = np.repeat(large[0], 2, axis=1)
    square, stretched = estimator.estimate_crops([large[0], wide])
    np.testing.assert_allclose(square.vector, stretched.vector, atol=2e-3)  # pixels are rounded along the way


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_landmarks_that_are_no_numbers(value: float, estimator: EmoNetEstimator, face: Face) -> None:
    points = face.points.copy()
    points[OUTLINE[3], 0] = value
    with pytest.raises(NoFaceError, match="not finite"):
        estimator.estimate([face, dataclasses.replace(face, points=points)])


def test_landmarks_in_one_place(face: Face) -> None:
    with pytest.raises(NoFaceError, match="all in one place"):
        tight_crop(dataclasses.replace(face, points=np.full_like(face.points, 128)))


BAD_CROPS = {
    "floats with NaN": np.full((48, 48, 3), np.nan),
    "grey": np.zeros((48, 48), np.uint8),
    "four channels": np.zeros((48, 48, 4), np.uint8),
    "no pixels": np.zeros((0, 48, 3), np.uint8),
}


@pytest.mark.parametrize("what", BAD_CROPS)
def test_crops_of_another_kind(what: str, estimator: EmoNetEstimator) -> None:
    crop = BAD_CROPS[what]
    with pytest.raises(FaceCrafterError, match=str(crop.dtype)) as raised:
        estimator.estimate_crops([crop])
    assert raised.type is PhotoError and str(crop.shape) in str(raised.value)
