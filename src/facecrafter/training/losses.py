"""The losses, one equation each."""

from __future__ import annotations

import torch
from torch import Tensor


def diffusion_target(kind: str, clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the network has to say about ``sqrt(a) clean + sqrt(1 - a) noise``.

    Args:
        kind: ``epsilon`` (Eq. 4) or ``v_prediction`` (Salimans & Ho, 2022).
        clean, noise: ``(B, C, H, W)``.
        alpha_bar: a, ``(B,)`` in (0, 1).
    """
    if kind == "epsilon":
        return noise
    alpha = alpha_bar.view(-1, 1, 1, 1)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


def snr_weight(kind: str, alpha_bar: Tensor, gamma: float | None) -> Tensor:
    """Min-SNR weight of each sample, ``(B,)`` (Hang et al., 2023): min(SNR, gamma) on the scale of the clean picture.

    1 for every sample where gamma is None.
    """
    if gamma is None:
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / (snr if kind == "epsilon" else snr + 1)


def diffusion_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Eq. 4: the squared error, averaged over the numbers of a sample, weighted, averaged over samples.

    Args:
        prediction, target: ``(B, C, H, W)``.
        weight: ``(B,)``.
    """
    return (weight * (prediction.float() - target.float()).square().mean((1, 2, 3))).mean()


def reconstruction_loss(
    reconstruction: Tensor, picture: Tensor, mean: Tensor, perceptual: Tensor, prior: float, lpips: float
) -> Tensor:
    """The autoencoder's loss: L1 + lpips * LPIPS + prior * mean square of the latents.

    Args:
        reconstruction, picture: ``(B, 3, H, W)`` in [-1, 1].
        mean: the latents' mean, ``(B, C, h, w)``.
        perceptual: LPIPS of each picture, ``(B,)``.
        prior, lpips: weights.
    """
    l1 = (reconstruction.float() - picture.float()).abs().mean()
    return l1 + lpips * perceptual.float().mean() + prior * mean.float().square().mean()
