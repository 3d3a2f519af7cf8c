"""What a plan names beside people and cells, checked when it is written and not when it is made. Needs no network."""

from __future__ import annotations

from pathlib import Path

from facecrafter.datasets.config import PlanConfig, SamplingConfig
from facecrafter.datasets.identities import people_path
from facecrafter.errors import ConfigError
from facecrafter.faces.asked import read_presets
from facecrafter.pipelines.settings import Settings, check_known


def check_settings(config: PlanConfig) -> None:
    """Refuse settings that no image could be made with.

    Raises:
        ConfigError: there is no such model, or none that reads the plan's embeddings; sampling that is out of its
            range; or presets that cannot be read.
    """
    _check_model(config.model)
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


def _check_model(model: str) -> None:
    """Refuse what is no model of the mini scale, as far as its name shows."""
    if model == "arc2face":
        raise ConfigError(
            "model: arc2face reads arcface's embeddings, which no plan has; name mini, or a folder of its scale"
        )
    if model != "mini" and not Path(model).is_dir():
        raise ConfigError(f"model: there is no model '{model}'; name mini, or the folder of a model that you trained")


def _check_sampling(sampling: SamplingConfig) -> None:
    try:
        check_known(Settings(**sampling.model_dump()))
    except ConfigError as error:
        raise ConfigError(f"sampling: {error}") from None
