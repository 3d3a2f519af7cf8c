"""Guidance distillation (Meng et al., 2023): one prediction learns what those of Eq. 6 make together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.config import Strict
from facecrafter.data.dataset import TrainingSet
from facecrafter.models.attention import AttentionInputs, Branch
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.guidance_student import GuidanceStudent, student_of
from facecrafter.models.prediction import predict
from facecrafter.pipelines.generator import FaceCrafterGenerator
from facecrafter.pipelines.settings import Settings
from facecrafter.training.batches import generator
from facecrafter.training.config import Share
from facecrafter.training.samples import grid
from facecrafter.training.stages.diffusion import DiffusionStage, Mixed, load_start, need_controls
from facecrafter.training.stages.objective import NoiseObjective


class Distill(Strict):
    """The student, and which scales of Eq. 6 it learns."""

    rank: int = Field(16, ge=1)  # of the updates of the base's layers
    spread: Share = 0.5  # scales are drawn evenly from 1 - spread to 1 + spread times the model scale's own


class DistillationConfig(Mixed):
    """A run of the distill stage."""

    stage: Literal["distill"] = "distill"
    distill: Distill = Distill()

    @model_validator(mode="after")
    def _has_an_identity(self) -> DistillationConfig:
        if self.mixture.share("none"):
            raise ValueError("the distill stage gives every sample an identity; leave `none` out of its mixture")
        return self

    def build(self, device: torch.device) -> DistillationStage:
        """A fresh student beside the model that `start` holds."""
        return DistillationStage(self, device)


class DistillationObjective(NoiseObjective):
    """The squared difference between the student's prediction and Eq. 6's, on noised latents of the training set.

    Base, identity encoder and controls are frozen: with the student's inputs they are the student, without them
    the teacher.
    """

    def __init__(self, model: FaceModel, student: GuidanceStudent) -> None:
        super().__init__(model)
        assert model.controls is not None
        self.controls, self.student = model.controls, student

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        identity: Tensor,
        values: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        scales: Tensor,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            latents: clean latents ``(B, C, h, w)``.
            noise: standard normal, the same shape.
            timesteps: ``(B,)``.
            identity: embeddings ``(B, D)``.
            values: what each control's module reads, ``(R, ...)``, only of the R samples whose weight is not 0.
            weights: of each control, ``(B,)``, 0 where it is not given.
            scales: of Eq. 6, for identity and each control of the model, ``(B, 1 + controls)``.
        """
        noisy = self.noised(latents, noise, timesteps)
        by_name = dict(zip(("identity", *self.controls.names), scales.unbind(1), strict=True))
        by_name |= {name: by_name[name] * weights[name] for name in self.controls.names}
        with torch.no_grad():
            tokens = self.encoder(identity)
            branches = self._branches(values, weights)
            target = self.teacher(noisy, timesteps, tokens, branches, by_name)
        student = self.student.inputs(self.unet, by_name)
        for name, weight in student.weights.items():
            if name in branches:
                branches[name].weights = weight[branches[name].rows]
        inputs = AttentionInputs(list(branches.values()), updates=student.updates)
        prediction = predict(self.unet, noisy, timesteps, inputs, tokens, time_update=student.time_update)
        return F.mse_loss(prediction.float(), target)

    def teacher(
        self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, branches: dict[str, Branch], scales: dict[str, Tensor]
    ) -> Tensor:
        """Eq. 6 with scales of each sample's own, ``(B, C, h, w)`` float32, its predictions made in one call.

        Args:
            noisy: ``(B, C, h, w)``.
            timesteps: ``(B,)``.
            tokens: identity tokens ``(B, T, width)``.
            branches: of the controls that are given, for the rows that have them.
            scales: of identity and each control, ``(B,)``, 0 where a control is not given.
        """
        batch = len(noisy)
        rows = torch.cat([torch.arange(batch, device=noisy.device).repeat(2), *(one.rows for one in branches.values())])
        contexts = torch.cat([self.encoder.unconditional(batch).to(tokens.dtype), tokens[rows[batch:]]])
        laid_out, first = [], 2 * batch
        for branch in branches.values():
            own = torch.arange(first, first + len(branch.rows), device=noisy.device)
            laid_out.append(Branch(branch.keys_values, own, branch.weights, branch.place_sigma))
            first += len(own)
        conditions = {"conditions": AttentionInputs(laid_out)}
        predictions = self.unet(
            noisy[rows], timesteps[rows], contexts, cross_attention_kwargs=conditions
        ).sample.float()
        scale = {name: value.view(batch, 1, 1, 1) for name, value in scales.items()}
        none, identity = predictions[:batch], predictions[batch : 2 * batch]
        total = none + scale["identity"] * (identity - none)
        parts = predictions[2 * batch :].split([len(branch.rows) for branch in branches.values()])
        for (name, branch), part in zip(branches.items(), parts, strict=True):
            difference = scale[name][branch.rows] * (part - identity[branch.rows])
            total = total.index_add(0, branch.rows, difference)
        return total

    def _branches(self, values: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Branch]:
        """Each control that is given to somebody, with a weight of 1 for those."""
        made = {
            name: self.controls.branch(name, values[name], (weights[name] != 0).float()) for name in self.controls.names
        }
        return {name: branch for name, branch in made.items() if branch is not None}


class DistillationStage(DiffusionStage[DistillationConfig]):
    """A student learns, everything else is frozen."""

    student: GuidanceStudent

    def _starting_model(self) -> FaceModel:
        return need_controls(load_start(self.config), self.config)

    @property
    def _names(self) -> list[str]:
        """What has a scale in Eq. 6: identity and the model's controls."""
        assert self.model.controls is not None
        return ["identity", *self.model.controls.names]

    def _build_objective(self) -> nn.Module:
        torch.manual_seed(self.config.seed)
        self.student = student_of(self.model.unet, self.config.distill.rank, self.model.scale.name, self._names[1:])
        self.model.distilled = self.student
        return DistillationObjective(self.model, self.student)

    def trained(self) -> list[nn.Module]:
        """The student."""
        return [self.student]

    def _batch(
        self, data: TrainingSet, seed: int, step: int, index: int, parts: int, device: torch.device
    ) -> dict[str, Any]:
        """The diffusion stages' draw, and scales around the model scale's own."""
        batch = super()._batch(data, seed, step, index, parts, device)
        del batch["dropped"]  # everybody has an identity
        size, spread = len(batch["latents"]), self.config.distill.spread
        share = torch.rand(self.config.batch_size, len(self._names), generator=generator(seed, 7, step))
        own = torch.tensor([float(self.model.scale.sampling[f"{name}_scale"]) for name in self._names])
        drawn = own * (1 + spread * (2 * share - 1))
        return {**batch, "scales": drawn[index * size : (index + 1) * size].to(device)}

    def samples(self) -> Tensor:
        """Every condition of the next person's photo, by Eq. 6 and by the student."""
        methods = [FaceCrafterGenerator(self.model, settings=Settings(speed=speed)) for speed in ("exact", "distilled")]
        return grid(self.data, [(method, self._names[1:]) for method in methods])
