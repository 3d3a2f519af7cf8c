"""CapHuman's way (Liang et al., 2024): a copy of the encoder that reads a head in three dimensions.

CapHuman gives its copy the normals, the albedo and the shading of a FLAME mesh: the target's pose and expression on the
head shape of the person asked for. FLAME is not to be had here, so the maps come from MediaPipe's points
(:mod:`facecrafter.baselines.head`): normals, depth and shading of the target's own face. There is no albedo, which
MediaPipe does not estimate, and light is always the same. In the copy's cross-attention the base's identity tokens
stand for CapHuman's FaceNet and CLIP features, and nothing predicts a mask of the face.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facecrafter.baselines import head
from facecrafter.baselines.controlnet import EncoderCopy
from facecrafter.request import Portrait


class CapHumanBaseline(EncoderCopy):
    """Conditioned on head maps."""

    kind = "caphuman"
    title = "CapHuman's way"
    note = "Head maps from MediaPipe's points in place of a FLAME mesh; identity tokens in place of FaceNet and CLIP."
    channels = head.CHANNELS

    def read(self, portrait: Portrait, size: int) -> NDArray[np.float32]:
        """Head maps ``(5, size, size)``; see :func:`facecrafter.baselines.head.draw`."""
        return head.draw(portrait.points, portrait.size, size)
