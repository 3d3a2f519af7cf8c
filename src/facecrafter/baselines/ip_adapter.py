"""IP-Adapter-FaceID (Ye et al., 2023): who, without Arc2Face's encoder.

An embedding becomes four tokens, read by decoupled cross-attention. What the base's own cross-attention reads is the
unconditional tokens, always: of the base only what it knows about faces in general is used. The published adapter sits
on Stable Diffusion, with LoRA layers in all of its attention, which are left out here because they change the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from diffusers.configuration_utils import register_to_config
from numpy.typing import NDArray

from facecrafter.baselines.adapter import TokenAdapter, Tokens
from facecrafter.models import attention
from facecrafter.models.checkpoint import FaceModel
from facecrafter.request import Portrait


class IPAdapterBaseline(TokenAdapter):
    """Conditioned on the identity embedding.

    Args:
        block_widths: inner width of every cross-attention block of the base, in its order.
        width: of the tokens.
        embedding: numbers of an identity embedding.
        count: tokens.
    """

    kind = "ip_adapter"
    title = "IP-Adapter-FaceID"
    note = "Trained on this base with the person cut, without the published adapter's LoRA layers."
    is_identity = True

    @register_to_config
    def __init__(self, block_widths: Sequence[int], width: int = 768, embedding: int = 512, count: int = 4) -> None:
        super().__init__()
        self._build(Tokens(embedding, 2 * embedding, count, width), block_widths, width)

    @classmethod
    def beside(cls, base: FaceModel) -> Self:
        """A fresh one, sized for a base."""
        widths = attention.cross_attention_widths(base.unet)
        return cls(widths, base.unet.config.cross_attention_dim, base.scale.embedding)

    def fits(self, base: FaceModel) -> bool:
        """Whether the base has the shapes that it was made for."""
        own: Any = self.config
        return super().fits(base) and bool(own.embedding == base.scale.embedding)

    def read(self, portrait: Portrait, size: int) -> NDArray[np.float32]:
        """The identity embedding, ``(D,)``."""
        return portrait.embedding
