"""Conditions to pictures: the reverse process under Eq. 6, batched, each condition's K and V computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import diffusers
import torch
from torch import Tensor

from facecrafter.errors import ConfigError
from facecrafter.model.attention import AttentionInputs, Branch, identity_keys_values
from facecrafter.model.checkpoint import FaceModel
from facecrafter.sampling.guidance import Guidance, combine

# The paper samples with DDPM; DPM-Solver++ reaches the same pictures in 25 steps and is Arc2Face's own default.
SCHEDULERS = {
    "dpm": "DPMSolverMultistepScheduler",
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}


class Sampler:
    """Makes pictures with one model.

    Args:
        model: a whole model; its controls may be missing, then only identity can be asked for.
    """

    def __init__(self, model: FaceModel) -> None:
        self.model = model

    @torch.no_grad()
    def generate(
        self,
        identity: Tensor,
        landmark: Tensor | None = None,
        emotion: Tensor | None = None,
        guidance: Guidance = Guidance(),
        steps: int = 25,
        seeds: Sequence[int] | None = None,
        scheduler: str = "dpm",
        progress: Callable[[], object] | None = None,
    ) -> Tensor:
        """Sample ``B`` pictures.

        Args:
            identity: embeddings ``(B, D)``.
            landmark: landmark images ``(B, 3, L, L)`` in [0, 1], or None to leave pose and expression free.
            emotion: ``(B, 10)``, or None to leave emotion free.
            guidance: the scales of Eq. 6.
            steps: denoising steps.
            seeds: one a picture; a picture depends on its own seed and not on its neighbours. 0, 1, ... if None.
            scheduler: one of :data:`SCHEDULERS`.
            progress: called after every step.

        Returns:
            ``(B, 3, S, S)`` float32 in [-1, 1].

        Raises:
            ConfigError: unknown scheduler, no steps, as many seeds as pictures are not given, or a condition is
                asked of a model without controls.
        """
        seeds = list(range(len(identity))) if seeds is None else list(seeds)
        self._check(identity, landmark, emotion, steps, seeds, scheduler)
        model, device = self.model, identity.device
        coefficients = guidance.coefficients(landmark is not None, emotion is not None)
        conditions = self._conditions(identity, landmark, emotion, list(coefficients))
        tokens = identity.new_zeros(len(coefficients) * len(identity), 1, model.encoder.width)

        solver = build_scheduler(scheduler, dict(model.scale.scheduler))
        solver.set_timesteps(steps, device=device)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        config = model.unet.config
        shape = (config.in_channels, config.sample_size, config.sample_size)
        latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
        latents = latents * solver.init_noise_sigma
        random = {"generator": generators} if scheduler in ("ddpm", "ddim") else {}
        for timestep in solver.timesteps:
            noisy = solver.scale_model_input(latents, timestep)
            predictions = model.unet(
                torch.cat([noisy] * len(coefficients)),
                timestep,
                tokens,
                cross_attention_kwargs={"conditions": conditions},
            ).sample
            latents = solver.step(combine(predictions, coefficients), timestep, latents, **random).prev_sample
            if progress:
                progress()
        return self.decode(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, C, h, w)`` to pictures ``(B, 3, S, S)`` in [-1, 1]."""
        autoencoder = self.model.autoencoder
        return autoencoder.decode(latents / autoencoder.config.scaling_factor).sample.float().clamp(-1, 1)

    def _conditions(
        self, identity: Tensor, landmark: Tensor | None, emotion: Tensor | None, predictions: list[str]
    ) -> AttentionInputs:
        """K and V of everything, for the predictions of one step laid end to end."""
        model, batch = self.model, len(identity)
        tokens = model.encoder(identity)
        empty = model.encoder.unconditional(batch)
        contexts = [empty if name == "none" else tokens for name in predictions]
        branches = []
        for name, value in (("landmark", landmark), ("emotion", emotion)):
            if value is not None and name in predictions:
                assert model.controls is not None
                first = predictions.index(name) * batch
                rows = torch.arange(first, first + batch, device=identity.device)
                keys_values = model.controls.keys_values(name, value)
                weights = torch.ones(batch, device=identity.device)
                branches.append(Branch(keys_values, rows, weights, model.controls.place_sigma(name)))
        return AttentionInputs(branches, identity_keys_values(model.unet, torch.cat(contexts)))

    def _check(
        self,
        identity: Tensor,
        landmark: Tensor | None,
        emotion: Tensor | None,
        steps: int,
        seeds: Sequence[int],
        scheduler: str,
    ) -> None:
        if scheduler not in SCHEDULERS:
            raise ConfigError(f"unknown scheduler '{scheduler}'; there are {', '.join(SCHEDULERS)}")
        if steps < 1:
            raise ConfigError(f"steps must be at least 1, not {steps}")
        if len(seeds) != len(identity):
            raise ConfigError(f"{len(identity)} pictures need as many seeds, not {len(seeds)}")
        wanted = self.model.scale.embedding
        if identity.shape[1] != wanted:
            raise ConfigError(
                f"the {self.model.scale.name} scale reads embeddings of {wanted} numbers, not {identity.shape[1]}"
            )
        if self.model.controls is None and (landmark is not None or emotion is not None):
            raise ConfigError("this model has no controls; leave landmarks and emotion out, or load a controls file")


def build_scheduler(name: str, schedule: dict[str, object]):  # noqa: ANN201 - one of several diffusers classes
    """A diffusers scheduler by its short name, on a noise schedule."""
    options = {**schedule, "timestep_spacing": "trailing"}
    if name != "ddim":
        options.pop("set_alpha_to_one")
    if name not in ("ddim", "ddpm"):
        options.pop("clip_sample")
    if name == "ddpm":
        options["steps_offset"] = 0
    return getattr(diffusers, SCHEDULERS[name])(**options)
