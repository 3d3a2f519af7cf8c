"""Arc2Face's expression adapter (Paraperas Papantoniou & Zafeiriou, 2025): an expression as one token.

The published one reads 55 FLAME numbers that SMIRK estimates: expression 50, eyelids 2, jaw 3. FLAME is not to be had
here, so this one reads MediaPipe's 52 blendshapes, which say the same in other words. Like the published one it knows
nothing of pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from diffusers.configuration_utils import register_to_config
from numpy.typing import NDArray

from facecrafter.baselines.adapter import TokenAdapter, Tokens
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.models import attention
from facecrafter.models.checkpoint import FaceModel
from facecrafter.request import Portrait


class ExpressionAdapterBaseline(TokenAdapter):
    """Conditioned on blendshapes.

    Args:
        block_widths: inner width of every cross-attention block of the base, in its order.
        width: of the token, and between the two layers that make it.
    """

    kind = "expression_adapter"
    title = "Arc2Face's expression adapter"
    note = "Reads MediaPipe's 52 blendshapes in place of 55 FLAME numbers; it knows nothing of pose."

    @register_to_config
    def __init__(self, block_widths: Sequence[int], width: int = 768) -> None:
        super().__init__()
        self._build(Tokens(len(BLENDSHAPES), width, 1, width), block_widths, width)

    @classmethod
    def beside(cls, base: FaceModel) -> Self:
        """A fresh one, sized for a base."""
        return cls(attention.cross_attention_widths(base.unet), base.unet.config.cross_attention_dim)

    def read(self, portrait: Portrait, size: int) -> NDArray[np.float32]:
        """The blendshapes, ``(52,)`` in [0, 1]."""
        return portrait.blendshapes
