"""Equation 6 against its four terms as the paper writes them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from facecrafter.errors import ConfigError
from facecrafter.sampling.guidance import Guidance, combine, given_to
from facecrafter.training.losses import diffusion_target

PREDICTIONS = ("none", "identity", "landmark", "emotion")
SCALES = [
    (2.5, 2.0, 2.0),
    (1.0, 0.0, 0.0),
    (0.0, 0.0, 0.0),
    (-1.5, 0.3, 7.0),
    (3.0, 2.0, 1.0),
    (1.0, 1.0, 0.0),
    (2.0, 0.0, 2.0),
]


def four_predictions(batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, 2, 3, 3, generator=generator, dtype=torch.float64) for name in PREDICTIONS}


def equation_6(e: dict[str, Tensor], w_id: float, w_lmk: float, w_emo: float) -> Tensor:
    """e() + w_ID (e(ID) - e()) + w_LMK (e(ID, LMK) - e(ID)) + w_EMO (e(ID, EMO) - e(ID)), number by number."""
    out = torch.empty_like(e["none"])
    flat = {name: value.flatten().tolist() for name, value in e.items()}
    for i in range(out.numel()):
        none, identity, landmark, emotion = (flat[name][i] for name in PREDICTIONS)
        out.view(-1)[i] = none + w_id * (identity - none) + w_lmk * (landmark - identity) + w_emo * (emotion - identity)
    return out


def scaled(identity: float, landmark: float, emotion: float) -> Guidance:
    return Guidance(identity, {"landmark": landmark, "emotion": emotion})


def names(landmark: bool, emotion: bool) -> list[str]:
    return ["landmark"] * landmark + ["emotion"] * emotion


def by_us(e: dict[str, Tensor], guidance: Guidance, landmark: bool = True, emotion: bool = True) -> Tensor:
    coefficients = guidance.coefficients(names(landmark, emotion))
    return combine(torch.cat([e[name] for name in coefficients]), coefficients)


@pytest.mark.parametrize("scales", SCALES)
def test_equation_6_is_its_four_terms(scales: tuple[float, float, float]) -> None:
    e = four_predictions()
    torch.testing.assert_close(by_us(e, scaled(*scales)), equation_6(e, *scales), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("landmark", "emotion"), [(True, False), (False, True), (False, False)])
def test_a_condition_that_is_not_given_counts_as_scale_zero(landmark: bool, emotion: bool) -> None:
    e = four_predictions()
    expected = equation_6(e, 2.5, 2.0 * landmark, 1.5 * emotion)
    torch.testing.assert_close(by_us(e, scaled(2.5, 2.0, 1.5), landmark, emotion), expected, rtol=0, atol=1e-12)
    missing = {name for name, given in (("landmark", landmark), ("emotion", emotion)) if not given}
    assert not missing & scaled(2.5, 2.0, 1.5).coefficients(names(landmark, emotion)).keys()


@pytest.mark.parametrize(
    ("scales", "given", "needed"),
    [
        ((2.5, 2.0, 2.0), (True, True), ("none", "identity", "landmark", "emotion")),
        ((2.5, 2.0, 2.0), (False, False), ("none", "identity")),
        ((2.5, 0.0, 2.0), (True, True), ("none", "identity", "emotion")),
        ((2.5, 2.0, 0.0), (True, True), ("none", "identity", "landmark")),
        ((2.0, 2.0, 0.0), (True, True), ("none", "landmark")),
        ((1.0, 1.0, 0.0), (True, True), ("landmark",)),
        ((1.0, 0.0, 0.0), (True, True), ("identity",)),
        ((0.0, 0.0, 0.0), (True, True), ("none",)),
        ((1.0, 2.0, 0.0), (True, False), ("identity", "landmark")),
    ],
)
def test_only_what_has_a_weight_is_predicted(
    scales: tuple[float, float, float], given: tuple[bool, bool], needed: tuple[str, ...]
) -> None:
    coefficients = scaled(*scales).coefficients(names(*given))
    assert tuple(coefficients) == needed
    assert 0 not in coefficients.values()


@pytest.mark.parametrize("scales", SCALES)
def test_the_weights_sum_to_one(scales: tuple[float, float, float]) -> None:
    assert sum(scaled(*scales).coefficients(names(True, True)).values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("alpha_bar", [0.999, 0.5, 0.01])
def test_guiding_velocities_is_guiding_noise(alpha_bar: float) -> None:
    """v = sqrt(a) e - sqrt(1 - a) x0 with x0 read from the same noisy latents: Eq. 6 commutes with it."""
    e, guidance = four_predictions(), scaled(2.5, 2.0, -0.5)
    noisy = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a = torch.full((3,), alpha_bar, dtype=torch.float64)

    def velocity(noise: Tensor) -> Tensor:
        clean = (noisy - math.sqrt(1 - alpha_bar) * noise) / math.sqrt(alpha_bar)
        return diffusion_target("v_prediction", clean, noise, a)

    guided = by_us({name: velocity(noise) for name, noise in e.items()}, guidance)
    torch.testing.assert_close(guided, velocity(by_us(e, guidance)), rtol=0, atol=1e-10)


def test_the_defaults_are_the_papers() -> None:
    assert (Guidance().identity, Guidance().controls) == (2.5, {"landmark": 2.0, "emotion": 2.0})
    assert Guidance(1.0, {"emotion": 3.0}).controls == {"landmark": 2.0, "emotion": 3.0}


@pytest.mark.parametrize("name", ["identity", "landmark", "emotion"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_scale_that_is_no_number_is_refused_by_its_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"the {name} scale must be a number, not {value}"):
        Guidance(value) if name == "identity" else Guidance(controls={name: value})


def test_a_scale_of_no_control_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no control 'gaze'; there are landmark, emotion"):
        Guidance(controls={"gaze": 1.0})


def test_predictions_are_named_by_what_they_are_given() -> None:
    assert given_to("none") == ()
    assert given_to("identity") == ("identity",)
    assert given_to("landmark+emotion") == ("identity", "landmark", "emotion")
