"""The mini autoencoder: shapes, its fixed noise, and the fold that standardises its latents."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from facecrafter.models.autoencoder import FaceAutoencoder, ResidualBlock


@pytest.fixture
def autoencoder() -> FaceAutoencoder:
    torch.manual_seed(0)
    made = FaceAutoencoder(latent_channels=4, widths=(16, 24), blocks=(1, 1)).requires_grad_(False).eval()
    for block in made.modules():
        if isinstance(block, ResidualBlock):
            torch.nn.init.normal_(block.conv2.weight, std=0.05)
    return made


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 64), (32, 48)])
def test_a_image_becomes_a_sixteenth_and_comes_back(height: int, width: int, autoencoder: FaceAutoencoder) -> None:
    image = torch.rand(2, 3, height, width) * 2 - 1
    latents = autoencoder.encode(image).latent_dist
    assert latents.mode().shape == (2, 16, height // 16, width // 16)
    assert autoencoder.decode(latents.mode()).sample.shape == image.shape


@pytest.mark.parametrize(("height", "width"), [(40, 48), (8, 8), (16, 20)])
def test_a_side_that_16_does_not_divide_is_refused(height: int, width: int, autoencoder: FaceAutoencoder) -> None:
    with pytest.raises(RuntimeError):
        autoencoder.encode(torch.zeros(1, 3, height, width))


def test_the_posterior_has_the_same_deviation_everywhere(autoencoder: FaceAutoencoder) -> None:
    posterior = autoencoder.encode(torch.rand(1, 3, 32, 32)).latent_dist
    torch.testing.assert_close(posterior.std, torch.full_like(posterior.std, 0.1))
    drawn = autoencoder.encode(torch.rand(64, 3, 32, 32)).latent_dist
    noise = drawn.sample(torch.Generator().manual_seed(0)) - drawn.mode()
    assert abs(float(noise.std()) - 0.1) < 0.003


def test_forward_is_encode_sample_decode_and_reproducible_by_generator(autoencoder: FaceAutoencoder) -> None:
    image = torch.rand(1, 3, 32, 32)
    first, again, other = (autoencoder(image, torch.Generator().manual_seed(seed)).sample for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_fresh_residual_block_changes_nothing() -> None:
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(ResidualBlock(8)(x), x)


def test_standardise_gives_unit_latents_and_the_same_reconstructions(autoencoder: FaceAutoencoder) -> None:
    images = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before, raw = (
        autoencoder.decode(autoencoder.encode(images).latent_dist.mode()).sample,
        autoencoder.encoder(images),
    )
    autoencoder.standardise(raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    latents = autoencoder.encoder(images)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-4)
    expected = (raw - raw.mean((0, 2, 3), keepdim=True)) / raw.std((0, 2, 3)).view(1, -1, 1, 1)
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)
    after = autoencoder.decode(autoencoder.encode(images).latent_dist.mode()).sample
    # The first convolution pads with zeros, which now stand for the mean: only the border may differ.
    inner = slice(40, 56)
    torch.testing.assert_close(after[:, :, inner, inner], before[:, :, inner, inner], rtol=0, atol=1e-4)


def test_latents_are_folded_two_by_two(autoencoder: FaceAutoencoder) -> None:
    image = torch.rand(1, 3, 32, 32)
    mean = autoencoder.encode(image).latent_dist.mode()
    assert torch.equal(F.pixel_shuffle(mean, 2), autoencoder.encoder(image))
