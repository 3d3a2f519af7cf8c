"""Saving and loading: every file is a safetensors that carries its own config and says what it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from facecrafter.errors import CheckpointError, ConfigError
from facecrafter.io import whole
from facecrafter.models import attention, registry, scales
from facecrafter.models.autoencoder import FaceAutoencoder
from facecrafter.models.controls import FaceControls
from facecrafter.models.deep_autoencoder import DeepAutoencoder
from facecrafter.models.guidance_student import GuidanceStudent, layers_of
from facecrafter.models.identity_encoder import IdentityEncoder
from facecrafter.weights import ASSETS

FORMAT = "facecrafter-1"
CONTROLS_FILE = "controls.safetensors"
STUDENT_FILE = "distilled.safetensors"


@dataclass
class FaceModel:
    """A whole model: the base, and the controls if there are any.

    Attributes:
        scale: which of :data:`facecrafter.models.scales.SCALES` it is.
        unet, encoder, autoencoder: the base.
        controls: the control modules, or None for a base alone.
        distilled: a student of this base with these controls, or None where none was trained.
    """

    scale: scales.Scale
    unet: UNet2DConditionModel
    encoder: IdentityEncoder
    autoencoder: FaceAutoencoder | DeepAutoencoder | AutoencoderKL
    controls: FaceControls | None = None
    distilled: GuidanceStudent | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The parts by their file's stem."""
        parts = {
            "unet": self.unet,
            "encoder": self.encoder.text_model,
            "autoencoder": self.autoencoder,
            "controls": self.controls,
            "distilled": self.distilled,
        }
        return {name: module for name, module in parts.items() if module is not None}

    def to(self, *args: Any, **kwargs: Any) -> FaceModel:
        """Move or cast every part, as ``torch.nn.Module.to`` does."""
        for module in (self.encoder, *self.modules.values()):
            nn.Module.to(module, *args, **kwargs)  # diffusers' own warns of float32 modules, of which these have none
        return self


def digest(modules: Iterable[nn.Module], settings: Mapping[str, object]) -> str:
    """One key for networks and settings, 16 hexadecimal digits: equal keys, equal images."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for module in modules:
        for name, value in module.state_dict().items():
            key.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            key.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return key.hexdigest()[:16]


# What is trained from somebody else's weights is under their terms too.
LICENCES = {"mini": "of the project", "arc2face": "as the weights that it was trained on or from"}


def save_model(model: FaceModel, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write every part of a model into a folder, each file whole or not at all.

    Raises:
        CheckpointError: the folder cannot be made, or a file not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"the folder {folder} could not be made: {error.strerror}") from None
    for name, module in model.modules.items():
        save_part(module, folder / f"{name}.safetensors", name, model.scale.name, dtype)


def save_part(module: nn.Module, path: Path, kind: str, scale: str, dtype: torch.dtype = torch.float32) -> None:
    """Write one module with its config.

    Args:
        module: a UNet, CLIP text model, autoencoder, :class:`FaceControls` or :class:`GuidanceStudent`.
        path: the file to write.
        kind: ``unet``, ``encoder``, ``autoencoder``, ``controls`` or ``distilled``.
        scale: the scale it belongs to.
        dtype: what floating-point numbers are stored as.
    """
    own: Any = module.config
    config = own.to_dict() if hasattr(own, "to_dict") else dict(own)
    metadata = {
        "format": FORMAT,
        "kind": kind,
        "scale": scale,
        "config": json.dumps({key: value for key, value in config.items() if not key.startswith("_")}, default=str),
        "licence": LICENCES[scale],
    }
    tensors = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for name, value in module.state_dict().items()
    }
    try:
        with whole(path) as partial:
            save_file(tensors, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} could not be written: {error}") from None


def copy_parts(source: Path, folder: Path, dtype: torch.dtype) -> None:
    """Write every part that a model folder holds into another, its numbers in a type.

    Raises:
        CheckpointError: a part is damaged, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"the folder {folder} could not be made: {error.strerror}") from None
    for path in sorted(source.glob("*.safetensors")):
        metadata, tensors = _read(path)
        stored = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
        try:
            with whole(folder / path.name) as partial:
                save_file(stored, partial, metadata)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / path.name} could not be written: {error}") from None


def load_model(folder: Path, controls: Path | None = None) -> FaceModel:
    """Read a model folder written by :func:`save_model`.

    Args:
        folder: the folder.
        controls: another controls file to use in place of the folder's.

    Raises:
        CheckpointError: a part is missing, damaged, of another kind, or of another scale than the rest.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no model folder {folder}")
    unet_path = folder / "unet.safetensors"
    scale = _scale(unet_path)
    unet = load_part(unet_path, "unet", scale.name)
    attention.install(unet)
    autoencoder = load_part(folder / "autoencoder.safetensors", "autoencoder", scale.name)
    model = FaceModel(
        scale=scales.fitting(scale, autoencoder),
        unet=unet,
        encoder=scales.wrap_encoder(scale, load_part(folder / "encoder.safetensors", "encoder", scale.name)),
        autoencoder=autoencoder,
    )
    path = controls or folder / CONTROLS_FILE
    if controls or path.is_file():
        model.controls = load_controls(path, model)
    # A student says what Eq. 6 says with the folder's own controls, not with others.
    if controls is None and (folder / STUDENT_FILE).is_file():
        model.distilled = load_student(folder / STUDENT_FILE, model)
    return model


@torch.no_grad()
def blended(one: FaceModel, other: FaceModel, share: float) -> FaceModel:
    """A model whose every parameter lies between those of two (Wortsman et al., 2022, *Robust fine-tuning of zero-shot
    models*): of a model and what it became by training further, which keeps much of both.

    Args:
        one, other: of one scale, with the same parts. A student of either has no part in it.
        share: of the other, in [0, 1].

    Returns:
        ``one``, changed in place. ``other`` loses its student.

    Raises:
        CheckpointError: the two differ in scale, in parts or in the shape of one.
        ConfigError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of the other model is from 0 to 1, not {share}")
    one.distilled = other.distilled = None
    if one.scale != other.scale or one.modules.keys() != other.modules.keys():
        raise CheckpointError("two models are blended that differ in scale, or of which one has no controls")
    for name, module in one.modules.items():
        own, theirs = module.state_dict(), other.modules[name].state_dict()
        if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in theirs.items()}:
            raise CheckpointError(f"two models are blended whose {name} differ in shape")
        for key, value in own.items():
            if value.is_floating_point():
                value.lerp_(theirs[key].to(value), share)
    return one


