"""What the stages that predict the noise of latents minimise: Eq. 4, over a batch of mixed conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from facecrafter.models import attention, checkpoint
from facecrafter.models.controls import branches
from facecrafter.sampling.sampler import build_scheduler
from facecrafter.training import losses


class NoiseObjective(nn.Module):
    """What objectives over noised latents share: the base that predicts, and its noise schedule.

    Args:
        model: what predicts.
        gamma: see :func:`facecrafter.training.losses.snr_weight`.
    """

    alpha_bars: Tensor

    def __init__(self, model: checkpoint.FaceModel, gamma: float | None = None) -> None:
        super().__init__()
        self.unet, self.encoder, self.gamma = model.unet, model.encoder, gamma
        self.kind = str(model.scale.scheduler["prediction_type"])
        schedule = build_scheduler("ddpm", model.scale.scheduler)
        self.register_buffer("alpha_bars", schedule.alphas_cumprod, persistent=False)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Clean latents ``(B, C, h, w)`` at timesteps ``(B,)``."""
        return losses.noised(latents, noise, self.alpha_bars[timesteps])

    def loss(self, prediction: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Eq. 4 of a prediction ``(B, C, h, w)``."""
        alpha_bar = self.alpha_bars[timesteps]
        target = losses.diffusion_target(self.kind, latents, noise, alpha_bar)
        return losses.diffusion_loss(prediction, target, losses.snr_weight(self.kind, alpha_bar, self.gamma))


class DiffusionObjective(NoiseObjective):
    """Eq. 4 over a batch whose samples differ in their conditions (Eq. 1 with a weight a sample).

    Args:
        model: what predicts.
        gamma: see :func:`facecrafter.training.losses.snr_weight`.
        frozen_encoder: whether no gradient goes into the identity encoder.
    """

    def __init__(self, model: checkpoint.FaceModel, gamma: float | None = None, frozen_encoder: bool = False) -> None:
        super().__init__(model, gamma)
        self.controls, self.frozen_encoder = model.controls, frozen_encoder
        self.compiled: Any = None

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        identity: Tensor,
        dropped: Tensor,
        values: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        rows: Mapping[str, Tensor] | None = None,
        record: attention.AttentionRecord | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            latents: clean latents ``(B, C, h, w)``.
            noise: standard normal, the same shape.
            timesteps: ``(B,)``.
            identity: embeddings ``(B, D)``.
            dropped: ``(B,)`` bool, samples without identity.
            values: what each control's module reads, ``(R, ...)``, only of the R samples whose weight is not 0.
            weights: of each control, ``(B,)``.
            rows: of each control, which samples have a weight that is not 0, ``(R,)``, where that is known: a device is
                then never asked how many, which it would have to finish all its work to answer.
            record: takes up what the attention of every block adds.
        """
        noisy = self.noised(latents, noise, timesteps)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_encoder):
            tokens = self.encoder.mixed(identity, dropped, ask=rows is None)
        conditions = self.conditions(values, weights, rows)
        conditions.record = record
        # Shapes that come once, as validation's, are not worth compiling for.
        predict = self.compiled if self.compiled is not None and torch.is_grad_enabled() else self.unet
        prediction = predict(noisy, timesteps, tokens, cross_attention_kwargs={"conditions": conditions}).sample
        return self.loss(prediction, latents, noise, timesteps)

    def conditions(
        self, values: Mapping[str, Tensor], weights: Mapping[str, Tensor], rows: Mapping[str, Tensor] | None = None
    ) -> attention.AttentionInputs:
        """The controls' summands of Eq. 1; values only of the samples whose weight is not 0."""
        if self.controls is None:
            return attention.AttentionInputs()
        return attention.AttentionInputs(branches(self.controls, values, weights, rows))
