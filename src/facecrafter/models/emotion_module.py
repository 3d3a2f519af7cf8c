"""Ten numbers to tokens: valence, arousal and eight class probabilities through a small DNN."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

EMOTION_DIMENSION = 10


class EmotionModule(nn.Module):
    """A perceptron with two hidden layers, its output cut into tokens.

    Args:
        hidden: width of the hidden layers.
        tokens: how many tokens.
        width: their width, the context width.
    """

    def __init__(self, hidden: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.layers = nn.Sequential(
            nn.Linear(EMOTION_DIMENSION, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, tokens * width),
        )

    def forward(self, emotion: Tensor) -> Tensor:
        """Emotions ``(B, 10)``, valence, arousal and eight probabilities, to ``(B, tokens, width)``."""
        return F.layer_norm(self.layers(emotion).unflatten(-1, (self.tokens, self.width)), (self.width,))
