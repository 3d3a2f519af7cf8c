"""The stages of training, one file each, by what a YAML's ``stage:`` says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facecrafter import config
from facecrafter.controls import CONTROLS
from facecrafter.errors import ConfigError, nearest
from facecrafter.training.config import RunConfig
from facecrafter.training.stages.autoencoder import AutoencoderConfig
from facecrafter.training.stages.base import BaseConfig
from facecrafter.training.stages.baseline import BaselineConfig
from facecrafter.training.stages.control import ControlConfig
from facecrafter.training.stages.distillation import DistillationConfig
from facecrafter.training.stages.emotion_estimator import EstimatorConfig
from facecrafter.training.stages.expression import ExpressionConfig
from facecrafter.training.stages.joint import JointConfig

RENAMED = {"rival": "baseline"}
# What every run wrote down while all stages had one config: the settings of every stage, whichever it was. No stage has
# all of these.
_ALL_STAGES = {"accumulate", "clip", "held_out", "identity_noise", "loss", "plain_attention", "scaffold", "snr_gamma"}
# A loss that the image losses replaced, which runs wrote down where it was off too.
_REPLACED = {"identity_loss": lambda value: not value.get("weight")}


def stages() -> dict[str, type[RunConfig]]:
    """The config of every stage by its name; each control has one of its own."""
    return {
        "autoencoder": AutoencoderConfig,
        "base": BaseConfig,
        **dict.fromkeys(CONTROLS, ControlConfig),
        "joint": JointConfig,
        "distill": DistillationConfig,
        "baseline": BaselineConfig,
        "estimator": EstimatorConfig,
        "expression": ExpressionConfig,
    }


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML file.

    Args:
        path: the file.
        overrides: values that replace the file's, by name.

    Raises:
        ConfigError: no such file, not YAML, or a name or value that is not allowed; the message says which.
    """
    return parse(path, {**config.read(path), **(overrides or {})})


def parse(path: Path, content: Mapping[str, Any]) -> RunConfig:
    """Settings as the config of the stage that they name.

    Args:
        path: where they come from, for the message.
        content: the settings. What a run of an earlier version wrote down may have other stages' settings too.

    Raises:
        ConfigError: a name or value that is not allowed; the message says which, and the nearest name that is.
    """
    content = {**content, "stage": _stage(path, content)}
    kind = stages()[content["stage"]]
    foreign = {name: owners for name in content if (owners := _owners(name)) and content["stage"] not in owners}
    if content.keys() >= _ALL_STAGES:
        off = [name for name, is_off in _REPLACED.items() if name in content and is_off(content[name])]
        content = {name: value for name, value in content.items() if name not in {*foreign, *off}}
    elif foreign:
        name, owners = next(iter(foreign.items()))
        many = f"{', '.join(owners[:-1])} and {owners[-1]} stages" if len(owners) > 1 else f"{owners[0]} stage"
        raise ConfigError(f"{path}: '{name}' is a setting of the {many}, not of {content['stage']}")
    return config.check(path, content, kind)


def _owners(name: str) -> list[str]:
    """The stages that have a setting, by its name of today or an earlier one."""
    name = RunConfig.RENAMED.get(name, name)
    return [stage for stage, kind in stages().items() if name in kind.model_fields]


def _stage(path: Path, content: Mapping[str, Any]) -> str:
    """What `stage:` says, under its name of today."""
    if "stage" not in content:
        raise ConfigError(f"{path}: stage is missing; give one of {', '.join(stages())}")
    stage = str(content["stage"])
    if stage in RENAMED:
        config.note_renamed("stage", stage, RENAMED[stage])
        return RENAMED[stage]
    if stage not in stages():
        raise ConfigError(f"{path}: there is no stage '{stage}'{nearest(stage, stages())}")
    return stage
