"""The control modules: what they turn conditions into, and that nothing is computed for a condition that is off."""

from __future__ import annotations

import math

import pytest
import torch

from facecrafter.controls import CONTROLS
from facecrafter.models import scales
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.controls import FaceControls, branches
from facecrafter.models.emotion_module import EmotionModule
from facecrafter.models.landmark_module import LandmarkModule, places


@pytest.fixture(scope="module")
def controls(small_model: FaceModel) -> FaceControls:
    assert small_model.controls is not None
    return small_model.controls


@pytest.mark.parametrize("condition", CONTROLS)
def test_keys_and_values_have_a_pair_for_each_block(condition: str, tiny_model: FaceModel) -> None:
    controls = tiny_model.controls
    assert controls is not None
    value = torch.rand(2, 3, 128, 128) if condition == "landmark" else torch.rand(2, 10)
    pairs = controls.keys_values(condition, value)
    tokens = {"landmark": 64, "emotion": 4}[condition]
    assert [(key.shape, val.shape) for key, val in pairs] == [((2, tokens, 256), (2, tokens, 256))] * 4


def test_the_parts_of_the_conditions_are_all_there_is_and_share_nothing(controls: FaceControls) -> None:
    parts = {name: {id(p) for module in controls.parts(name) for p in module.parameters()} for name in CONTROLS}
    assert not parts["landmark"] & parts["emotion"]
    assert parts["landmark"] | parts["emotion"] == {id(p) for p in controls.parameters()}


def test_projections_have_no_bias_and_fresh_values_are_zero(small_model: FaceModel) -> None:
    fresh = scales.build_controls(small_model.scale, small_model.unet)
    for name in CONTROLS:
        _, keys, values = fresh.parts(name)
        assert all(layer.bias is None for layer in (*keys, *values))
        assert all(layer.weight.count_nonzero() == 0 for layer in values)
        assert all(layer.weight.count_nonzero() > 0 for layer in keys)


@pytest.mark.parametrize(
    ("weights", "rows"),
    [([0.0, 0.0, 0.0], []), ([1.0, 0.0, -2.0], [0, 2]), ([0.0, 1e-6, 0.0], [1]), ([1.0, 2.0, 3.0], [0, 1, 2])],
)
def test_a_branch_reads_only_the_samples_it_is_on_for(
    weights: list[float], rows: list[int], controls: FaceControls
) -> None:
    emotion = torch.rand(3, 10)
    emotion[[row for row in range(3) if row not in rows]] = math.nan  # NaN would spread if it were read
    branch = controls.branch("emotion", emotion, torch.tensor(weights))
    if not rows:
        assert branch is None
        return
    assert branch is not None
    assert branch.rows.tolist() == rows
    assert branch.weights.tolist() == torch.tensor(weights)[rows].tolist()
    assert all(part.shape[0] == len(rows) and part.isfinite().all() for pair in branch.keys_values for part in pair)
    for row, of_branch in enumerate(rows):
        alone = controls.keys_values("emotion", emotion[of_branch : of_branch + 1])
        for pair, expected in zip(branch.keys_values, alone, strict=True):
            # One row and three take other matrix kernels.
            torch.testing.assert_close(pair[0][row], expected[0][0], rtol=0, atol=1e-5)
            torch.testing.assert_close(pair[1][row], expected[1][0], rtol=0, atol=1e-5)


def test_only_landmarks_have_a_place(controls: FaceControls) -> None:
    values = {"landmark": torch.rand(1, 3, 128, 128), "emotion": torch.rand(1, 10)}
    landmark, emotion = branches(controls, values, {name: torch.ones(1) for name in values})
    assert landmark.place_sigma == 0.12
    assert emotion.place_sigma is None
    (only,) = branches(controls, {"emotion": values["emotion"]}, {"emotion": torch.ones(1)})
    assert torch.equal(only.keys_values[0][0], emotion.keys_values[0][0])


def test_landmark_tokens_are_the_places_of_the_image_in_rows() -> None:
    torch.manual_seed(0)
    module = LandmarkModule((3, 8, 8, 8, 8), (2, 2, 2, 2)).requires_grad_(False)
    image = torch.zeros(1, 3, 64, 64)
    image[0, :, 22:26, 54:58] = 1.0  # in row 1, column 3 of 4 x 4
    difference = (module(image) - module(torch.zeros_like(image))).abs().sum(2)[0]
    assert difference.argmax() == 1 * 4 + 3
    assert difference[[0, 4, 8, 12, 13]].count_nonzero() == 0  # the kernels reach the neighbours at most


def test_places_are_told_apart_and_lie_within_one() -> None:
    grid = places(8, 8, 256)
    assert grid.shape == (64, 256)
    assert grid.abs().max() <= 1
    distances = torch.cdist(grid, grid) + torch.eye(64) * 99
    assert distances.min() > 1
    assert torch.equal(places(4, 4, 30)[:, 28:], torch.zeros(16, 2))  # what does not divide by 4 is left at zero


def test_emotion_tokens_are_normalised_and_differ_by_emotion() -> None:
    torch.manual_seed(0)
    tokens = EmotionModule(16, 3, 32)(torch.eye(10))
    assert tokens.shape == (10, 3, 32)
    assert tokens.mean(-1).abs().max() < 1e-5
    torch.testing.assert_close(tokens.var(-1, correction=0), torch.ones(10, 3), rtol=0, atol=1e-2)
    assert (torch.cdist(tokens.flatten(1), tokens.flatten(1)) + torch.eye(10)).min() > 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"landmark_channels": (3, 8, 16), "landmark_strides": (2, 2)}, "ends at 16 channels, not the context's 256"),
        (
            {"landmark_channels": (3, 8, 256), "landmark_strides": (2, 2, 2)},
            "2 convolutions need as many strides, not 3",
        ),
    ],
)
def test_networks_that_do_not_fit_together_are_refused(settings: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FaceControls(block_widths=[8], **settings)
