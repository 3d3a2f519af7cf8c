"""A loss by emotions asked in words: an emotion network that gradients go through reads the finished images.

Photos hardly show most emotions, and their blendshapes do not tell fear, disgust and contempt apart. What users ask for
is one word of somebody: so some images are asked for a word in place of their photo's emotion, and a network reads
whether they show it. It is trained apart from the one that judges models (`configs/emotion/reader.yaml`), which has no
part in this; a pattern that pleases one network and is no expression would show as a difference between them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from facecrafter.estimators.differentiable import Crop
from facecrafter.estimators.emotion import SIZE, EmotionNet
from facecrafter.estimators.identity import five_points
from facecrafter.faces.emotion import EMOTIONS, Emotion

# Where FER2013's frame (`estimators.emotion.tight_crop`) has the five points, in pixels: the mean of 1,300 LFW photos.
TEMPLATE = np.array([[15.22, 17.32], [31.40, 17.34], [23.23, 27.59], [16.24, 35.0], [30.42, 35.07]])
CROP = Crop(SIZE, TEMPLATE, five_points, (1, 0, 2, 4, 3))

GREY = (0.299, 0.587, 0.114)  # as the estimator's own crops weigh red, green and blue


def vectors() -> Tensor:
    """The conditions of the eight emotions asked by their words alone, ``(8, 10)``."""
    return torch.from_numpy(np.stack([Emotion.from_words({word: 1.0}).vector for word in EMOTIONS]))


class WordLoss(nn.Module):
    """How far images are from being read as the word that was asked for.

    Args:
        network: what reads them; its weights are frozen here, and its norms stay as they were trained.
    """

    def __init__(self, network: EmotionNet) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

    def train(self, mode: bool = True) -> WordLoss:
        """Nothing: a frozen network has no training mode."""
        return super().train(False)

    def forward(self, crops: Tensor, words: Tensor) -> Tensor:
        """The negative logarithm of the probability of the word, under the prior in use, ``(B,)``; 0 where there is
        no word.

        Args:
            crops: by :data:`CROP`, ``(B, 3, 48, 48)`` RGB in 0-255.
            words: ``(B,)``, indices of :data:`EMOTIONS`, or -1.
        """
        red, green, blue = (weight * crops[:, place : place + 1] for place, weight in enumerate(GREY))
        grey = (red + green + blue) / 255
        logits = self.network.calibrated(self.network(grey).float())
        missed = nn.functional.cross_entropy(logits, words.clamp(min=0), reduction="none")
        return torch.where(words >= 0, missed, 0.0)
