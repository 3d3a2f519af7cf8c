"""The control modules with their K/V projections: what is trained, saved and loaded beside a base model."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from facecrafter.models.attention import Branch, KeyValue
from facecrafter.models.emotion_module import EmotionModule
from facecrafter.models.landmark_module import LandmarkModule

CONDITIONS = ("landmark", "emotion")


class FaceControls(ModelMixin, ConfigMixin):
    """Landmark module, emotion module, and for each a key and a value projection in every cross-attention block.

    Value projections start at zero: a fresh module changes nothing, and training leaves the base model's output
    continuously. The projections have no bias, so all-zero tokens add exactly zero.

    Args:
        block_widths: inner width of every cross-attention block of the base, in its order.
        context_width: width of the condition tokens.
        landmark_channels, landmark_strides: see :class:`LandmarkModule`; the last channel is the context width.
        landmark_size: side of the landmark images in pixels.
        landmark_place_sigma: see :func:`facecrafter.models.attention.place_bias`; None for Eq. 1 as the paper has it.
        emotion_hidden, emotion_tokens: see :class:`EmotionModule`.
        scale: the name of the model scale these controls were made for.
        emotion_estimator: the name of the estimator whose emotions the emotion module learned; None in files from
            before it was written down.
    """

    @register_to_config
    def __init__(
        self,
        block_widths: Sequence[int],
        context_width: int = 256,
        landmark_channels: Sequence[int] = (3, 128, 128, 128, 256, 512, 512, 256),
        landmark_strides: Sequence[int] = (2, 2, 2, 2, 2, 2, 1),
        landmark_size: int = 512,
        landmark_place_sigma: float | None = None,
        emotion_hidden: int = 128,
        emotion_tokens: int = 4,
        scale: str = "arc2face",
        emotion_estimator: str | None = None,
    ) -> None:
        super().__init__()
        if landmark_channels[-1] != context_width:
            raise ValueError(
                f"the landmark CNN ends at {landmark_channels[-1]} channels, not the context's {context_width}"
            )
        self.landmark = LandmarkModule(landmark_channels, landmark_strides)
        self.emotion = EmotionModule(emotion_hidden, emotion_tokens, context_width)
        self.landmark_keys, self.landmark_values = _projections(block_widths, context_width)
        self.emotion_keys, self.emotion_values = _projections(block_widths, context_width)

    def parts(self, condition: str) -> list[nn.Module]:
        """The modules that belong to ``landmark`` or to ``emotion``: what its pre-training stage trains."""
        return [getattr(self, condition), getattr(self, f"{condition}_keys"), getattr(self, f"{condition}_values")]

    def keys_values(self, condition: str, value: Tensor) -> list[KeyValue]:
        """K and V of a condition in every block.

        Args:
            condition: ``landmark`` or ``emotion``.
            value: landmark images ``(B, 3, S, S)`` in [0, 1], or emotions ``(B, 10)``.

        Returns:
            For each block, two tensors ``(B, T, width of the block)``.
        """
        module, *projections = self.parts(condition)
        keys, values = (list(one.children()) for one in projections)
        tokens = module(value)
        return [(key(tokens), value(tokens)) for key, value in zip(keys, values, strict=True)]

    def branch(self, condition: str, value: Tensor, weights: Tensor) -> Branch | None:
        """The condition's summand of Eq. 1.

        Args:
            condition: ``landmark`` or ``emotion``.
            value: as for :meth:`keys_values`, for the samples whose weight is not 0, in their order, or for all B.
            weights: ``(B,)``, the coefficient a of Eq. 1 for each sample, any real number; 0 cuts the condition.

        Returns:
            None where every weight is 0.
        """
        rows = weights.nonzero().squeeze(1)
        if len(rows) == 0:
            return None
        given = value if len(value) == len(rows) else value[rows]
        return Branch(self.keys_values(condition, given), rows, weights[rows], self.place_sigma(condition))

    def place_sigma(self, condition: str) -> float | None:
        """The place bias of a condition; emotion has no place."""
        return self.config.landmark_place_sigma if condition == "landmark" else None


def _projections(block_widths: Sequence[int], context_width: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    keys = nn.ModuleList(nn.Linear(context_width, width, bias=False) for width in block_widths)
    values = nn.ModuleList(nn.Linear(context_width, width, bias=False) for width in block_widths)
    for weight in values.parameters():
        nn.init.zeros_(weight)
    return keys, values


def parameter_count(modules: Sequence[nn.Module]) -> int:
    """How many numbers the modules hold."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def branches(controls: FaceControls, values: dict[str, Tensor], weights: dict[str, Tensor]) -> list[Branch]:
    """The branches of a batch with mixed conditions: ``values`` and ``weights`` by condition, each with B rows."""
    made = (controls.branch(name, values[name], weights[name]) for name in CONDITIONS if name in values)
    return [branch for branch in made if branch is not None]


__all__ = ["CONDITIONS", "FaceControls", "branches", "parameter_count"]
