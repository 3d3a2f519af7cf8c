"""The losses, one equation each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from facecrafter.controls import CONTROLS


def noised(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the network sees of ``clean``: ``sqrt(a) clean + sqrt(1 - a) noise``.

    Args:
        clean, noise: ``(B, C, H, W)``.
        alpha_bar: a, ``(B,)`` in (0, 1).
    """
    alpha = alpha_bar.view(-1, 1, 1, 1)
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def diffusion_target(kind: str, clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the network has to say about what :func:`noised` gives.

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
    """Min-SNR weight of each sample, ``(B,)`` (Hang et al., 2023): min(SNR, gamma) on the scale of the clean image.

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


# The five pairs of what is given together in Eq. 3. The sixth, emotion with both, is not in it. Other controls have no
# pair: the paper has none, and Eq. 3 leaves out what it does not name.
DISENTANGLED = (
    ("identity", "landmark"),
    ("identity", "emotion"),
    ("identity", "landmark+emotion"),
    ("landmark", "emotion"),
    ("landmark", "landmark+emotion"),
)


def number_of(given: str) -> int:
    """The number of what is given together, a bit a control, by its name; see :func:`facecrafter.controls.together`."""
    return sum(1 << place for place, name in enumerate(CONTROLS) if name in given.split("+"))


def combination(dropped: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """What each sample is given together, ``(B,)`` int64 as :func:`number_of` has it; -1 where identity is dropped.

    Args:
        dropped: ``(B,)`` bool.
        weights: of each control, the coefficients of Eq. 1, ``(B,)``.
    """
    numbers = torch.zeros_like(dropped, dtype=torch.int64)
    for name, weight in weights.items():
        numbers = numbers + number_of(name) * (weight != 0).long()
    return torch.where(dropped, -1, numbers)


def attention_features(identity: Tensor, controls: Tensor, reading: str) -> Tensor:
    """The features A of Eq. 2 at one block, ``(B, Q, C)``.

    Args:
        identity: Attn_ID, ``(B, Q, C)``.
        controls: the other summands of Eq. 1, ``(B, Q, C)``, zero for samples without.
        reading: ``sum`` for the sum of Eq. 1; ``branch`` for what the controls add, and Attn_ID for samples without.
    """
    if reading == "sum":
        return identity + controls
    alone = (controls == 0).all(dim=(1, 2))
    return torch.where(alone.view(-1, 1, 1), identity, controls)


def attention_disentanglement(features: list[Tensor], masks: Tensor, combinations: Tensor, group: int) -> Tensor:
    """Eq. 3 over Eq. 2: how alike samples with different conditions are in attention, within the face.

    For every pair of combinations in :data:`DISENTANGLED` and every block, the sum over pairs of samples of the mean
    over the face's places of ReLU(cos); then the mean over blocks and over groups.

    Args:
        features: one ``(B, Q, C)`` a block; Q is a square number.
        masks: the samples' face masks, ``(B, M, M)`` in [0, 1]; a pair is compared where the first's face is.
        combinations: ``(B,)``, see :func:`combination`.
        group: samples are compared within each run of so many, the replicas of one data point.

    Returns:
        A scalar, 0 where no pair of combinations is in the batch.
    """
    wanted = torch.zeros(1 << len(CONTROLS), 1 << len(CONTROLS), device=combinations.device)
    for a, b in DISENTANGLED:
        wanted[number_of(a), number_of(b)] = 1
    rows = combinations.view(-1, group)
    known = rows >= 0
    pairs = wanted[rows.clamp(min=0)[:, :, None], rows.clamp(min=0)[:, None, :]]
    pairs = pairs * known[:, :, None] * known[:, None, :]  # (groups, i, j)
    total = features[0].new_zeros((), dtype=torch.promote_types(features[0].dtype, torch.float32))
    with torch.autocast(features[0].device.type, enabled=False):
        for feature in features:
            side = round(feature.shape[1] ** 0.5)
            mask = (functional.adaptive_avg_pool2d(masks.to(total.dtype), side) >= 0.5).flatten(1).to(total.dtype)
            share = mask / mask.sum(1, keepdim=True).clamp(min=1)
            unit = functional.normalize(feature.to(total.dtype), dim=-1).unflatten(0, (-1, group))
            alike = torch.einsum("giqc,gjqc->gijq", unit, unit).relu()
            total = total + (pairs * torch.einsum("gijq,giq->gij", alike, share.unflatten(0, (-1, group)))).sum()
    return total / len(features) / len(rows)


def reconstruction_loss(
    reconstruction: Tensor, image: Tensor, mean: Tensor, perceptual: Tensor, prior: float, lpips: float
) -> Tensor:
    """The autoencoder's loss: L1 + lpips * LPIPS + prior * mean square of the latents.

    Args:
        reconstruction, image: ``(B, 3, H, W)`` in [-1, 1].
        mean: the latents' mean, ``(B, C, h, w)``.
        perceptual: LPIPS of each image, ``(B,)``.
        prior, lpips: weights.
    """
    l1 = (reconstruction.float() - image.float()).abs().mean()
    return l1 + lpips * perceptual.float().mean() + prior * mean.float().square().mean()
