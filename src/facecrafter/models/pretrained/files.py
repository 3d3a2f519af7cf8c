"""The networks of a folder of published weights: where they lie, what their configs and tensors must be."""

from __future__ import annotations

import inspect
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from facecrafter.models import scales
from facecrafter.models.pretrained.single_file import SINGLE_FILE, _of_single_file, conversion, single_file_in
from facecrafter.pickles import ForeignClasses, foreign_class

ARC2FACE = "Hugging Face FoivosPar/Arc2Face"
STABLE_DIFFUSION = "Hugging Face stable-diffusion-v1-5/stable-diffusion-v1-5"
RECOGNISER_SHA256 = "ec639a0429b4819130d1405a2d3b38beaa4cc4a6c5bd9cf48b94fdf65461de83"
# Names that tensors had in older files: transformers 5 flattened CLIPTextModel, diffusers 0.12 renamed attention.
_OLD_NAMES = (
    (re.compile(r"^text_model\."), ""),
    (re.compile(r"(attentions\.\d+)\.query\."), r"\1.to_q."),
    (re.compile(r"(attentions\.\d+)\.key\."), r"\1.to_k."),
    (re.compile(r"(attentions\.\d+)\.value\."), r"\1.to_v."),
    (re.compile(r"(attentions\.\d+)\.proj_attn\."), r"\1.to_out.0."),
)
# Tensors of older or wider CLIP files that the text model does without.
_NOT_READ = {"embeddings.position_ids", "text_projection.weight"}
_DIFFUSERS_FILES = tuple(
    f"diffusion_pytorch_model{variant}.{kind}" for kind in ("safetensors", "bin") for variant in ("", ".fp16")
)
# What people call the folder of Stable Diffusion 1.5.
_STABLE_DIFFUSION_FOLDERS = (
    "stable-diffusion-v1-5",
    "stable-diffusion-v1.5",
    "stable_diffusion_v1_5",
    "sd-v1-5",
    "sd15",
)
_CLIP_FILES = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin")


@dataclass(frozen=True)
class Finding:
    """What was found of one file.

    Attributes:
        path: the file.
        ok: whether it can be used.
        wrong: what is wrong, in words that follow the path; of a usable file what is worth knowing.
        remedy: what to do about it.
    """

    path: Path
    ok: bool
    wrong: str = ""
    remedy: str = ""

    @property
    def state(self) -> Literal["ok", "note", "wrong"]:
        """``note`` is a usable file with something worth knowing."""
        if not self.ok:
            return "wrong"
        return "note" if self.wrong else "ok"

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        return f"{self.path} {self.wrong}; {self.remedy}" if self.wrong else str(self.path)


@dataclass(frozen=True)
class Part:
    """One of the three networks.

    Attributes:
        places: folders that it may lie in, the usual one first.
        files: names that its weights may have, the preferred one first.
        published: the name that they are published by.
        kind: the class that reads it.
        build: makes an empty one, as a scale wants it.
        settings: which of its config must be the scale's; none for all.
        source: where it is published.
        single_file: whether a single-file checkpoint of Stable Diffusion has it too.
    """

    places: tuple[str, ...]
    files: tuple[str, ...]
    published: str
    kind: Any
    build: Callable[[scales.Scale], Any]
    settings: tuple[str, ...]
    source: str
    single_file: bool = False

    def place(self, folder: Path) -> Path:
        """Its folder; the usual one where there is none."""
        return next((folder / name for name in self.places if (folder / name).is_dir()), folder / self.places[0])

    def weights(self, folder: Path) -> Path:
        """The file of its tensors; the published one where there is none."""
        place = self.place(folder)
        return next((place / name for name in self.files if (place / name).is_file()), place / self.published)

    def check(self, folder: Path) -> Iterator[Finding]:
        """What is there, of its config and its tensors."""
        with torch.device("meta"):
            wanted = self.build(arc2face_scale())
        for path, check in (
            (self.place(folder) / "config.json", self._wrong_config),
            (self.weights(folder), _wrong_tensors),
        ):
            if not path.is_file():
                whole = single_file_in(folder, self.place(folder)) if self.single_file else None
                if whole is None:
                    yield Finding(path, False, "is missing", f"get it from {self.source}")
                else:
                    remedy = conversion(whole, self.place(folder), self.kind.__name__)
                    yield Finding(path, False, f"is missing, and {whole} {SINGLE_FILE}", remedy)
                continue
            wrong = check(path, wanted)
            remedy = f"get the file again from {self.source}" if wrong else ""
            if wrong == SINGLE_FILE and self.single_file:
                remedy = f"move it elsewhere and {conversion(path.name, self.place(folder), self.kind.__name__)}"
            yield Finding(path, not wrong, wrong, remedy)

    def _wrong_config(self, path: Path, wanted: Any) -> str:
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "is not JSON"
        if not isinstance(given, dict):
            return "holds no settings"
        expected = _settings(wanted.config)
        found = {**_defaults(self.kind), **given}
        different = [
            f"{name} {found.get(name)} where the {arc2face_scale().name} scale has {expected[name]}"
            for name in self.settings or expected
            if not _same(found.get(name), expected[name])
        ]
        return f"says {', '.join(different[:3])}" if different else ""


