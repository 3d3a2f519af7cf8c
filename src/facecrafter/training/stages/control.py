"""Pre-training of one control module on a frozen base (Sec. 3.2)."""

from __future__ import annotations

from typing import get_args

import torch
from pydantic import model_validator
from torch import nn

from facecrafter.data.pairs import Kind
from facecrafter.models import checkpoint
from facecrafter.training.stages.diffusion import (
    DiffusionLossConfig,
    DiffusionStage,
    Mixed,
    Paired,
    add_control,
    add_controls,
    load_start,
)
from facecrafter.training.stages.objective import DiffusionObjective


class ControlConfig(Mixed, Paired, DiffusionLossConfig):
    """A run that trains the control that `stage` names."""

    fresh_controls: bool = False  # begin with untrained control modules, whatever `start` holds

    @model_validator(mode="after")
    def _learns(self) -> ControlConfig:
        if self.mixture.foreign(self.stage):
            raise ValueError(f"the {self.stage} stage trains one module alone; its mixture names another too")
        if not self.mixture.share(self.stage):
            raise ValueError(f"the {self.stage} stage learns nothing from a mixture without {self.stage}")
        return self

    @property
    def pair_kind(self) -> Kind:
        """The control's own rule, where the paper has one."""
        return next((kind for kind in get_args(Kind) if kind == self.stage), super().pair_kind)

    def build(self, device: torch.device) -> ControlStage:
        """The model that `start` holds, with an untrained control where it lacks this one."""
        return ControlStage(self, device)


class ControlStage(DiffusionStage[ControlConfig]):
    """One module and its K and V projections learn, everything else is frozen."""

    def _starting_model(self) -> checkpoint.FaceModel:
        model = load_start(self.config)
        if self.config.fresh_controls or model.controls is None:
            add_controls(model, self.config.seed)
        elif self.config.stage not in model.controls.names:
            add_control(model, self.config.stage, self.config.seed)
        return model

    def _build_objective(self) -> nn.Module:
        return DiffusionObjective(self.model, self.config.snr_gamma, frozen_encoder=True)

    def trained(self) -> list[nn.Module]:
        """The control's modules."""
        assert self.model.controls is not None
        return self.model.controls.parts(self.config.stage)

    def learned_controls(self) -> tuple[str, ...]:
        """The one."""
        return (self.config.stage,)
