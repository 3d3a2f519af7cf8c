"""Rivals as their makers published them, from files the user has, at the size of Stable Diffusion 1.5.

The code has been run on tiny random files of the published layouts, and not with the real weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from facecrafter.baselines import ELSEWHERE, head
from facecrafter.baselines.adapter import Tokens
from facecrafter.baselines.controlnet import ControlNetRival
from facecrafter.baselines.rival import RivalMethod, Shown, check_sampling, digest
from facecrafter.errors import CheckpointError, ConfigError, WeightsError
from facecrafter.evaluation.method import Request, Subject
from facecrafter.model import attention, zoo
from facecrafter.model.attention import AttentionInputs, Branch, KeyValue
from facecrafter.model.checkpoint import FaceModel
from facecrafter.perception.face import Face, load_photo
from facecrafter.perception.identity import OnnxRecogniser, Recogniser
from facecrafter.sampling.guidance import Guidance, combine
from facecrafter.sampling.sampler import decode, denoise, pixels
from facecrafter.weights import OTHER_RECOGNISERS, sha256


class PublishedControlNet(RivalMethod):
    """Arc2Face's ControlNet, a diffusers folder (``config.json``, ``diffusion_pytorch_model.safetensors``).

    It reads normals that EMOCA renders of a FLAME mesh with the target's pose and expression and the person's own head
    shape. Guidance is its makers': the normals are in both predictions.

    Args:
        model: the folder.
        base: Arc2Face, or the folder of its files.
        renders: a folder with EMOCA's normals for each pair, ``IDENTITY/TARGET.png``, both being the photos' paths
            inside their data set (``Ann/1.jpg/Bob/2.jpg.png``). None for normals of MediaPipe's mesh, which show the
            target's own face without its skull and which the network was not trained on.
        identity_scale: of guidance; 3 is Arc2Face's own.
        steps, scheduler, batch_size: see :class:`RivalMethod`.

    Raises:
        CheckpointError: the folder does not hold a ControlNet for this base.
        ConfigError: a setting that cannot be used, or `renders` is not a folder.
    """

    SHOWN: ClassVar[Shown] = {"none": (False, True), "identity": (True, True)}

    def __init__(
        self,
        model: Path,
        base: FaceModel | Path,
        renders: Path | None = None,
        identity_scale: float = 3.0,
        steps: int | None = None,
        scheduler: str | None = None,
        batch_size: int = 4,
    ) -> None:
        from facecrafter.model.published import load_folder

        whole = base if isinstance(base, FaceModel) else load_folder(Path(base))
        super().__init__(_controlnet(model, whole), whole, identity_scale, None, steps, scheduler, batch_size)
        self.renders = None if renders is None else Path(renders)
        if self.renders is not None and not self.renders.is_dir():
            raise ConfigError(f"there is no folder of renders {self.renders}; leave it out, or make it with EMOCA")
        normals = "MediaPipe's points, which it was not trained on" if renders is None else "EMOCA"
        self.name, self.note = "Arc2Face + ControlNet (published)", f"Published weights; normals by {normals}."

    def settings(self) -> dict[str, object]:
        """See :class:`RivalMethod`; the renders count by what is in them."""
        files = sorted(self.renders.rglob("*.png")) if self.renders else []
        return {**super().settings(), "published": True, "renders": [f"{path.name} {sha256(path)}" for path in files]}

    def condition(self, requests: Sequence[Request]) -> Tensor | None:
        """Normals as colours, ``(B, 3, S, S)`` in [0, 1]: to the right red, up green, to the viewer blue, grey around.

        Raises:
            PhotoError: a render is missing or unreadable.
            ConfigError: a render has another size than the pictures.
        """
        drawn = [self._normals(request.identity, request.landmarks) for request in requests if request.landmarks]
        return torch.from_numpy(np.stack(drawn)) if drawn else None

    def _normals(self, identity: Subject, target: Subject) -> NDArray[np.float32]:
        if self.renders is None:
            return np.asarray(head.draw(target.points, len(target.image), self.size)[:3] / 2 + 0.5, np.float32)
        path = self.renders / identity.file / f"{target.file}.png"
        picture = load_photo(path)
        if picture.shape != (self.size, self.size, 3):
            raise ConfigError(f"{path} is {picture.shape[1]}x{picture.shape[0]}, and the pictures are {self.size} px")
        return np.asarray(picture.transpose(2, 0, 1) / 255, np.float32)


def _controlnet(folder: Path, base: FaceModel) -> ControlNetRival:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json; give the folder controlnet/ of Arc2Face's files")
    try:
        rival, seen = ControlNetRival.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder} could not be read: {' '.join(str(error).split())[:200]}") from None
    if seen["missing_keys"]:
        raise CheckpointError(f"{folder} lacks {len(seen['missing_keys'])} tensors of a ControlNet; get it again")
    if not rival.fits(base):
        raise CheckpointError(f"{folder} holds a ControlNet for another base than the {base.scale.name} scale's")
    rival.requires_grad_(False).eval()
    return rival


# --- IP-Adapter-FaceID ------------------------------------------------------------------------------------------------

BUFFALO_L = next(digest for digest, name in OTHER_RECOGNISERS.items() if name.startswith("w600k_r50"))


class PublishedFaceID:
    """IP-Adapter-FaceID for Stable Diffusion 1.5 (``ip-adapter-faceid_sd15.bin``); its LoRA layers are added to the
    base's projections.

    It knows people by InsightFace's buffalo_l and not by Arc2Face's recogniser, so it looks at the photo itself.

    Args:
        model: the file, ``.bin`` or ``.safetensors``, with the tensors ``image_proj.*`` and ``ip_adapter.*``.
        base: a folder of Stable Diffusion 1.5: ``unet/``, ``text_encoder/``, ``tokenizer/``, ``vae/``.
        recogniser: ``w600k_r50.onnx`` of buffalo_l, or a recogniser of as many numbers as the file's.
        prompt, negative: the words beside the face; they are for every picture the same.
        guidance_scale: of both the words and the face.
        adapter_scale: the coefficient of the face's attention.
        steps, scheduler, batch_size: see :class:`RivalMethod`; Stable Diffusion 1.5 has Arc2Face's noise schedule.
        device: where to compute, as torch calls it.

    Raises:
        CheckpointError: a file is missing, damaged, or another one.
        WeightsError: the recogniser is another one.
        ConfigError: a setting that cannot be used.
    """

    name = "IP-Adapter-FaceID (published)"

    def __init__(
        self,
        model: Path,
        base: FaceModel | Path,
        recogniser: Path | Recogniser | None = None,
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
        own: Any = zoo.ARC2FACE.sampling
        self.steps = own["steps"] if steps is None else steps
        self.scheduler = own["scheduler"] if scheduler is None else scheduler
        check_sampling(self.steps, self.scheduler, batch_size)
        self.batch_size, self.adapter_scale = batch_size, adapter_scale
        self.coefficients = Guidance(guidance_scale).coefficients(False, False)
        self.words = prompt, negative
        self.unet, self.autoencoder, self.text, self.tokenizer = _stable_diffusion(Path(base))
        image_proj, layers = _read_faceid(model)
        self.tokens = _tokens(model, image_proj, self.unet)
        self.keys, self.values = _fuse(model, layers, self.unet)
        self.extra_parameters = sum(value.numel() for value in (*image_proj.values(), *layers.values()))
        self.recogniser = _buffalo(recogniser)
        if self.recogniser.dimension != image_proj["proj.0.weight"].shape[1]:
            raise WeightsError(
                f"{model} reads {image_proj['proj.0.weight'].shape[1]} numbers a face, and the recogniser "
                f"{self.recogniser.name} gives {self.recogniser.dimension}; give w600k_r50.onnx of buffalo_l"
            )
        self.note = f"Published weights on Stable Diffusion 1.5; prompt '{prompt}'; knows people by buffalo_l."
        for part in (self.unet, self.autoencoder, self.text, self.tokens, self.keys, self.values):
            part.to(device)
        shrunk = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        self.size = int(self.unet.config.sample_size) * shrunk

    @cached_property
    def key(self) -> str:
        """See :class:`facecrafter.evaluation.method.Method`."""
        settings = {
            "words": self.words,
            "coefficients": self.coefficients,
            "adapter_scale": self.adapter_scale,
            "steps": self.steps,
            "scheduler": self.scheduler,
            "recogniser": self.recogniser.name,
        }
        return digest((self.unet, self.autoencoder, self.text, self.tokens, self.keys, self.values), settings)

    def generate(self, requests: Sequence[Request]) -> NDArray[np.uint8]:
        """See :class:`facecrafter.evaluation.method.Method`; only who and the seed are read."""
        pictures = [np.empty((0, self.size, self.size, 3), np.uint8)]
        for first in range(0, len(requests), self.batch_size):
            batch = requests[first : first + self.batch_size]
            faces = self.recogniser.embed([_face(request.identity) for request in batch])
            pictures.append(
                self._sample(torch.from_numpy(faces).to(self.unet.device), [request.seed for request in batch])
            )
        return np.concatenate(pictures)

    @torch.no_grad()
    def _sample(self, faces: Tensor, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Pictures of people by their embeddings ``(B, D)``. Without the person stands an embedding of zeros."""
        count = len(faces)
        prompt, negative = (self._read(words).expand(count, -1, -1) for words in self.words)
        shown = {"none": (negative, torch.zeros_like(faces)), "identity": (prompt, faces)}
        context = torch.cat([shown[name][0] for name in self.coefficients])
        rows = torch.arange(len(context), device=faces.device)
        weights = torch.full((len(context),), self.adapter_scale, device=faces.device)
        keys_values = self._keys_values(torch.cat([shown[name][1] for name in self.coefficients]))
        conditions = {"conditions": AttentionInputs([Branch(keys_values, rows, weights)])}

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            every = torch.cat([noisy] * len(self.coefficients))
            said = self.unet(every, timestep, context, cross_attention_kwargs=conditions).sample
            return combine(said, self.coefficients)

        latents = denoise(predict, self.unet, zoo.ARC2FACE.scheduler, self.steps, self.scheduler, seeds)
        return pixels(decode(self.autoencoder, latents, self.size))

    def _keys_values(self, faces: Tensor) -> list[KeyValue]:
        tokens = self.tokens(faces)
        return [(key(tokens), value(tokens)) for key, value in zip(self.keys, self.values, strict=True)]

    def _read(self, words: str) -> Tensor:
        """Words to text tokens ``(1, T, context)``."""
        length = self.text.config.max_position_embeddings
        ids = self.tokenizer(words, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        tokens: Tensor = self.text(ids.input_ids.to(self.text.device)).last_hidden_state
        return tokens


def _face(subject: Subject) -> Face:
    """A subject as the recognisers take it; where it lay in its photo does not matter to them."""
    side = float(len(subject.image))
    pose = np.eye(4, dtype=np.float32)
    return Face(subject.image, subject.points, subject.blendshapes, pose, (0.0, 0.0, side, side))


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
    for name, kind in {**parts, "tokenizer": CLIPTokenizer}.items():
        if not (folder / name).is_dir():
            raise CheckpointError(f"{folder} has no folder {name}; give a folder of Stable Diffusion 1.5")
        try:
            loaded.append(kind.from_pretrained(folder / name, local_files_only=True))
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{folder / name} could not be read: {' '.join(str(error).split())[:200]}") from None
    for module in loaded[: len(parts)]:
        module.float().requires_grad_(False).eval()
    attention.install(loaded[0])
    return tuple(loaded)  # type: ignore[return-value]


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


def _tokens(path: Path, tensors: dict[str, Tensor], unet: Any) -> Tokens:
    """The projection of an embedding to tokens."""
    if any(name.startswith("perceiver_resampler") for name in tensors):
        raise CheckpointError(f"{path} is a Plus adapter: {ELSEWHERE['published_ip_adapter_faceid_plus']}")
    names = {"proj.0.weight", "proj.0.bias", "proj.2.weight", "proj.2.bias", "norm.weight", "norm.bias"}
    if tensors.keys() != names:
        raise CheckpointError(f"{path} is another IP-Adapter than FaceID: its projection has {len(tensors)} tensors")
    hidden, inputs = tensors["proj.0.weight"].shape
    (width,) = tensors["norm.weight"].shape
    if width != unet.config.cross_attention_dim:
        raise CheckpointError(
            f"{path} is for a base of context width {width}, and this one has {unet.config.cross_attention_dim}"
        )
    tokens = Tokens(inputs, hidden, len(tensors["proj.2.weight"]) // width, width)
    tokens.load_state_dict(tensors)
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