UNET = Part(
    places=("arc2face",),
    files=_DIFFUSERS_FILES,
    published=_DIFFUSERS_FILES[0],
    kind=UNet2DConditionModel,
    build=lambda scale: scales.build_unet(scale),
    settings=(),
    source=ARC2FACE,
)
ENCODER = Part(
    places=("encoder",),
    files=_CLIP_FILES,
    published="pytorch_model.bin",
    kind=CLIPTextModel,
    build=lambda scale: scales.build_encoder(scale).text_model,
    settings=(
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "hidden_act",
        "layer_norm_eps",
    ),
    source=ARC2FACE,
)
AUTOENCODER = Part(
    places=("vae", *(f"{name}/vae" for name in _STABLE_DIFFUSION_FOLDERS), "sd-vae-ft-mse"),
    files=_DIFFUSERS_FILES,
    published=_DIFFUSERS_FILES[0],
    kind=AutoencoderKL,
    build=lambda scale: scales.build_autoencoder(scale),
    # Not sample_size, which says what images it was trained on and changes nothing.
    settings=(
        "latent_channels",
        "scaling_factor",
        "block_out_channels",
        "layers_per_block",
        "in_channels",
        "out_channels",
        "down_block_types",
        "up_block_types",
        "norm_num_groups",
        "act_fn",
    ),
    source=STABLE_DIFFUSION,
    single_file=True,
)
PARTS = (UNET, ENCODER, AUTOENCODER)


def _wrong_tensors(path: Path, wanted: nn.Module) -> str:
    """How a file's tensors differ in names or shapes from a network's."""
    try:
        found = {_name_today(name): shape for name, shape in _shapes(path).items()}
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        with path.open("rb") as file:
            pointer = file.read(20).startswith(b"version https://git-")
        if pointer:
            return "is a Git LFS pointer and not the file itself"
        if name := foreign_class(error):
            return str(ForeignClasses([name]))
        whole = "safetensors" if path.suffix == ".safetensors" else "PyTorch"
        return f"is not a whole {whole} file ({' '.join(str(error).split())[:80]})"
    if _of_single_file(found):
        return SINGLE_FILE
    expected = {name: tuple(value.shape) for name, value in wanted.state_dict().items()}
    for name, shape in expected.items():
        if name in found and found[name] != shape:
            return f"has {name} of shape {found[name]} where the {arc2face_scale().name} scale has {shape}"
    lacking = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected and name not in _NOT_READ]
    for names, word in ((lacking, "lacks"), (surplus, "has beyond the scale's")):
        if names:
            return f"{word} {len(names)} tensors (first: {names[0]})"
    return ""


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file's tensors, whose numbers are not read."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _name_today(name: str) -> str:
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name


def _defaults(kind: Any) -> dict[str, Any]:
    """What a class takes for the settings that a config leaves out."""
    if kind is CLIPTextModel:
        return dict(CLIPTextConfig().to_dict())
    return {name: one.default for name, one in inspect.signature(kind.__init__).parameters.items() if name != "self"}


def _settings(config: Any) -> dict[str, Any]:
    """A config of diffusers or transformers as a dictionary, without what only says how it came about."""
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def _same(one: Any, other: Any) -> bool:
    """Whether two settings mean the same: JSON has no tuples, and old configs say null for what is off."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return list(one) == list(other)
    return one == other or (not one and not other)


def arc2face_scale() -> scales.Scale:
    """The scale that published weights are of."""
    return scales.SCALES["arc2face"]
