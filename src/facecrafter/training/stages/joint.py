"""The joint disentanglement stage (Sec. 3.2): the controls and the identity encoder by Eq. 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from facecrafter.config import Strict
from facecrafter.data.dataset import TrainingSet
from facecrafter.errors import ConfigError
from facecrafter.models import attention, checkpoint
from facecrafter.training import losses
from facecrafter.training.batches import Draw, draw_joint
from facecrafter.training.config import Share
from facecrafter.training.stages.diffusion import (
    DiffusionLossConfig,
    DiffusionStage,
    EncoderConfig,
    Paired,
    load_start,
    need_controls,
)
from facecrafter.training.stages.objective import DiffusionObjective


class Joint(Strict):
    """Eq. 5. What the paper leaves open is said in docs/method.md."""

    weight: float = Field(5e-4, ge=0)  # lambda of Eq. 5; 0 trains jointly without the loss
    # Which feature Eq. 2 compares, which the paper leaves open: what each branch adds by itself, or Eq. 1's sum. Pulled
    # apart by branches, mini kept 0.05 more of the identity cosine than without the loss; by sums it lost 0.02.
    reading: Literal["sum", "branch"] = "branch"
    groups: int = Field(1, ge=1)  # data points a batch, each replicated batch_size / groups times; 1 is the paper's
    drop: Share = 0.05  # share of replicas without any condition; without them guidance's starting point drifts
    identity_projections: bool = False  # train the base's identity K and V too


class JointConfig(Paired, EncoderConfig, DiffusionLossConfig):
    """A run of the joint stage, which mixes the combinations of Sec. 3.2 evenly: four of two controls."""

    stage: Literal["joint"] = "joint"
    joint: Joint = Joint()

    @model_validator(mode="after")
    def _replicates(self) -> JointConfig:
        if self.batch_size % self.joint.groups:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of joint.groups {self.joint.groups}")
        return self

    def build(self, device: torch.device) -> JointStage:
        """The model that `start` holds, with its controls."""
        return JointStage(self, device)


class JointObjective(DiffusionObjective):
    """Eq. 5: Eq. 4 and, lambda times, Eq. 3 over the samples of each data point."""

    def __init__(self, model: checkpoint.FaceModel, joint: Joint, gamma: float | None = None) -> None:
        super().__init__(model, gamma)
        self.joint = joint

    def forward(self, masks: Tensor, group: int, **batch: Any) -> Tensor:  # type: ignore[override]
        """The loss of a batch.

        Args:
            masks: face masks ``(B, M, M)`` in [0, 1].
            group: how many neighbouring samples are replicas of one data point.
            batch: see :class:`DiffusionObjective`.
        """
        if not self.joint.weight:
            return super().forward(**batch)
        record = attention.AttentionRecord()
        loss = super().forward(**batch, record=record)
        taken = record.taken()
        features = [
            losses.attention_features(own, controls, self.joint.reading)
            for own, controls in zip(taken.identity, taken.controls, strict=True)
        ]
        combinations = losses.combination(batch["dropped"], batch["weights"])
        return loss + self.joint.weight * losses.attention_disentanglement(features, masks, combinations, group)


class JointStage(DiffusionStage[JointConfig]):
    """The controls and the transformer of the identity encoder learn."""

    def _starting_model(self) -> checkpoint.FaceModel:
        return need_controls(load_start(self.config), self.config)

    def _build_objective(self) -> nn.Module:
        return JointObjective(self.model, self.config.joint, self.config.snr_gamma)

    def trained(self) -> list[nn.Module]:
        """Controls, encoder, and the identity's K and V where these are to learn too."""
        assert self.model.controls is not None
        own = attention.identity_projections(self.model.unet) if self.config.joint.identity_projections else []
        return [self.model.controls, self.model.encoder, *own]

    def learned_controls(self) -> Sequence[str]:
        """All of them."""
        assert self.model.controls is not None
        return self.model.controls.names

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """Rates of the encoder and of the identity's K and V."""
        return self.config.encoder_rates(self.model)

    @property
    def _points(self) -> int:
        return self.config.joint.groups

    def _draw(self, data: TrainingSet, seed: int, step: int) -> Draw:
        joint, controls = self.config.joint, self.learned_controls()
        about = self._about(data, seed, step)
        return draw_joint(*about, controls, joint.groups, joint.drop, self.config.pair, self.drawn_on)

    def _more(self, data: TrainingSet, chosen: Draw, identity: Tensor, place: tuple[int, int, int]) -> dict[str, Any]:
        count = len(chosen.indices)
        # A group that is cut into several parts of the batch is compared within each part.
        group = min(self.config.batch_size // self.config.joint.groups, count)
        if count % group:
            raise ConfigError(
                f"groups of {group} replicas do not fit into parts of {count} samples; choose joint.groups so that a "
                "group is a multiple of a part or a part of a group"
            )
        return {"masks": data.face_masks(chosen.indices), "group": group}
