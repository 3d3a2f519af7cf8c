"""Arc2Face's published ControlNet, on tiny random files of its makers' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

from facecrafter.baselines import load
from facecrafter.baselines.pretrained_controlnet import PublishedControlNet
from facecrafter.errors import CheckpointError, ConfigError, PhotoError
from facecrafter.models.checkpoint import FaceModel
from facecrafter.request import Portrait, Request, images_of
from facecrafter.sampling.sampler import build_scheduler


@pytest.fixture(scope="module")
def controlnet(small_model: FaceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as diffusers writes it, for the small base, with nothing left at zero."""
    torch.manual_seed(0)
    network = ControlNetModel.from_unet(small_model.unet, conditioning_embedding_out_channels=(16, 32, 64, 96, 256))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("published") / "controlnet"
    network.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_the_published_controlnet_guides_as_its_makers_do(
    controlnet: Path, small_model: FaceModel, people: list[Portrait]
) -> None:
    """Two predictions, both with the normals."""
    method = load("published_controlnet", controlnet, small_model, steps=2, scheduler="ddim")
    assert isinstance(method, PublishedControlNet)
    request = Request(people[0], {"landmark": people[1]}, 3)
    got = images_of(method, [request])[0].astype(np.float32) / 127.5 - 1
    network = ControlNetModel.from_pretrained(controlnet)
    embedding = torch.from_numpy(people[0].embedding)[None]
    contexts = small_model.encoder.unconditional(1), small_model.encoder(embedding)
    normals = method.condition([request])
    assert normals is not None
    assert normals.shape == (1, 3, 128, 128)
    assert float(normals[0, :, 0, 0].mean()) == 0.5  # grey around
    assert normals[0, 2].max() > 0.95  # blue looks at the viewer
    solver = build_scheduler("ddim", dict(small_model.scale.scheduler))
    solver.set_timesteps(2)
    latents = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(3))
    for time in solver.timesteps:
        said = []
        for context in contexts:
            down, middle = network(latents, time, context, normals, return_dict=False)
            said.append(
                small_model.unet(
                    latents,
                    time,
                    context,
                    down_block_additional_residuals=down,
                    mid_block_additional_residual=middle,
                ).sample
            )
        latents = solver.step(said[0] + 3.0 * (said[1] - said[0]), time, latents).prev_sample
    expected = small_model.autoencoder.decode(latents).sample.clamp(-1, 1)[0].permute(1, 2, 0)
    np.testing.assert_allclose(got, expected, atol=0.51 / 127.5 + 1e-3)
    assert "MediaPipe" in method.note


def test_it_computes_where_it_is_told(controlnet: Path, model_folder: Path) -> None:
    method = load("published_controlnet", controlnet, model_folder, "meta")
    assert isinstance(method, PublishedControlNet)
    for module in (method.baseline, *method.base.modules.values()):
        assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


def test_renders_of_emoca_are_read_by_pair(
    controlnet: Path, small_model: FaceModel, people: list[Portrait], tmp_path: Path
) -> None:
    path = tmp_path / "P0" / "0.jpg" / "P1" / "1.jpg.png"
    path.parent.mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    Image.fromarray(image).save(path)
    settings: dict[str, Any] = {"renders": tmp_path, "steps": 1}
    method = PublishedControlNet(controlnet, small_model, **settings)
    condition = method.condition([Request(people[0], {"landmark": people[1]}, 0)])
    assert condition is not None
    np.testing.assert_allclose(condition[0].permute(1, 2, 0) * 255, image, atol=1e-4)
    assert method.key != PublishedControlNet(controlnet, small_model, steps=1).key
    with pytest.raises(PhotoError, match=r"P1/1\.jpg/P0/0\.jpg\.png"):
        images_of(method, [Request(people[1], {"landmark": people[0]}, 0)])
    Image.fromarray(image[:64]).save(path)
    with pytest.raises(ConfigError, match=r"1\.jpg\.png is 128x64, and the images are 128 px"):
        images_of(method, [Request(people[0], {"landmark": people[1]}, 0)])
    with pytest.raises(ConfigError, match="there is no folder of renders"):
        PublishedControlNet(controlnet, small_model, tmp_path / "nowhere")


def test_a_wrong_controlnet_is_refused(
    controlnet: Path, small_model: FaceModel, tiny_model: FaceModel, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        PublishedControlNet(tmp_path, small_model)
    with pytest.raises(CheckpointError, match="holds a ControlNet for another base"):
        PublishedControlNet(controlnet, tiny_model)
    (tmp_path / "config.json").write_bytes((controlnet / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="could not be read"):
        PublishedControlNet(tmp_path, small_model)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="could not be read"):
        PublishedControlNet(tmp_path, small_model)
