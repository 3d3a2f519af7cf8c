"""IP-Adapter-FaceID and its Plus, on tiny random files of their makers' layouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from facecrafter.baselines import load
from facecrafter.baselines.pretrained_faceid import (
    CLIP_DEVIATION,
    CLIP_MEAN,
    PublishedFaceID,
    PublishedFaceIDPlus,
    PublishedFaceIDPlusV2,
)
from facecrafter.errors import CheckpointError, ConfigError, FaceCrafterError, WeightsError
from facecrafter.estimators.identity import arcface_crop
from facecrafter.faces.face import Face
from facecrafter.models.attention import AttentionInputs, Branch
from facecrafter.models.checkpoint import FaceModel
from facecrafter.request import Portrait, Request, images_of


class MadeUp:
    """A recogniser that reads the mean colour."""

    name, dimension = "made up", 16

    def embed(self, faces: Sequence[Face]) -> NDArray[np.float32]:
        shares = [np.sin(np.arange(16) + face.points[:, 0].mean()) for face in faces]
        return np.array(shares, np.float32) / 4


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion folder: 16 px images."""
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


def plus(folder: Path, depth: int = 4, features: int = 24) -> dict[str, dict[str, Tensor]]:
    """The same with CLIP's features beside the embedding."""
    parts, source = adapter(folder, lora=False), torch.Generator().manual_seed(4)

    def random(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=source)

    shapes: dict[str, tuple[int, ...]] = {
        "proj_in.weight": (32, features), "proj_in.bias": (32,), "proj_out.weight": (32, 32), "proj_out.bias": (32,),
        "norm_out.weight": (32,), "norm_out.bias": (32,),
    }  # fmt: skip
    for layer in range(depth):
        shapes |= {f"layers.{layer}.0.norm{n}.{part}": (32,) for n in (1, 2) for part in ("weight", "bias")}
        shapes |= {
            f"layers.{layer}.0.to_q.weight": (64, 32), f"layers.{layer}.0.to_kv.weight": (128, 32),
            f"layers.{layer}.0.to_out.weight": (32, 64), f"layers.{layer}.1.0.weight": (32,),
            f"layers.{layer}.1.0.bias": (32,), f"layers.{layer}.1.1.weight": (128, 32),
            f"layers.{layer}.1.3.weight": (32, 128),
        }  # fmt: skip
    parts["image_proj"] |= {f"perceiver_resampler.{name}": random(*shape) for name, shape in shapes.items()}
    return parts