def load_controls(path: Path, model: FaceModel) -> FaceControls:
    """Read a controls file and check that it fits a base.

    Raises:
        CheckpointError: it is not a controls file, or was made for another scale or another base.
    """
    controls = load_part(path, "controls", model.scale.name)
    ours, theirs = attention.cross_attention_widths(model.unet), list(controls.config.block_widths)
    if ours != theirs:
        raise CheckpointError(f"{path} was made for a base with cross-attention widths {theirs}, this one has {ours}")
    return controls


def load_student(path: Path, model: FaceModel) -> GuidanceStudent:
    """Read a student's file and check that it fits a base.

    Raises:
        CheckpointError: it is not a student's file, or was made for another scale or another base.
    """
    student: GuidanceStudent = load_part(path, "distilled", model.scale.name)
    if [list(layer) for layer in student.config.layers] != layers_of(model.unet):
        raise CheckpointError(f"{path} was made for a base with other layers than this one; distil it again")
    return student


def load_part(
    path: Path,
    kind: str,
    scale: str,
    build: Callable[[dict[str, Any]], Any] | None = None,
    title: str | None = None,
) -> Any:
    """Read one file written by :func:`save_part` and rebuild its module, in float32 and evaluation mode.

    Args:
        path: the file.
        kind, scale: what it must be.
        build: makes the module of its config; None for the kinds that :func:`save_part` names.
        title: what an error calls it.

    Raises:
        CheckpointError: the file is missing or damaged, or holds another kind or scale.
    """
    metadata, tensors = _read(path)
    for name, wanted in (("format", FORMAT), ("kind", kind), ("scale", scale)):
        if metadata.get(name) != wanted:
            found = metadata.get(name, "nothing")
            title = title or f"{scale} {kind} of {FORMAT}"
            raise CheckpointError(f"{path} is not a {title}: its {name} says {found}")
    try:
        config = json.loads(metadata["config"])
        unknown = set(config.get("controls", ())) - registry.known().keys()
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} carries no config that a {kind} can be built from") from None
    if unknown:
        raise CheckpointError(
            f"{path} has the control '{min(unknown, key=str)}', which this version does not know; update it"
        )
    try:
        # Without memory first: a damaged config may ask for any amount.
        with torch.device("meta"):
            own = (build(config) if build else _build(kind, scale, config)).state_dict()
    except Exception:  # of a damaged config: whatever building from it comes to
        raise CheckpointError(f"{path} carries no config that a {kind} can be built from") from None
    wrong = own.keys() ^ tensors.keys() or {name for name in own if own[name].shape != tensors[name].shape}
    if wrong:
        raise CheckpointError(f"{path} does not hold the tensors its config asks for (first: {min(wrong)})")
    module = build(config) if build else _build(kind, scale, config)
    module.load_state_dict({name: value.float() for name, value in tensors.items()})
    return module.eval()


def _build(kind: str, scale: str, config: dict[str, Any]) -> Any:
    if kind == "encoder":
        return CLIPTextModel(CLIPTextConfig(**config))
    if kind == "controls":
        return FaceControls(**config)
    builders = {
        "unet": UNet2DConditionModel,
        "autoencoder": _autoencoder_class(scale, config),
        "distilled": GuidanceStudent,
    }
    return builders[kind].from_config(config)


def image_size(folder: Path) -> int | None:
    """Side in pixels of the images of a folder's autoencoder, where its file names it."""
    try:
        metadata, _ = _read(folder / "autoencoder.safetensors", tensors=False)
        size = json.loads(metadata["config"]).get("size")
    except (CheckpointError, KeyError, ValueError, AttributeError, RecursionError):  # who loads it says what is wrong
        return None
    return size if isinstance(size, int) else None


def usual_autoencoder(scale: scales.Scale) -> FaceAutoencoder | DeepAutoencoder | AutoencoderKL:
    """A fresh autoencoder as the scale's usual weights have it: mini's are those that are shipped."""
    if scale.name != "mini":
        return scales.build_autoencoder(scale)
    metadata, _ = _read(ASSETS / "mini" / "autoencoder.safetensors", tensors=False)
    made: FaceAutoencoder | DeepAutoencoder = _build("autoencoder", scale.name, json.loads(metadata["config"]))
    return made


def _autoencoder_class(scale: str, config: Mapping[str, Any]) -> type[ModelMixin]:
    """By what the config has: only the deep one names the size of its images."""
    if scale != "mini":
        return AutoencoderKL
    return DeepAutoencoder if "size" in config else FaceAutoencoder


def _scale(path: Path) -> scales.Scale:
    metadata, _ = _read(path, tensors=False)
    name = metadata.get("scale", "")
    if name not in scales.SCALES:
        raise CheckpointError(f"{path} is not a checkpoint of this project")
    return scales.SCALES[name]


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            names = file.keys() if tensors else []
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
