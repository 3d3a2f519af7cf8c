"""IP-Adapter-FaceID, -Plus and -Plusv2 as published, from files the user has, for Stable Diffusion 1.5.

The code has been run on tiny random files of the published layouts, and not with the real weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from facecrafter.baselines.adapter import Tokens
from facecrafter.baselines.base import check_sampling
from facecrafter.baselines.resampler import FaceTokens, Perceiver
from facecrafter.errors import CheckpointError, ConfigError, WeightsError
from facecrafter.estimators.identity import OnnxRecogniser, Recogniser, arcface_crop
from facecrafter.faces.face import Face
from facecrafter.models import attention, scales
from facecrafter.models.attention import AttentionInputs, Branch, KeyValue
from facecrafter.models.checkpoint import FaceModel, digest
from facecrafter.models.pretrained import refuse_single_file
from facecrafter.request import Portrait, Progress, Request, batches
from facecrafter.sampling.guidance import Guidance, combine
from facecrafter.sampling.sampler import decode, denoise, pixels
from facecrafter.weights import OTHER_RECOGNISERS, sha256

BUFFALO_L = next(digest for digest, name in OTHER_RECOGNISERS.items() if name.startswith("w600k_r50"))


# What CLIP takes from the colours of an image in [0, 1], and divides them by.
CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class PublishedFaceID:
    """IP-Adapter-FaceID for Stable Diffusion 1.5 (``ip-adapter-faceid_sd15.bin``); its LoRA layers are added to the
    base's projections.

    It knows people by InsightFace's buffalo_l and not by Arc2Face's recogniser, so it reads the photo itself.

    Args:
        model: the file, ``.bin`` or ``.safetensors``, with the tensors ``image_proj.*`` and ``ip_adapter.*``.
        base: a folder of Stable Diffusion 1.5: ``unet/``, ``text_encoder/``, ``tokenizer/``, ``vae/``.
        recogniser: ``w600k_r50.onnx`` of buffalo_l, or a recogniser of as many numbers as the file's.
        image_encoder: Plus and Plusv2: a folder of CLIP ViT-H/14's vision part (``CLIPVisionModelWithProjection``),
            ``models/image_encoder`` of IP-Adapter's files.
        prompt, negative: the words beside the face; they are for every image the same.
        guidance_scale: of both the words and the face.
        adapter_scale: the coefficient of the face's attention.
        steps, scheduler, batch_size: see :class:`facecrafter.baselines.base.BaselineGenerator`; Arc2Face has the noise
            schedule of Stable Diffusion 1.5.
        device: where to compute, as torch calls it.

    Raises:
        CheckpointError: a file is missing, damaged, or another one.
        WeightsError: the recogniser is another one.
        ConfigError: a setting that cannot be used.
    """

    name = "IP-Adapter-FaceID (published)"
    # Whether the file reads CLIP's features of the face, and whether what it reads there is added to the embedding's
    # tokens or stands for them. The files of Plus and Plusv2 do not differ in layout.
    IS_PLUS: ClassVar[bool] = False
    SHORTCUT: ClassVar[bool] = False

    def __init__(
        self,
        model: Path,
        base: FaceModel | Path,
        recogniser: Path | Recogniser | None = None,
        image_encoder: Path | None = None,
        prompt: str = "photo of a person",
        negative: str = "monochrome, lowres, bad anatomy, worst quality, low quality",
        guidance_scale: float = 7.5,
        adapter_scale: float = 1.0,
        steps: int | None = None,
        scheduler: str | None = None,
        batch_size: int = 4,
        device: str = "cpu",
    ) -> None:
        if isinstance(base, FaceModel):
            raise ConfigError("IP-Adapter-FaceID needs `base`, a folder of Stable Diffusion 1.5, not a model of ours")
        own: Any = scales.ARC2FACE.sampling
        self.steps = own["steps"] if steps is None else steps
        self.scheduler = own["scheduler"] if scheduler is None else scheduler
        check_sampling(self.steps, self.scheduler, batch_size)
        self.batch_size, self.adapter_scale = batch_size, adapter_scale
        self.coefficients = Guidance(guidance_scale).coefficients(())
        self.words = prompt, negative
        self.unet, self.autoencoder, self.text, self.tokenizer = _stable_diffusion(Path(base))
        image_proj, layers = _read_faceid(model)
        self.tokens = _tokens(model, image_proj, self.unet, self.IS_PLUS, self.SHORTCUT)
        self.keys, self.values = _fuse(model, layers, self.unet)
        self.extra_parameters = sum(value.numel() for value in (*image_proj.values(), *layers.values()))
        self.recogniser = _buffalo(recogniser)
        if self.recogniser.dimension != image_proj["proj.0.weight"].shape[1]:
            raise WeightsError(
                f"{model} reads {image_proj['proj.0.weight'].shape[1]} numbers a face, and the recogniser "
                f"{self.recogniser.name} gives {self.recogniser.dimension}; give w600k_r50.onnx of buffalo_l"
            )
        self.looker = self._image_encoder(image_encoder, model)
        self.note = f"Published weights on Stable Diffusion 1.5; prompt '{prompt}'; knows people by buffalo_l."
        for part in self._parts:
            part.to(device)
        shrunk = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        self.size = int(self.unet.config.sample_size) * shrunk

    @cached_property
    def key(self) -> str:
        """A digest of the weights and settings."""
        settings = {
            "shortcut": self.SHORTCUT,
            "words": self.words,
            "coefficients": self.coefficients,
            "adapter_scale": self.adapter_scale,
            "steps": self.steps,
            "scheduler": self.scheduler,
            "recogniser": self.recogniser.name,
        }
        return digest(self._parts, settings)

    @property
    def _parts(self) -> tuple[nn.Module, ...]:
        looker = () if self.looker is None else (self.looker,)
        return (self.unet, self.autoencoder, self.text, self.tokens, self.keys, self.values, *looker)

    def _image_encoder(self, folder: Path | None, model: Path) -> Any:
        """CLIP's vision part, of the width that the file reads; None where it reads none."""
        from transformers import CLIPVisionModelWithProjection

        if not self.IS_PLUS:
            if folder is not None:
                raise ConfigError("IP-Adapter-FaceID has no use for `image_encoder`; leave it out, or name its Plus")
            return None
        if folder is None:
            raise ConfigError(
                "IP-Adapter-FaceID-Plus needs `image_encoder`, the folder models/image_encoder of IP-Adapter's files"
            )
        looker = _from_pretrained(CLIPVisionModelWithProjection, Path(folder))
        tokens: Any = self.tokens
        reads = tokens.perceiver_resampler.proj_in.in_features
        if looker.config.hidden_size != reads:
            raise CheckpointError(
                f"{model} reads {reads} numbers a patch, and {folder} gives {looker.config.hidden_size}; "
                "give CLIP ViT-H/14"
            )
        return looker.float().requires_grad_(False).eval()

    def generate(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The images of requests, each as soon as it is made; only identity and seed are read."""
        for batch in batches(requests, self.batch_size, lambda _: None):
            tokens = self._shown([_face(requests[index].identity) for index in batch])
            step = progress and partial(progress, len(batch) / self.steps)
            yield from zip(batch, self._sample(tokens, [requests[index].seed for index in batch], step), strict=True)

    @torch.no_grad()
    def _shown(self, faces: Sequence[Face]) -> dict[str, Tensor]:
        """The tokens ``(B, T, context)`` of B people, and those that stand for nobody: of zeros, as an embedding
        and as an image."""
        own = torch.from_numpy(self.recogniser.embed(faces)).to(self.unet.device)
        embeddings = {"none": torch.zeros_like(own), "identity": own}
        if self.looker is None:
            return {name: self.tokens(embedding) for name, embedding in embeddings.items()}
        side = int(self.looker.config.image_size)
        crops = torch.from_numpy(np.stack([arcface_crop(face, side) for face in faces])).to(self.unet.device)
        mean, deviation = (torch.tensor(three, device=crops.device) for three in (CLIP_MEAN, CLIP_DEVIATION))
        colours = ((crops.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)
        conditions = {"none": torch.zeros_like(colours), "identity": colours}
        return {name: self.tokens(embeddings[name], self._features(conditions[name])) for name in embeddings}

    def _features(self, colours: Tensor) -> Tensor:
        """CLIP's features before its last layer, ``(B, 1 + patches, width)``."""
        features: Tensor = self.looker(colours, output_hidden_states=True).hidden_states[-2]
        return features

    @torch.no_grad()
    def _sample(
        self, tokens: dict[str, Tensor], seeds: Sequence[int], progress: Callable[[], object] | None
    ) -> NDArray[np.uint8]:
        """Images from what :meth:`_shown` gives."""
        prompt, negative = (self._read(words).expand(len(seeds), -1, -1) for words in self.words)
        words = {"none": negative, "identity": prompt}
        context = torch.cat([words[name] for name in self.coefficients])
        rows = torch.arange(len(context), device=context.device)
        weights = torch.full((len(context),), self.adapter_scale, device=context.device)
        keys_values = self._keys_values(torch.cat([tokens[name] for name in self.coefficients]))
        conditions = {"conditions": AttentionInputs([Branch(keys_values, rows, weights)])}

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            every = torch.cat([noisy] * len(self.coefficients))
            predictions = self.unet(every, timestep, context, cross_attention_kwargs=conditions).sample
            return combine(predictions, self.coefficients)

        latents = denoise(predict, self.unet, scales.ARC2FACE.scheduler, self.steps, self.scheduler, seeds, progress)
        return pixels(decode(self.autoencoder, latents, self.size))

    def _keys_values(self, tokens: Tensor) -> list[KeyValue]:
        return [(key(tokens), value(tokens)) for key, value in zip(self.keys, self.values, strict=True)]

    def _read(self, words: str) -> Tensor:
        """Words to text tokens ``(1, T, context)``."""
        length = self.text.config.max_position_embeddings
        ids = self.tokenizer(words, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        tokens: Tensor = self.text(ids.input_ids.to(self.text.device)).last_hidden_state
        return tokens


class PublishedFaceIDPlus(PublishedFaceID):
    """IP-Adapter-FaceID-Plus (``ip-adapter-faceid-plus_sd15.bin``): CLIP's features of the face as well."""

    name = "IP-Adapter-FaceID-Plus (published)"
    IS_PLUS = True


class PublishedFaceIDPlusV2(PublishedFaceIDPlus):
    """IP-Adapter-FaceID-Plusv2 (``ip-adapter-faceid-plusv2_sd15.bin``): the embedding's own tokens are kept too."""

    name = "IP-Adapter-FaceID-Plusv2 (published)"
    SHORTCUT = True


def _face(portrait: Portrait) -> Face:
    """A portrait as the recognisers take it; where it lay in its photo does not matter to them."""
    side = float(len(portrait.image))
    pose = np.eye(4, dtype=np.float32)
    return Face(portrait.image, portrait.points, portrait.blendshapes, pose, (0.0, 0.0, side, side))


def _buffalo(given: Path | Recogniser | None) -> Recogniser:
    if given is None:
        raise ConfigError("IP-Adapter-FaceID needs `recogniser`, the path of w600k_r50.onnx of InsightFace's buffalo_l")
    if not isinstance(given, str | Path):
        return given
    path = Path(given)
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; give w600k_r50.onnx of InsightFace's buffalo_l")
    if sha256(path) != BUFFALO_L:
        raise WeightsError(f"{path} is not w600k_r50.onnx of buffalo_l, and IP-Adapter-FaceID knows people by no other")
    return OnnxRecogniser(path, "buffalo_l", 127.5, 1 / 127.5)


def _stable_diffusion(folder: Path) -> tuple[Any, Any, Any, Any]:
    """UNet with our attention, autoencoder, text encoder and tokenizer of a Stable Diffusion folder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    parts = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    loaded: list[Any] = []
    refuse_single_file(folder)
    for name, kind in {**parts, "tokenizer": CLIPTokenizer}.items():
        if not (folder / name).is_dir():
            raise CheckpointError(f"{folder} has no folder {name}; give a folder of Stable Diffusion 1.5")
        loaded.append(_from_pretrained(kind, folder / name))
    for module in loaded[: len(parts)]:
        module.float().requires_grad_(False).eval()
    attention.install(loaded[0])
    return tuple(loaded)  # type: ignore[return-value]


def _from_pretrained(kind: Any, folder: Path) -> Any:
    """A network, or a tokenizer, from its folder."""
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder} could not be read: {' '.join(str(error).split())[:200]}") from None


def _read_faceid(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the two parts, their names without the part's."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; give ip-adapter-faceid_sd15.bin")
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    try:
        if path.suffix == ".safetensors":
            for name, value in load_file(path).items():
                part, _, rest = name.partition(".")
                parts[part][rest] = value
        else:
            read = torch.load(path, map_location="cpu", weights_only=True)
            parts = {name: dict(read[name]) for name in parts}
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} has other tensors than image_proj and ip_adapter: it is no IP-Adapter") from None
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a whole file: {' '.join(str(error).split())[:200]}") from None
    return tuple({name: value.float() for name, value in part.items()} for part in parts.values())  # type: ignore[return-value]


def _tokens(path: Path, tensors: dict[str, Tensor], unet: Any, is_plus: bool, shortcut: bool) -> Tokens:
    """The projection of an embedding to tokens, and where it ``is_plus``, of CLIP's features too."""
    part = "perceiver_resampler."
    inside = {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
    if inside and not is_plus:
        raise CheckpointError(
            f"{path} is a Plus adapter; its kind is published_ip_adapter_faceid_plus, or _plusv2 for the second version"
        )
    if is_plus and not inside:
        raise CheckpointError(f"{path} is no Plus adapter; if it is FaceID, its kind is published_ip_adapter_faceid")
    names = {"proj.0.weight", "proj.0.bias", "proj.2.weight", "proj.2.bias", "norm.weight", "norm.bias"}
    if {name for name in tensors if not name.startswith(part)} != names:
        raise CheckpointError(f"{path} is another IP-Adapter than FaceID: its projection has {len(tensors)} tensors")
    hidden, inputs = tensors["proj.0.weight"].shape
    (width,) = tensors["norm.weight"].shape
    if width != unet.config.cross_attention_dim:
        raise CheckpointError(
            f"{path} is for a base of context width {width}, and this one has {unet.config.cross_attention_dim}"
        )
    shape = (inputs, hidden, len(tensors["proj.2.weight"]) // width, width)
    try:
        tokens = FaceTokens(*shape, Perceiver.shaped_as(inside), shortcut) if inside else Tokens(*shape)
        tokens.load_state_dict(tensors)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not whole ({' '.join(str(error).split())[:200]})") from None
    return tokens.requires_grad_(False).eval()


def _fuse(path: Path, tensors: dict[str, Tensor], unet: Any) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Add the LoRA layers to the UNet's projections; give back the face's key and value projections.

    The file numbers the attention blocks as the UNet lists them, self-attention included.
    """
    modules, left = dict(unet.named_modules()), dict(tensors)
    projections: dict[str, list[nn.Linear]] = {"k": [], "v": []}
    try:
        for number, name in enumerate(unet.attn_processors):
            block = modules[name.removesuffix(".processor")]
            for part, layer in (("q", block.to_q), ("k", block.to_k), ("v", block.to_v), ("out", block.to_out[0])):
                if f"{number}.to_{part}_lora.up.weight" in left:
                    up = left.pop(f"{number}.to_{part}_lora.up.weight")
                    layer.weight += up @ left.pop(f"{number}.to_{part}_lora.down.weight")
            if name.endswith("attn2.processor"):
                for part, given in projections.items():
                    weight = left.pop(f"{number}.to_{part}_ip.weight")
                    given.append(nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False))
                    given[-1].weight.copy_(weight)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit this base's attention blocks ({reason})") from None
    widths = attention.cross_attention_widths(unet)
    if left or any([len(one.weight) for one in given] != widths for given in projections.values()):
        raise CheckpointError(f"{path} was made for another base: this one's cross-attention widths are {widths}")
    return nn.ModuleList(projections["k"]), nn.ModuleList(projections["v"])
