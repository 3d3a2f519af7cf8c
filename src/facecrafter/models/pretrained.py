"""Weights as others publish them: Arc2Face's files and Stable Diffusion 1.5's, read for the arc2face scale.

A folder of weights holds

    arc2face/             config.json, diffusion_pytorch_model.safetensors: the UNet
    encoder/              config.json, pytorch_model.bin: the identity encoder, a CLIP text model
    vae/                  config.json, diffusion_pytorch_model.safetensors: Stable Diffusion's autoencoder
    arcface.onnx          the recogniser
    controls.safetensors  this project's own, where there are any

docs/arc2face.md says where each comes from.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging as transformers_logging

from facecrafter.errors import CheckpointError, ConfigError
from facecrafter.models import attention, scales
from facecrafter.models.checkpoint import CONTROLS_FILE, FORMAT, FaceModel, load_controls, load_model
from facecrafter.pickles import ForeignClasses, foreign_class, unpickled
from facecrafter.weights import ASSETS, OTHER_RECOGNISERS, sha256

log = logging.getLogger(__name__)

ARC2FACE = "Hugging Face FoivosPar/Arc2Face"
STABLE_DIFFUSION = "Hugging Face stable-diffusion-v1-5/stable-diffusion-v1-5"

# Arc2Face's own instructions put the recogniser into antelopev2/.
RECOGNISER_PLACES = ("arcface.onnx", "antelopev2/arcface.onnx")
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
    """What a look at one file showed.

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
class _Part:
    """One of the three networks.

    Attributes:
        places: folders that it may lie in, the usual one first.
        files: names that its weights may have, the preferred one first.
        kind: the class that reads it.
        build: makes an empty one, as a scale wants it.
        settings: which of its config must be the scale's; none for all.
        source: where it is published.
        single_file: whether a single-file checkpoint of Stable Diffusion has it too.
    """

    places: tuple[str, ...]
    files: tuple[str, ...]
    kind: Any
    build: Callable[[scales.Scale], Any]
    settings: tuple[str, ...]
    source: str
    single_file: bool = False

    def place(self, folder: Path) -> Path:
        """Its folder; the usual one where there is none."""
        return next((folder / name for name in self.places if (folder / name).is_dir()), folder / self.places[0])

    def weights(self, folder: Path) -> Path:
        """The file of its tensors; the preferred one where there is none."""
        place = self.place(folder)
        return next((place / name for name in self.files if (place / name).is_file()), place / self.files[0])

    def look(self, folder: Path) -> Iterator[Finding]:
        """What is there, of its config and its tensors."""
        with torch.device("meta"):
            wanted = self.build(_scale())
        for path, look in (
            (self.place(folder) / "config.json", self._wrong_config),
            (self.weights(folder), _wrong_tensors),
        ):
            if not path.is_file():
                whole = _single_file_in(folder, self.place(folder)) if self.single_file else None
                if whole is None:
                    yield Finding(path, False, "is missing", f"get it from {self.source}")
                else:
                    remedy = conversion(whole, self.place(folder), self.kind.__name__)
                    yield Finding(path, False, f"is missing, and {whole} {SINGLE_FILE}", remedy)
                continue
            wrong = look(path, wanted)
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
            f"{name} {found.get(name)} where the {_scale().name} scale has {expected[name]}"
            for name in self.settings or expected
            if not _same(found.get(name), expected[name])
        ]
        return f"says {', '.join(different[:3])}" if different else ""


