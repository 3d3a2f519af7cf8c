"""Both scales are the same classes; the larger one has the parameters that the paper counts."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from facecrafter.models import scales
from facecrafter.models.attention import ConditionedAttention, cross_attention_widths
from facecrafter.models.autoencoder import FaceAutoencoder
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.controls import FaceControls, parameter_count


@pytest.fixture(scope="module")
def arc2face() -> tuple[nn.Module, FaceControls]:
    return scales.on_meta(scales.ARC2FACE)


def test_the_landmark_path_has_the_papers_11_7_million(arc2face: tuple[nn.Module, FaceControls]) -> None:
    landmark, keys, values = arc2face[1].parts("landmark")
    assert parameter_count([landmark]) == 5_313_792
    assert parameter_count([keys, values]) == 6_389_760
    total = parameter_count([landmark, keys, values])
    assert total == 11_703_552
    assert f"{total / 1e6:.1f}" == "11.7"


def test_both_modules_have_the_papers_18_million(arc2face: tuple[nn.Module, FaceControls]) -> None:
    assert round(parameter_count([arc2face[1]]) / 1e6) == 18
    assert parameter_count(arc2face[1].parts("landmark")) + parameter_count(
        arc2face[1].parts("emotion")
    ) == parameter_count([arc2face[1]])


def test_the_base_is_stable_diffusion_1_5(arc2face: tuple[nn.Module, FaceControls]) -> None:
    unet = arc2face[0]
    assert parameter_count([unet]) == 859_520_964
    widths = cross_attention_widths(unet)
    assert len(widths) == 16
    assert sum(widths) == 12_480
    assert next(unet.parameters()).is_meta
    assert all(isinstance(processor, ConditionedAttention) for processor in unet.attn_processors.values())


def test_arc2face_landmarks_give_64_tokens() -> None:
    with torch.device("meta"):
        unet, controls = scales.on_meta(scales.ARC2FACE)
        pairs = controls.keys_values("landmark", torch.empty(2, 3, 512, 512))
    assert [key.shape for key, _ in pairs] == [(2, 64, width) for width in cross_attention_widths(unet)]


def test_the_mini_scale_takes_the_same_classes(tiny_model: FaceModel) -> None:
    arc2face_unet, arc2face_controls = scales.on_meta(scales.ARC2FACE)
    assert type(tiny_model.unet) is type(arc2face_unet)
    assert type(tiny_model.controls) is type(arc2face_controls)
    assert parameter_count([tiny_model.unet]) == 22_865_184


def test_each_scale_has_its_autoencoder_and_both_answer_the_same_calls() -> None:
    mini = scales.build_autoencoder(scales.MINI)
    with torch.device("meta"):
        large = scales.build_autoencoder(scales.ARC2FACE)
    assert isinstance(mini, FaceAutoencoder)
    assert isinstance(large, AutoencoderKL)
    for autoencoder, scale in ((mini, scales.MINI), (large, scales.ARC2FACE)):
        image = torch.empty(1, 3, scale.size, scale.size, device=autoencoder.device)
        latents = autoencoder.encode(image).latent_dist.mode()
        side = scale.unet["sample_size"]
        assert latents.shape == (1, scale.unet.get("in_channels", 4), side, side)
        assert autoencoder.decode(latents).sample.shape == image.shape
    assert large.config.scaling_factor == 0.18215


@pytest.mark.parametrize("scale", scales.SCALES.values(), ids=lambda scale: scale.name)
def test_the_networks_of_a_scale_fit_together(scale: scales.Scale) -> None:
    assert scale.text["hidden_size"] == scale.unet["cross_attention_dim"]
    assert scale.embedding <= int(scale.text["hidden_size"])  # type: ignore[call-overload]
    assert scale.text["max_position_embeddings"] == scale.length
    assert len(scale.prompt) < scale.length
    assert max(*scale.prompt, scale.end) < int(scale.text["vocab_size"])  # type: ignore[call-overload]
    assert scale.controls["scale"] == scale.name
    assert scales.SCALES[scale.name] is scale
