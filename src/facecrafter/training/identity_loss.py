"""A loss on who is in the picture: make one with the model as it is, and ask the recogniser.

Eq. 4 learns a person from pixels alone, which takes millions of photos. A recogniser has seen millions: where it says
that the person made is not the person asked, its gradient says what to change. The picture is made as sampling makes
it, from pure noise by a few deterministic steps (DDIM; Song et al., 2021), and the gradient goes back through all of
them (DRaFT; Clark et al., 2024). The recogniser is the condition's own; the judge of evaluation is another network.

The model must not learn patterns that please the recogniser and are no likeness. When only one prediction of a walk
learned, at fixed timesteps, it did: predictions were recognised, and finished pictures were not. So the whole walk
learns, its timesteps are random, and what the recogniser sees is moved, blurred and lit at random.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from facecrafter.model.attention import AttentionInputs
from facecrafter.perception.differentiable import DifferentiableRecogniser, arcface_crops


def walk_timesteps(steps: int, jitter: Tensor) -> Tensor:
    """The timesteps of a walk from pure noise, ``(steps,)`` int64: 999, then one in each of equal spans below.

    Args:
        steps: how many, at least 2.
        jitter: ``(steps - 1,)`` in [0, 1), where in its span each of the others is.
    """
    spans = torch.arange(steps - 1, 0, -1) - jitter + 0.5
    later = (spans * 1000 / steps).long().clamp(20, 998)
    return torch.cat([torch.tensor([999]), later])


def jittered(grids: Tensor, jitter: Tensor) -> Tensor:
    """Crop grids ``(B, 2, 3)`` turned, scaled, shifted and mirrored at random.

    Args:
        grids: see :func:`facecrafter.perception.differentiable.crop_grid`.
        jitter: ``(B, 8)`` in [-1, 1], of which the first five are read: turn (up to 8 degrees), scale (8 %), shift in x
            and y (5 % of the crop's side), and mirrored where negative.
    """
    angle, scale = jitter[:, 0] * math.radians(8), 1 + 0.08 * jitter[:, 1]
    mirror = torch.where(jitter[:, 4] < 0, -1.0, 1.0)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    move = torch.stack(
        [
            torch.stack([mirror * cosine, -sine, 0.1 * jitter[:, 2]], dim=1),
            torch.stack([mirror * sine, cosine, 0.1 * jitter[:, 3]], dim=1),
            torch.tensor([0.0, 0.0, 1.0]).to(jitter).expand(len(jitter), 3),
        ],
        dim=1,
    )
    return grids @ move


def relit(crops: Tensor, jitter: Tensor) -> Tensor:
    """Crops ``(B, 3, H, W)`` in 0-255 blurred and lit at random.

    Args:
        crops: the pictures.
        jitter: ``(B, 8)`` in [-1, 1], of which the last three are read: blur (none below 0, over 4 pixels at 1),
            contrast (20 %), brightness (20 of 255).
    """
    blur, contrast, brightness = (jitter[:, place].view(-1, 1, 1, 1) for place in (5, 6, 7))
    coarse = nn.functional.interpolate(nn.functional.avg_pool2d(crops, 4), crops.shape[2:], mode="bilinear")
    crops = crops + blur.clamp(min=0) * (coarse - crops)
    return (crops - 127.5) * (1 + 0.2 * contrast) + 127.5 + 20 * brightness


def clean_and_noise(kind: str, prediction: Tensor, noisy: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """What a prediction says the clean latents and the noise are.

    Args:
        kind: ``epsilon`` or ``v_prediction``.
        prediction, noisy: ``(B, C, h, w)``.
        alpha_bar: a scalar in (0, 1).
    """
    signal, rest = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if kind == "epsilon":
        return (noisy - rest * prediction) / signal, prediction
    return signal * noisy - rest * prediction, rest * noisy + signal * prediction


class IdentityLossTerm(nn.Module):
    """1 - cosine between the identity asked and the identity made.

    Args:
        unet: the denoiser; its gradients are wanted.
        autoencoder: frozen.
        recogniser: frozen; the same network that gave the embeddings.
        alpha_bars: ``(1000,)``.
        kind: what the denoiser predicts.
    """

    def __init__(
        self,
        unet: nn.Module,
        autoencoder: nn.Module,
        recogniser: DifferentiableRecogniser,
        alpha_bars: Tensor,
        kind: str,
    ) -> None:
        super().__init__()
        self.unet, self.autoencoder, self.recogniser = unet, autoencoder, recogniser
        self.register_buffer("alpha_bars", alpha_bars, persistent=False)
        self.kind = kind

    def forward(
        self,
        noise: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        conditions: AttentionInputs,
        identity: Tensor,
        grids: Tensor,
        jitter: Tensor,
    ) -> Tensor:
        """The loss of each picture, ``(B,)`` in [0, 2].

        Args:
            noise: where the walk begins, ``(B, C, h, w)``.
            timesteps: of its steps, ``(N,)`` falling; the last prediction is the picture.
            tokens: identity tokens ``(B, T, W)``.
            conditions: the controls.
            identity: the embeddings asked for, ``(B, D)``.
            grids: where the faces are, see :func:`facecrafter.perception.differentiable.arcface_crops`.
            jitter: ``(B, 8)`` in [-1, 1], see :func:`jittered` and :func:`relit`; zeros for the crops as they are.
        """
        noisy, steps = noise, timesteps.tolist()
        for timestep, following in zip(steps, [*steps[1:], None], strict=True):
            clean, rest = self._predict(noisy, timestep, tokens, conditions)
            if following is not None:
                alpha_bar = self.alpha_bars[following]
                noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * rest
        pictures = self.autoencoder.decode(clean / self.autoencoder.config.scaling_factor).sample
        crops = arcface_crops((pictures.float() + 1) * 127.5, jittered(grids, jitter))
        made = self.recogniser(relit(crops, jitter))
        return 1 - (made * nn.functional.normalize(identity.float(), dim=-1)).sum(-1)

    def _predict(
        self, noisy: Tensor, timestep: int, tokens: Tensor, conditions: AttentionInputs
    ) -> tuple[Tensor, Tensor]:
        timesteps = torch.full((len(noisy),), timestep, device=noisy.device)
        prediction = self.unet(noisy, timesteps, tokens, cross_attention_kwargs={"conditions": conditions}).sample
        return clean_and_noise(self.kind, prediction.float(), noisy, self.alpha_bars[timestep])