@pytest.fixture(scope="module")
def image_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP: images of 28 px in four patches."""
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("clip")
    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


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
    branch = Branch(method._keys_values(method.tokens(faces)), torch.arange(2), torch.ones(2))
    ours = method.unet(noisy, 500, words, cross_attention_kwargs={"conditions": AttentionInputs([branch])}).sample
    reference = UNet2DConditionModel.from_pretrained(stable_diffusion / "unet")
    plain = reference(noisy, 500, words).sample
    reference._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
    theirs = reference(noisy, 500, words, added_cond_kwargs={"image_embeds": [faces[:, None]]}).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, theirs, atol=1e-2)


@pytest.mark.parametrize(("kind", "shortcut"), [(PublishedFaceIDPlus, False), (PublishedFaceIDPlusV2, True)])
@torch.no_grad()
def test_plus_says_what_it_says_in_diffusers(
    kind: type[PublishedFaceIDPlus], shortcut: bool, stable_diffusion: Path, image_encoder: Path, tmp_path: Path
) -> None:
    parts = plus(stable_diffusion)
    torch.save(parts, tmp_path / "adapter.bin")
    method = kind(tmp_path / "adapter.bin", stable_diffusion, MadeUp(), image_encoder)
    source = torch.Generator().manual_seed(3)
    noisy, faces = torch.randn(2, 4, 8, 8, generator=source), torch.randn(2, 16, generator=source)
    words, features = torch.randn(2, 16, 32, generator=source), torch.randn(2, 5, 24, generator=source)
    branch = Branch(method._keys_values(method.tokens(faces, features)), torch.arange(2), torch.ones(2))
    ours = method.unet(noisy, 500, words, cross_attention_kwargs={"conditions": AttentionInputs([branch])}).sample
    reference = UNet2DConditionModel.from_pretrained(stable_diffusion / "unet")
    reference._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
    projection = reference.encoder_hid_proj.image_projection_layers[0]
    projection.clip_embeds, projection.shortcut = features[:, None], shortcut
    theirs = reference(noisy, 500, words, added_cond_kwargs={"image_embeds": [faces[:, None]]}).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    projection.shortcut = not shortcut
    other = reference(noisy, 500, words, added_cond_kwargs={"image_embeds": [faces[:, None]]}).sample
    assert not torch.allclose(other, theirs, atol=1e-2)


@torch.no_grad()
def test_plus_looks_at_the_face_as_clip_does(
    stable_diffusion: Path, image_encoder: Path, people: list[Portrait], tmp_path: Path
) -> None:
    torch.save(plus(stable_diffusion), tmp_path / "adapter.bin")
    method = PublishedFaceIDPlusV2(tmp_path / "adapter.bin", stable_diffusion, MadeUp(), image_encoder)
    one = people[0]
    face = Face(one.image, one.points, one.blendshapes, np.eye(4, dtype=np.float32), (0, 0, 128, 128))
    shown = method._shown([face])
    crop = arcface_crop(face, 28)
    assert crop.shape == (28, 28, 3)
    colours = torch.empty(1, 3, 28, 28)
    for channel in range(3):
        plane = torch.from_numpy(crop[..., channel]).float() / 255
        colours[0, channel] = (plane - CLIP_MEAN[channel]) / CLIP_DEVIATION[channel]
    clip = CLIPVisionModelWithProjection.from_pretrained(image_encoder)
    embedding = torch.from_numpy(MadeUp().embed([face]))
    for name, vector, image in (
        ("identity", embedding, colours),
        ("none", torch.zeros_like(embedding), torch.zeros_like(colours)),
    ):
        features = clip(image, output_hidden_states=True).hidden_states[-2]
        assert features.shape == (1, 5, 24)
        torch.testing.assert_close(shown[name], method.tokens(vector, features))
    request = Request(one, seed=3)
    (image,) = images_of(method, [request])
    assert image.shape == (16, 16, 3)
    plainer = PublishedFaceIDPlus(tmp_path / "adapter.bin", stable_diffusion, MadeUp(), image_encoder)
    assert plainer.key != method.key and not np.array_equal(images_of(plainer, [request])[0], image)


def test_wrong_files_of_plus_are_refused(stable_diffusion: Path, image_encoder: Path, tmp_path: Path) -> None:
    good, narrow = plus(stable_diffusion), plus(stable_diffusion, features=20)
    cut = {**good, "image_proj": {name: value for name, value in good["image_proj"].items() if ".1.3." not in name}}
    bare = {**good, "image_proj": {n: v for n, v in good["image_proj"].items() if not n.startswith("perceiver_re")}}
    headless = {**good, "image_proj": {n: v for n, v in good["image_proj"].items() if "proj_in" not in n}}
    files = {"good": good, "narrow": narrow, "cut": cut, "bare": bare, "headless": headless}
    for name, parts in files.items():
        torch.save(parts, tmp_path / f"{name}.bin")
    (tmp_path / "empty").mkdir()
    refused: list[tuple[str, Path | None, type[FaceCrafterError], str]] = [
        ("good", None, ConfigError, "needs `image_encoder`, the folder models/image_encoder"),
        ("good", tmp_path / "empty", CheckpointError, "empty could not be read"),
        ("narrow", image_encoder, CheckpointError, "reads 20 numbers a patch, and .* gives 24"),
        ("cut", image_encoder, CheckpointError, "cut.bin is not whole"),
        ("bare", image_encoder, CheckpointError, "bare.bin is no Plus adapter"),
        ("headless", image_encoder, CheckpointError, "headless.bin is not whole"),
    ]
    for name, encoder, error, message in refused:
        with pytest.raises(error, match=message) as caught:
            PublishedFaceIDPlus(tmp_path / f"{name}.bin", stable_diffusion, MadeUp(), encoder)
        assert "\n" not in str(caught.value)
    torch.save(adapter(stable_diffusion), tmp_path / "plain.bin")
    with pytest.raises(ConfigError, match="has no use for `image_encoder`"):
        PublishedFaceID(tmp_path / "plain.bin", stable_diffusion, MadeUp(), image_encoder)


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


def test_faceid_makes_images_by_photo_and_seed(
    stable_diffusion: Path, people: list[Portrait], requests: list[Request], tmp_path: Path
) -> None:
    torch.save(adapter(stable_diffusion), tmp_path / "adapter.bin")
    settings: dict[str, Any] = {"recogniser": MadeUp(), "prompt": "a face", "steps": 2, "batch_size": 3}
    method = load("published_ip_adapter_faceid", tmp_path / "adapter.bin", stable_diffusion, **settings)
    images = images_of(method, requests)
    assert images.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(images_of(method, requests), images)
    for index, request in enumerate(requests):
        assert np.abs(images_of(method, [request])[0].astype(int) - images[index]).max() <= 1
    free = Request(people[0], seed=5)  # as the first request, whose target it does not read
    assert np.abs(images_of(method, [free])[0].astype(int) - images[0]).max() <= 1
    other = load(
        "published_ip_adapter_faceid", tmp_path / "adapter.bin", stable_diffusion, **{**settings, "prompt": "b"}
    )
    assert other.key != method.key
    assert not np.array_equal(images_of(other, requests), images)


def test_it_computes_where_it_is_told(stable_diffusion: Path, image_encoder: Path, tmp_path: Path) -> None:
    torch.save(plus(stable_diffusion), tmp_path / "adapter.bin")
    settings: dict[str, Any] = {"recogniser": MadeUp(), "image_encoder": str(image_encoder)}
    method = load("published_ip_adapter_faceid_plusv2", tmp_path / "adapter.bin", stable_diffusion, "meta", **settings)
    assert isinstance(method, PublishedFaceIDPlusV2)
    places = [parameter.device.type for module in method._parts for parameter in module.parameters()]
    assert set(places) == {"meta"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": "7.5e0"}, "the setting guidance_scale cannot be '7.5e0'"),
        ({"prompt": 3}, "the setting prompt cannot be 3"),
        ({"recogniser": 5}, "the setting recogniser cannot be 5"),
        ({"image_encoder": ["clip"]}, r"the setting image_encoder cannot be \['clip'\]"),
        ({"promt": "a face"}, "published_ip_adapter_faceid_plus has no setting 'promt'; there are recogniser"),
    ],
)
def test_bad_settings_are_refused_before_files_are_read(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load("published_ip_adapter_faceid_plus", tmp_path / "none.bin", tmp_path, **settings)


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
        "plus.bin": "is a Plus adapter; its kind is published_ip_adapter_faceid_plus",
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
    file, single = tmp_path / "good.bin", tmp_path / "v1-5-pruned-emaonly.safetensors"
    save_file({"model.diffusion_model.out.0.bias": torch.zeros(1)}, single)
    refused: list[tuple[Any, Any, type[FaceCrafterError], str]] = [
        (small_model, MadeUp(), ConfigError, "a folder of Stable Diffusion 1.5, not a model of ours"),
        (tmp_path, MadeUp(), CheckpointError, "has no folder unet"),
        (single, MadeUp(), CheckpointError, r"single-file checkpoint .*StableDiffusionPipeline\.from_single_file"),
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