UNET = _Part(
    ("arc2face",), _DIFFUSERS_FILES, UNet2DConditionModel, lambda scale: scales.build_unet(scale), (), ARC2FACE
)  # fmt: skip
ENCODER = _Part(
    places=("encoder",),
    files=_CLIP_FILES,
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
AUTOENCODER = _Part(
    places=("vae", *(f"{name}/vae" for name in _STABLE_DIFFUSION_FOLDERS), "sd-vae-ft-mse"),
    files=_DIFFUSERS_FILES,
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


# --- single-file checkpoints ------------------------------------------------------------------------------------------


SINGLE_FILE = "is a single-file checkpoint of Stable Diffusion, which is not read"
_SINGLE_FILE_NAMES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")


def is_single_file(path: Path) -> bool:
    """Whether a file is all of Stable Diffusion in one (``v1-5-pruned-emaonly.safetensors``, say), by the names of its
    tensors; no file is of what cannot be read."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return _of_single_file(file.keys())
        if path.suffix not in (".ckpt", ".pt", ".pth", ".bin"):
            return False
        content = unpickled(path, mmap=True)
        named = content.get("state_dict", content) if isinstance(content, dict) else {}
        return isinstance(named, dict) and _of_single_file(named)
    except Exception:  # safetensors, pickle, zip and torch raise types of their own
        return False


def conversion(file: Path | str, folder: Path, kind: str) -> str:
    """How a single-file checkpoint becomes a folder of diffusers', as an error says it.

    Args:
        file: the checkpoint.
        folder: where to.
        kind: the class of diffusers' that takes its part of it.
    """
    code = f"from diffusers import {kind}; {kind}.from_single_file({str(file)!r}).save_pretrained({str(folder)!r})"
    return f'convert it once, with a connection for its config: python -c "{code}"'


def refuse_single_file(path: Path, folder: str = "sd15", kind: str = "StableDiffusionPipeline") -> None:
    """Say what a single-file checkpoint is and how to convert it, where a folder is wanted.

    Raises:
        CheckpointError: the path leads to one.
    """
    if path.is_file() and is_single_file(path):
        raise CheckpointError(f"{path} {SINGLE_FILE}; {conversion(path, Path(folder), kind)}")


def _of_single_file(names: Iterable[object]) -> bool:
    return any(str(name).startswith(_SINGLE_FILE_NAMES) for name in names)


def _single_file_in(*folders: Path) -> Path | None:
    """The first single-file checkpoint that lies in one of some folders."""
    files = (path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if path.is_file())
    return next((path for path in files if path.name != CONTROLS_FILE and is_single_file(path)), None)


# --- looking ----------------------------------------------------------------------------------------------------------


def is_published(folder: Path) -> bool:
    """Whether a folder has anything of the published layout, whole or not, and is no model folder of this project."""
    return not (folder / "unet.safetensors").is_file() and any(
        (folder / part.places[0]).is_dir() for part in (UNET, ENCODER)
    )


def check(folder: Path) -> list[Finding]:
    """Look whether a folder has what the arc2face scale needs: configs, and the names and shapes of all tensors, which
    are read from the files' headers; the recogniser's file is read whole for its sha256.

    Args:
        folder: a folder of weights.

    Returns:
        One finding a file, in the order in which they are needed.
    """
    if folder.is_file() and is_single_file(folder):
        return [
            Finding(folder, False, SINGLE_FILE, conversion(folder, AUTOENCODER.place(Path("DIR")), "AutoencoderKL"))
        ]
    if not folder.is_dir():
        return [Finding(folder, False, "is no folder", "name the one that holds arc2face/, encoder/ and arcface.onnx")]
    findings = [finding for part in PARTS for finding in part.look(folder)]
    findings.append(_look_at_recogniser(folder))
    if (folder / CONTROLS_FILE).is_file():
        findings.append(_look_at_controls(folder / CONTROLS_FILE))
    return findings


def recogniser(folder: Path) -> Path:
    """The recogniser's file in a folder of weights, once it is known not to be another one. A file that is not known is
    used, and a note says so.

    Raises:
        CheckpointError: it is missing, or is not Arc2Face's.
    """
    finding = _look_at_recogniser(folder)
    if not finding.ok:
        raise CheckpointError(finding.sentence)
    if finding.wrong:
        log.warning(finding.sentence)
    return finding.path


def _look_at_recogniser(folder: Path) -> Finding:
    places = [folder / name for name in RECOGNISER_PLACES]
    path = next((place for place in places if place.is_file()), places[0])
    remedy = f"get arcface.onnx from {ARC2FACE}"
    if not path.is_file():
        other = next((place for name in places if (place := name.with_name("glintr100.onnx")).is_file()), None)
        wrong = f"is missing, and {other.name} does not replace it: it gives other people" if other else "is missing"
        return Finding(path, False, wrong, remedy)
    digest = sha256(path)
    if digest == RECOGNISER_SHA256:
        return Finding(path, True)
    if digest in OTHER_RECOGNISERS:
        return Finding(path, False, f"is {OTHER_RECOGNISERS[digest]}, which gives other people", remedy)
    wrong = _wrong_network(path)
    if wrong:
        return Finding(path, False, wrong, remedy)
    return Finding(
        path, True, "is not the file known as Arc2Face's, so it may give other people", f"when in doubt {remedy}"
    )


def _wrong_network(path: Path) -> str:
    """What keeps an ONNX file from being a recogniser of 512 numbers; shapes that it leaves open are believed."""
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # protobuf raises types of its own
        return "is not a whole ONNX file"
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [_shape(value) for value in graph.input if value.name not in stored]
    outputs = [_shape(value) for value in graph.output]
    if len(inputs) != 1 or len(outputs) != 1:
        return "is not a network of one input and one output"
    wanted = (1, 3, 112, 112), (1, _scale().embedding)
    if not (_fits(inputs[0], wanted[0]) and _fits(outputs[0], wanted[1])):
        return f"turns {inputs[0]} into {outputs[0]}, not {wanted[0]} into {wanted[1]}"
    return ""


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return not shape or (len(shape) == len(wanted) and all(a in (0, b) for a, b in zip(shape, wanted, strict=True)))


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of an ONNX input or output, 0 where a side is open."""
    return tuple(side.dim_value for side in value.type.tensor_type.shape.dim)


def _look_at_controls(path: Path) -> Finding:
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
    except (SafetensorError, OSError):
        return Finding(path, False, "is not a whole safetensors file", "put another in its place, or take it away")
    wanted = {"format": FORMAT, "kind": "controls", "scale": _scale().name}
    if any(said.get(name) != value for name, value in wanted.items()):
        return Finding(path, False, f"holds no controls of the {_scale().name} scale", "take it away")
    return Finding(path, True)


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
            return f"has {name} of shape {found[name]} where the {_scale().name} scale has {shape}"
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


def _scale() -> scales.Scale:
    return scales.SCALES["arc2face"]


# --- loading ----------------------------------------------------------------------------------------------------------


def load(folder: Path, controls: Path | None = None) -> FaceModel:
    """Read the networks of a folder of weights, in float32 and evaluation mode. The recogniser is not one of them.

    Args:
        folder: the folder.
        controls: a controls file to use in place of the folder's.

    Raises:
        CheckpointError: a part is missing or damaged, or is another network than the scale's.
    """
    refuse_single_file(folder, "DIR/vae", "AutoencoderKL")
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder of weights {folder}")
    unet, text_model, autoencoder = (_read(folder, part) for part in PARTS)
    attention.install(unet)
    model = FaceModel(_scale(), unet, scales.wrap_encoder(_scale(), text_model), autoencoder)
    path = controls or folder / CONTROLS_FILE
    if controls or path.is_file():
        model.controls = load_controls(path, model)
    return model


def load_folder(folder: Path, controls: Path | None = None) -> FaceModel:
    """Read a folder of weights or a model folder of this project, whichever it is; see :func:`load`."""
    return load(folder, controls) if is_published(folder) else load_model(folder, controls)


def folder_of(model: str | os.PathLike[str], weights: Path | None = None) -> Path:
    """The folder of a model's networks.

    Args:
        model: ``mini``, ``arc2face``, or a model folder of this project.
        weights: the folder of published weights, for ``arc2face``.

    Raises:
        CheckpointError: the model is a single-file checkpoint.
        ConfigError: the two do not belong together.
    """
    if str(model) == "arc2face":
        if weights is None:
            raise ConfigError("the model arc2face needs the folder of its files, --weights DIR; see docs/arc2face.md")
        return weights
    if str(model) == "mini":
        if weights is not None:
            raise ConfigError("mini has weights of its own; leave --weights out, or ask for --model arc2face")
        return ASSETS / "mini"
    refuse_single_file(Path(model), "DIR/vae", "AutoencoderKL")
    if is_published(Path(model)):
        raise ConfigError(f"{model} holds published weights; ask for --model arc2face --weights {model}")
    return Path(model)


def open_model(
    model: str | os.PathLike[str], weights: Path | None = None, controls: Path | None = None
) -> tuple[FaceModel, Path]:
    """A model by what a user calls it, and where its recogniser's file is or should be, if it needs one.

    Args:
        model: as for :func:`folder_of`.
        weights: the same; beside a model folder of the arc2face scale it gives the recogniser.
        controls: a controls file to use in place of the model's own.

    Raises:
        CheckpointError: something is missing or damaged.
        ConfigError: model and weights do not belong together.
    """
    folder = folder_of(model, weights)
    loaded = load(folder, controls) if str(model) == "arc2face" else load_model(folder, controls)
    if weights is None:
        return loaded, folder / RECOGNISER_PLACES[0]
    if loaded.scale is not _scale():
        raise ConfigError(f"{model} is of the {loaded.scale.name} scale and reads no published weights; leave them out")
    return loaded, recogniser(weights)


def _read(folder: Path, part: _Part) -> Any:
    for finding in part.look(folder):
        if not finding.ok:
            raise CheckpointError(finding.sentence)
    path = part.weights(folder)
    try:
        with _without_bar():
            module, seen = part.kind.from_pretrained(
                part.place(folder),
                local_files_only=True,
                use_safetensors=path.suffix == ".safetensors",
                variant="fp16" if ".fp16." in path.name else None,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} could not be read: {' '.join(str(error).split())[:200]}") from None
    if seen["missing_keys"]:
        raise CheckpointError(f"{path} was read without {len(seen['missing_keys'])} of its tensors; get it again")
    return module.float().eval()


@contextmanager
def _without_bar() -> Iterator[None]:
    """Transformers shows a bar of its own, which is full at once."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
