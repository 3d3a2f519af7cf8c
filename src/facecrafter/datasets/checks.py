"""What a plan names beside people and cells, checked when it is written and not when it is made. Needs no network."""

from __future__ import annotations

from pathlib import Path

from facecrafter.datasets.config import PlanConfig, SamplingConfig, recogniser_of
from facecrafter.datasets.identities import people_path
from facecrafter.errors import ConfigError
from facecrafter.faces.asked import read_presets
from facecrafter.pipelines.settings import Settings, check_known
from facecrafter.weights import RECOGNISER_PLACES


def check_settings(config: PlanConfig) -> None:
    """Refuse settings that no image could be made with.

    Raises:
        ConfigError: there is no such model, or none that reads the plan's embeddings; there is no file of the
            recogniser that it needs; sampling that is out of its range; or presets that cannot be read.
    """
    _check_model(config)
    _check_sampling(config.sampling)
    if config.presets is not None:
        read_presets(config.presets)


def check_inputs(config: PlanConfig, place: Path, plan: Path) -> None:
    """Refuse to write a plan over what it is made of.

    Args:
        config: what the plan is made of.
        place: where that was read.
        plan: where the plan is to be.

    Raises:
        ConfigError: the plan or its identities would replace an input.
    """
    read = [place, config.presets, *(source.embeddings for source in config.identities)]
    inputs = {one.resolve() for one in read if one is not None}
    if taken := next((one for one in (plan, people_path(plan)) if one.resolve() in inputs), None):
        raise ConfigError(
            f"{taken} is an input of the plan and would be replaced by it; name another file for the plan"
        )


def _check_model(config: PlanConfig) -> None:
    """Refuse what is no model of the plan's embeddings, or lacks the recogniser's file, as far as names show."""
    model, reads = config.model, recogniser_of(config.model)
    if reads is None:
        lacks = f"{model} holds no model that can be read" if Path(model).is_dir() else f"there is no model '{model}'"
        raise ConfigError(
            f"model: {lacks}; name mini, or the folder of a model that you trained, or arc2face with its weights "
            "(docs/arc2face.md)"
        )
    if reads != config.recogniser:
        raise ConfigError(
            f"recogniser: the model {model} reads embeddings by {reads}, not {config.recogniser}; leave recogniser out"
        )
    if reads == "arcface":
        _check_arcface(model, config.weights)
    elif config.weights is not None:
        raise ConfigError(f"weights: the model {model} reads no published weights; leave weights out")


def _check_arcface(model: str, weights: Path | None) -> None:
    """Refuse a model of the arc2face scale without ``arcface.onnx``, by which its images are labelled."""
    if model == "arc2face" and weights is None:
        raise ConfigError("model: arc2face needs the folder of its files; give weights (docs/arc2face.md)")
    if weights is not None and not weights.is_dir():
        raise ConfigError(f"weights: there is no folder {weights}; name that of Arc2Face's files (docs/arc2face.md)")
    folder, places = (Path(model), RECOGNISER_PLACES[:1]) if weights is None else (weights, RECOGNISER_PLACES)
    if not any((folder / place).is_file() for place in places):
        raise ConfigError(
            f"{'model' if weights is None else 'weights'}: {folder} holds no arcface.onnx, by which images are "
            "labelled; put it there, or give the folder that has it as weights (docs/arc2face.md)"
        )


def _check_sampling(sampling: SamplingConfig) -> None:
    try:
        check_known(Settings(**sampling.model_dump()))
    except ConfigError as error:
        raise ConfigError(f"sampling: {error}") from None
