"""Published rivals, on tiny random files of their makers' layouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from facecrafter.baselines import load
from facecrafter.baselines.published import PublishedControlNet, PublishedFaceID
from facecrafter.errors import CheckpointError, ConfigError, FaceCrafterError, PhotoError, WeightsError
from facecrafter.evaluation.method import Request, Subject
from facecrafter.model.attention import AttentionInputs, Branch
from facecrafter.model.checkpoint import FaceModel
from facecrafter.perception.face import Face
from facecrafter.sampling.sampler import build_scheduler

# --- ControlNet -------------------------------------------------------------------------------------------------------


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
    controlnet: Path, small_model: FaceModel, people: list[Subject]
) -> None:
    """Two predictions, both with the normals."""
    method = load("published_controlnet", controlnet, small_model, steps=2, scheduler="ddim")
    assert isinstance(method, PublishedControlNet)
    request = Request(people[0], people[1], None, 3)
    got = method.generate([request])[0].astype(np.float32) / 127.5 - 1
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


def test_renders_of_emoca_are_read_by_pair(
    controlnet: Path, small_model: FaceModel, people: list[Subject], tmp_path: Path
) -> None:
    path = tmp_path / "P0" / "0.jpg" / "P1" / "1.jpg.png"
    path.parent.mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    Image.fromarray(picture).save(path)
    settings: dict[str, Any] = {"renders": tmp_path, "steps": 1}
    method = PublishedControlNet(controlnet, small_model, **settings)
    condition = method.condition([Request(people[0], people[1], None, 0)])
    assert condition is not None
    np.testing.assert_allclose(condition[0].permute(1, 2, 0) * 255, picture, atol=1e-4)
    assert method.key != PublishedControlNet(controlnet, small_model, steps=1).key
    with pytest.raises(PhotoError, match=r"P1/1\.jpg/P0/0\.jpg\.png"):
        method.generate([Request(people[1], people[0], None, 0)])
    Image.fromarray(picture[:64]).save(path)
    with pytest.raises(ConfigError, match=r"1\.jpg\.png is 128x64, and the pictures are 128 px"):
        method.generate([Request(people[0], people[1], None, 0)])
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


# --- IP-Adapter-FaceID ------------------------------------------------------------------------------------------------


class MadeUp:
    """A recogniser that reads the mean colour."""

    name, dimension = "made up", 16

    def embed(self, faces: Sequence[Face]) -> NDArray[np.float32]:
        shares = [np.sin(np.arange(16) + face.points[:, 0].mean()) for face in faces]
        return np.array(shares, np.float32) / 4


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion folder: 16 px pictures."""
    folder = tmp_path_factory.mktemp("sd")
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    unet.save_pretrained(folder / "unet")
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    )
    vae.save_pretrained(folder / "vae")
    text = CLIPTextConfig(
        vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", ",</w>", *(f"{letter}</w>" for letter in letters)]
    (folder / "tokenizer").mkdir()
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    return folder


def adapter(folder: Path, lora: bool = True, width: int = 32) -> dict[str, dict[str, Tensor]]:
    """Tensors of the published layout for that UNet."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    modules, source = dict(unet.named_modules()), torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=source)

    layers = {}
    for number, name in enumerate(unet.attn_processors):
        block = modules[name.removesuffix(".processor")]
        for part, layer in (("q", block.to_q), ("k", block.to_k), ("v", block.to_v), ("out", block.to_out[0])):
            if lora:
                layers[f"{number}.to_{part}_lora.up.weight"] = random(layer.weight.shape[0], 4)
                layers[f"{number}.to_{part}_lora.down.weight"] = random(4, layer.weight.shape[1])
        if "attn2" in name:
            layers |= {f"{number}.to_{part}_ip.weight": random(block.inner_dim, width) for part in "kv"}
    projection = {
        "proj.0.weight": random(32, 16), "proj.0.bias": random(32), "proj.2.weight": random(4 * width, 32),
        "proj.2.bias": random(4 * width), "norm.weight": torch.ones(width), "norm.bias": random(width),
    }  # fmt: skip
    return {"image_proj": projection, "ip_adapter": layers}


def flat(parts: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}


@torch.no_grad()
def test_the_adapter_says_what_it_says_in_diffusers(stable_diffusion: Path, tmp_path: Path) -> None:
    """Without the LoRA layers, which diffusers reads through another package."""
    parts = adapter(stable_diffusion, lora=False)
    torch.save(parts, tmp_path / "adapter.bin")
    method = PublishedFaceID(tmp_path / "adapter.bin", stable_diffusion, MadeUp())
    source = torch.Generator().manual_seed(3)
    noisy, faces = torch.randn(2, 4, 8, 8, generator=source), torch.randn(2, 16, generator=source)
    words = torch.randn(2, 16, 32, generator=source)
    branch = Branch(method._keys_values(faces), torch.arange(2), torch.ones(2))
    ours = method.unet(noisy, 500, words, cross_attention_kwargs={"conditions": AttentionInputs([branch])}).sample
    reference = UNet2DConditionModel.from_pretrained(stable_diffusion / "unet")
    plain = reference(noisy, 500, words).sample
    reference._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
    theirs = reference(noisy, 500, words, added_cond_kwargs={"image_embeds": [faces[:, None]]}).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, theirs, atol=1e-2)


def test_lora_layers_are_added_to_the_base(stable_diffusion: Path, tmp_path: Path) -> None:
    parts = adapter(stable_diffusion)
    save_file(flat(parts), tmp_path / "adapter.safetensors")
    method = PublishedFaceID(tmp_path / "adapter.safetensors", stable_diffusion, MadeUp())
    assert method.extra_parameters == sum(value.numel() for value in flat(parts).values())
    before = UNet2DConditionModel.from_pretrained(stable_diffusion / "unet").state_dict()
    after, layers = method.unet.state_dict(), parts["ip_adapter"]
    changed = set()
    for number, name in enumerate(method.unet.attn_processors):
        for part, place in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("out", "to_out.0")):
            weight = f"{name.removesuffix('.processor')}.{place}.weight"
            up, down = (layers[f"{number}.to_{part}_lora.{way}.weight"] for way in ("up", "down"))
            torch.testing.assert_close(after[weight], before[weight] + up @ down)
            changed.add(weight)
    assert {name for name in before if not torch.equal(before[name], after[name])} == changed


def test_faceid_makes_pictures_by_photo_and_seed(
    stable_diffusion: Path, people: list[Subject], requests: list[Request], tmp_path: Path
) -> None:
    torch.save(adapter(stable_diffusion), tmp_path / "adapter.bin")
    settings: dict[str, Any] = {"recogniser": MadeUp(), "prompt": "a face", "steps": 2, "batch_size": 3}
    method = load("published_ip_adapter_faceid", tmp_path / "adapter.bin", stable_diffusion, **settings)
    pictures = method.generate(requests)
    assert pictures.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(method.generate(requests), pictures)
    for index, request in enumerate(requests):
        assert np.abs(method.generate([request])[0].astype(int) - pictures[index]).max() <= 1
    free = Request(people[0], None, None, 5)  # as the first request, whose target it does not read
    assert np.abs(method.generate([free])[0].astype(int) - pictures[0]).max() <= 1
    other = load(
        "published_ip_adapter_faceid", tmp_path / "adapter.bin", stable_diffusion, **{**settings, "prompt": "b"}
    )
    assert other.key != method.key
    assert not np.array_equal(other.generate(requests), pictures)


def test_wrong_files_of_faceid_are_refused(stable_diffusion: Path, small_model: FaceModel, tmp_path: Path) -> None:
    good = adapter(stable_diffusion)
    projection, layers = good["image_proj"], good["ip_adapter"]
    plus = {**projection, "perceiver_resampler.proj_in.weight": torch.zeros(2, 2)}
    files: dict[str, Any] = {
        "plus.bin": {"image_proj": plus, "ip_adapter": layers},
        "plain.bin": {"image_proj": {"proj.weight": torch.zeros(2, 2)}, "ip_adapter": layers},
        "wide.bin": adapter(stable_diffusion, width=48),
        "other.bin": {"image_proj": projection, "ip_adapter": {**layers, "99.to_q_lora.up.weight": torch.zeros(2, 2)}},
        "few.bin": {"image_proj": projection, "ip_adapter": dict(list(layers.items())[:-2])},
        "none.bin": {"weights": layers},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    torch.save(good, tmp_path / "good.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "good.bin").read_bytes()[:3000])
    (tmp_path / "text.safetensors").write_text("no tensors")
    messages = {
        "nowhere.bin": "there is no file",
        "plus.bin": "is a Plus adapter: .*CLIP ViT-H features",
        "plain.bin": "is another IP-Adapter than FaceID",
        "wide.bin": "is for a base of context width 48, and this one has 32",
        "other.bin": "was made for another base",
        "few.bin": "does not fit this base's attention blocks",
        "none.bin": "it is no IP-Adapter",
        "cut.bin": "is not a whole file",
        "text.safetensors": "is not a whole file",
    }
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message) as caught:
            PublishedFaceID(tmp_path / name, stable_diffusion, MadeUp())
        assert "\n" not in str(caught.value)
    file = tmp_path / "good.bin"
    refused: list[tuple[Any, Any, type[FaceCrafterError], str]] = [
        (small_model, MadeUp(), ConfigError, "a folder of Stable Diffusion 1.5, not a model of ours"),
        (tmp_path, MadeUp(), CheckpointError, "has no folder unet"),
        (stable_diffusion, None, ConfigError, "needs `recogniser`, the path of w600k_r50.onnx"),
        (stable_diffusion, tmp_path / "no.onnx", WeightsError, "there is no file"),
        (stable_diffusion, file, WeightsError, "is not w600k_r50.onnx of buffalo_l"),
    ]
    for base, recogniser, error, message in refused:
        with pytest.raises(error, match=message):
            PublishedFaceID(file, base, recogniser)
    narrow = type("Narrow", (MadeUp,), {"dimension": 8})()
    with pytest.raises(WeightsError, match="reads 16 numbers a face, and the recogniser made up gives 8"):
        PublishedFaceID(file, stable_diffusion, narrow)
