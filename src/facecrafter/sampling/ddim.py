"""DDIM (Song et al., 2021) for any number of steps.

diffusers' own steps from ``t`` to ``t - 1000 // steps``, while trailing timesteps lie ``1000 / steps`` apart: where the
division leaves a remainder, it takes latents of one noise level for those of another.
"""

from __future__ import annotations

import diffusers
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor


class DDIM(diffusers.DDIMScheduler):
    """Steps to the next timestep of its own list; where steps divide the timesteps, diffusers' numbers to the bit."""

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> DDIMSchedulerOutput:
        """The deterministic step, Eq. 12 of the paper with a sigma of 0.

        Args:
            model_output: the prediction, noise or v as the schedule says, ``(B, C, h, w)``.
            timestep: one of its ``timesteps``.
            sample: noisy latents of that timestep, ``(B, C, h, w)``.

        Returns:
            ``prev_sample``, latents of the timestep after it, and ``pred_original_sample``, clean ones; each
            ``(B, C, h, w)``.

        Raises:
            IndexError: the timestep is none of the list's.
        """
        place = int((self.timesteps == timestep).nonzero()[0])
        following = self.timesteps[place + 1 :]
        alpha = self.alphas_cumprod[timestep]
        alpha_next = self.alphas_cumprod[following[0]] if len(following) else self.final_alpha_cumprod
        beta = 1 - alpha
        if self.config.prediction_type == "v_prediction":
            clean = alpha**0.5 * sample - beta**0.5 * model_output
            noise = alpha**0.5 * model_output + beta**0.5 * sample
        else:
            clean = (sample - beta**0.5 * model_output) / alpha**0.5
            noise = model_output
        latents = alpha_next**0.5 * clean + (1 - alpha_next) ** 0.5 * noise
        return DDIMSchedulerOutput(prev_sample=latents, pred_original_sample=clean)
