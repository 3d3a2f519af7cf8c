"""The deep autoencoder: its shapes, its straight paths, its latents, and that a model takes its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from facecrafter.errors import CheckpointError
from facecrafter.models import checkpoint, scales
from facecrafter.models.autoencoder import FaceAutoencoder
from facecrafter.models.deep_autoencoder import DeepAutoencoder, Down, Up

SMALL: dict[str, Any] = {
    "size": 64, "latent_channels": 6, "widths": (8, 16, 16), "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "factor", "latents"),
    [
        ({}, 32, (64, 8, 8)),
        ({"latent_channels": 32}, 32, (32, 8, 8)),
        ({"widths": (64, 128, 256), "encoder_blocks": (1, 1, 2), "decoder_blocks": (1, 2, 3), "latent_channels": 16,
          "fold": 2}, 32, (64, 8, 8)),
        (SMALL, 16, (6, 4, 4)),
    ],
)  # fmt: skip
def test_images_become_latents_and_back(settings: dict[str, Any], factor: int, latents: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = DeepAutoencoder(**settings)
        size = model.config.size
        found = model.encode(torch.empty(2, 3, size, size)).latent_dist.mode()
        made = model.decode(found).sample
    assert (model.factor, model.latent_shape(size)) == (factor, latents)
    assert found.shape == (2, *latents)
    assert made.shape == (2, 3, size, size)


def test_the_parts_of_mini_at_256_px_fit_into_90_megabytes() -> None:
    with torch.device("meta"):
        autoencoder = DeepAutoencoder()
        scale = scales.fitting(scales.MINI, autoencoder)
        unet = scales.build_unet(scale)
        parts = [autoencoder, unet, scales.build_controls(scale, unet), scales.build_encoder(scale).text_model]
        former = sum(one.numel() for one in scales.build_unet(scales.MINI).parameters())
    numbers = sum(one.numel() for part in parts for one in part.parameters())
    student = 1.2e6  # of the guidance's distillation
    assert 2 * (numbers + student) < 90e6
    own = sum(one.numel() for one in unet.parameters())
    assert own < 1.01 * former  # a prediction costs what it did


def test_straight_paths_average_and_repeat() -> None:
    down, up = Down(2, 4), Up(4, 2)
    for layer in (down.conv, up.conv):
        torch.nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        torch.nn.init.zeros_(layer.bias)
    x = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    folded = down(x)
    # The eight numbers of two channels in 2 x 2 pixels, in pairs.
    assert folded[0, :, 0, 0].tolist() == [0.5, 4.5, 16.5, 20.5]
    unfolded = up(folded)
    assert unfolded.shape == x.shape
    # Each channel twice, which fills two of four pixels of a channel.
    assert unfolded[0, 0, :2, :2].tolist() == [[0.5, 0.5], [4.5, 4.5]]
    assert unfolded[0, 1, :2, :2].tolist() == [[16.5, 16.5], [20.5, 20.5]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder_blocks": (1, 1)}, "one length"),
        ({"widths": (8, 16, 24)}, "a multiple of the next"),
        ({"size": 72}, "multiple of 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DeepAutoencoder(**{**SMALL, **changes})


@pytest.mark.parametrize("fold", [1, 2])
def test_standardised_latents_decode_to_the_same_image(fold: int) -> None:
    torch.manual_seed(0)
    model = DeepAutoencoder(**{**SMALL, "fold": fold}).eval()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        before = model.decode(model.encode(images).latent_dist.mode()).sample
        latents = model.encoder(images)
        model.standardise(latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
        again = model.encoder(images)
        after = model.decode(model.encode(images).latent_dist.mode()).sample
    assert again.mean((0, 2, 3)).abs().max() < 1e-4
    assert (again.std((0, 2, 3)) - 1).abs().max() < 1e-4
    inner = (..., slice(24, 40), slice(24, 40)) if fold == 1 else (..., slice(28, 36), slice(28, 36))
    torch.testing.assert_close(after[inner], before[inner], atol=2e-2, rtol=1e-2)


def test_a_folder_says_by_its_autoencoder_how_large_its_images_are(small_scale: scales.Scale, tmp_path: Path) -> None:
    autoencoder = DeepAutoencoder(**SMALL)
    scale = scales.fitting(small_scale, autoencoder)
    unet = scales.build_unet(scale)
    model = checkpoint.FaceModel(scale, unet, scales.build_encoder(scale), autoencoder)
    checkpoint.save_model(model, tmp_path, torch.float16)
    loaded = checkpoint.load_model(tmp_path)
    assert (loaded.scale.name, loaded.scale.size) == ("mini", 64)
    assert loaded.unet.config.in_channels == 6
    assert isinstance(loaded.autoencoder, DeepAutoencoder)
    assert checkpoint.image_size(tmp_path) == 64
    assert checkpoint.image_size(tmp_path / "none") is None
    former = FaceAutoencoder()
    assert scales.fitting(scales.MINI, former) is scales.MINI


def test_parts_are_copied_in_another_type(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    checkpoint.save_part(DeepAutoencoder(**SMALL), tmp_path / "a" / "x.safetensors", "autoencoder", "mini")
    checkpoint.copy_parts(tmp_path / "a", tmp_path / "b", torch.float16)
    half = (tmp_path / "b" / "x.safetensors").stat().st_size
    assert half < 0.6 * (tmp_path / "a" / "x.safetensors").stat().st_size
    (tmp_path / "a" / "y.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.copy_parts(tmp_path / "a", tmp_path / "b", torch.float16)
