"""An adversary for finished images: what tells them from photos of the person says how to make them better.

LPIPS and identity leave open what a sharp image looks like, and answer with an average where they do not know. A
discriminator that learns along tells generated images from photos by the feature maps of a fixed network (projected
GANs; Sauer et al., 2021), and asks whether an image shows the person that was asked for (Miyato & Koyama, 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

# Channels of AlexNet's five feature maps.
CHANNELS = (64, 192, 384, 256, 256)


class Discriminator(nn.Module):
    """One small convolutional head a feature map; each scores every place of its map.

    Args:
        embedding: width of the identity embeddings.
        channels: of the feature maps.
        width: of the heads.
    """

    def __init__(self, embedding: int, channels: Sequence[int] = CHANNELS, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(count, width, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2)
            )
            for count in channels
        )
        self.real = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in channels)
        self.person = nn.ModuleList(nn.Linear(embedding, width) for _ in channels)

    def forward(self, maps: list[Tensor], identity: Tensor) -> Tensor:
        """Scores ``(B,)``, high for photos of the person.

        Args:
            maps: the feature maps ``(B, C, h, w)``, of unit length over channels.
            identity: embeddings of unit length ``(B, D)``.
        """
        scores = identity.new_zeros(len(identity))
        for map_, head, real, person in zip(maps, self.heads, self.real, self.person, strict=True):
            features = head(map_ * math.sqrt(map_.shape[1]))
            alike = (features * person(identity)[:, :, None, None]).sum(1) / math.sqrt(self.width)
            scores = scores + (real(features)[:, 0] + alike).mean((1, 2)) / len(self.heads)
        return scores


def pleasing_loss(discriminator: nn.Module, made: list[Tensor], identity: Tensor) -> Tensor:
    """The generator's side, ``(B,)``: the lower, the more the discriminator takes an image for a photo of the person.
    The gradient reaches the images only, so that one optimiser can train both sides.

    Args:
        discriminator: see :class:`Discriminator`.
        made: feature maps of the images.
        identity: who should be on them, ``(B, D)``.
    """
    fixed = {name: value.detach() for name, value in discriminator.named_parameters()}
    return torch.as_tensor(-functional_call(discriminator, fixed, (made, identity)))


def telling_loss(
    discriminator: nn.Module, made: list[Tensor], photos: list[Tensor], identity: Tensor, own: Tensor
) -> Tensor:
    """The discriminator's side, a hinge loss; the gradient reaches the discriminator only.

    Args:
        discriminator: see :class:`Discriminator`.
        made, photos: feature maps of the images made and of photos.
        identity: who should be on the images, ``(B, D)``.
        own: ``(B,)`` bool, whose photo is of that person; the others are not shown to the discriminator.
    """
    scores = discriminator([map_.detach() for map_ in made], identity)
    known = own * F.relu(1 - discriminator([map_.detach() for map_ in photos], identity))
    return torch.as_tensor(F.relu(1 + scores).mean() + known.sum() / own.sum().clamp(min=1))


def balance(others: Tensor, pleasing: Tensor, images: Tensor) -> Tensor:
    """By what to multiply the generator's side so that it pulls at each image as hard as the other losses together
    (Esser et al., 2021), and where these ask little, as of an image in a free pose, as hard as they do on average.

    Args:
        others: the other losses, one number.
        pleasing: the generator's side, one number.
        images: what both were computed from, ``(B, 3, S, S)``.

    Returns:
        ``(B,)``; ones where no gradient is wanted.
    """
    if not images.requires_grad:
        return torch.ones(len(images), device=images.device)
    (usual,) = torch.autograd.grad(others, images, retain_graph=True)
    (own,) = torch.autograd.grad(pleasing, images, retain_graph=True)
    pull, has = (gradient.float().flatten(1).norm(dim=1) for gradient in (usual, own))
    return (pull.maximum(pull.mean()) / (has + 1e-8)).clamp(max=1e4).detach()
