"""Models by what a user calls them, and the networks of a folder of published weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from facecrafter.errors import CheckpointError, ConfigError
from facecrafter.models import attention, scales
from facecrafter.models.checkpoint import CONTROLS_FILE, FaceModel, load_controls, load_model
from facecrafter.models.pretrained.checking import is_published, recogniser
from facecrafter.models.pretrained.files import PARTS, Part, arc2face_scale
from facecrafter.models.pretrained.single_file import refuse_single_file
from facecrafter.weights import ASSETS, RECOGNISER_PLACES


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
    model = FaceModel(arc2face_scale(), unet, scales.wrap_encoder(arc2face_scale(), text_model), autoencoder)
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
    if loaded.scale is not arc2face_scale():
        raise ConfigError(f"{model} is of the {loaded.scale.name} scale and reads no published weights; leave them out")
    return loaded, recogniser(weights)


def _read(folder: Path, part: Part) -> Any:
    for finding in part.check(folder):
        if not finding.ok:
            raise CheckpointError(finding.sentence)
    path = part.weights(folder)
    try:
        with _without_bar():
            module, loading = part.kind.from_pretrained(
                part.place(folder),
                local_files_only=True,
                use_safetensors=path.suffix == ".safetensors",
                variant="fp16" if ".fp16." in path.name else None,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} could not be read: {' '.join(str(error).split())[:200]}") from None
    if loading["missing_keys"]:
        raise CheckpointError(f"{path} was read without {len(loading['missing_keys'])} of its tensors; get it again")
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
