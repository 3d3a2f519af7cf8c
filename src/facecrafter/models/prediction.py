"""A UNet's prediction as sampling needs it, by an explicit pass over its layers.

diffusers' own ``forward`` computes the same numbers and remains what training uses. This pass differs in two points:

- The predictions of Eq. 6 read the same noisy latents and differ in what their cross-attention is given. Everything up
  to the queries of the first cross-attention is equal in all of them and is computed once.
- Layers may have low-rank updates beside them, which belong to one call and not to the network.

Neither needs a change of the network, so several threads can share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from facecrafter.models.attention import AttentionInputs

Updates = Mapping[nn.Module, nn.Module]


def predict(
    unet: Any,
    noisy: Tensor,
    timestep: Tensor,
    conditions: AttentionInputs,
    context: Tensor | None = None,
    copies: int = 1,
    time_update: Tensor | None = None,
) -> Tensor:
    """The prediction of a UNet whose attention processors are ours.

    Args:
        unet: a ``UNet2DConditionModel`` of the blocks that Stable Diffusion 1.5 has, in evaluation mode.
        noisy: latents ``(B, C, h, w)``.
        timestep: one for all samples, or ``(B,)``.
        conditions: for ``copies * B`` rows; its ``updates`` are added to the outputs of the layers that they name.
        context: identity tokens ``(copies * B, T, width)``, where ``conditions`` does not hold their K and V.
        copies: how many predictions are made of each sample, laid end to end: all samples of the first one first.
        time_update: added to the timestep embedding, ``(1 or B, width)``.

    Returns:
        ``(copies * B, C, h, w)``.
    """
    return _Pass(unet, conditions, context, copies).run(noisy, timestep, time_update)


class _Pass:
    """One call. ``copies`` is what the first cross-attention still has to make of each row; afterwards 1."""

    def __init__(self, unet: Any, conditions: AttentionInputs, context: Tensor | None, copies: int) -> None:
        self.unet, self.conditions, self.context, self.copies = unet, conditions, context, copies
        self.time: Tensor

    def run(self, noisy: Tensor, timestep: Tensor, time_update: Tensor | None) -> Tensor:
        """One prediction by the denoiser; arguments as :func:`predict` has them."""
        unet = self.unet
        embedded = unet.time_embedding(unet.get_time_embed(sample=noisy, timestep=timestep))
        self.time = embedded if time_update is None else embedded + time_update
        x = unet.conv_in(noisy)
        skips = [x]
        for block in unet.down_blocks:
            for resnet, attention in _pairs(block):
                x = self._attended(attention, self._residual(resnet, x))
                skips.append(x)
            for downsampler in block.downsamplers or ():
                x = downsampler(x)
                skips.append(x)
        x = self._residual(unet.mid_block.resnets[0], x)
        for attention, resnet in zip(unet.mid_block.attentions, unet.mid_block.resnets[1:], strict=True):
            x = self._residual(resnet, self._attended(attention, x))
        for block in unet.up_blocks:
            for resnet, attention in _pairs(block):
                joined = torch.cat([x, _repeated(skips.pop(), len(x))], dim=1)
                x = self._attended(attention, self._residual(resnet, joined))
            for upsampler in block.upsamplers or ():
                x = upsampler(x, None if _doubles(x, skips[-1]) else skips[-1].shape[2:])
        made: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return made

    def _residual(self, block: Any, x: Tensor) -> Tensor:
        """diffusers' ``ResnetBlock2D``."""
        time = _repeated(self.time, len(x))
        if not self.conditions.updates:
            made: Tensor = block(x, time)
            return made
        inner = self._layer(block.conv1, block.nonlinearity(block.norm1(x)))
        inner = inner + block.time_emb_proj(block.nonlinearity(time))[:, :, None, None]
        inner = self._layer(block.conv2, block.nonlinearity(block.norm2(inner)))
        shortcut = x if block.conv_shortcut is None else block.conv_shortcut(x)
        return (shortcut + inner) / block.output_scale_factor

    def _attended(self, transformer: Any, x: Tensor) -> Tensor:
        """diffusers' ``Transformer2DModel``; without one, nothing."""
        if transformer is None:
            return x
        places, _ = transformer._operate_on_continuous_inputs(x)
        for block in transformer.transformer_blocks:
            places = self._block(block, places)
        x = _repeated(x, len(places))
        rows, width, (height, columns) = len(places), places.shape[2], x.shape[2:]
        made: Tensor = transformer._get_output_for_continuous_inputs(places, x, rows, height, columns, width)
        return made

    def _block(self, block: Any, x: Tensor) -> Tensor:
        """diffusers' ``BasicTransformerBlock`` with layer norms; the first one makes the copies."""
        x = block.attn1.processor(block.attn1, block.norm1(x), conditions=self.conditions) + x
        copies, self.copies = self.copies, 1
        attended = block.attn2.processor(
            block.attn2, block.norm2(x), self.context, conditions=self.conditions, copies=copies
        )
        x = attended + _repeated(x, len(attended))
        inner = block.norm3(x)
        *layers, last = block.ff.net
        for layer in layers:
            inner = layer(inner)
        return self._layer(last, inner) + x

    def _layer(self, layer: nn.Module, x: Tensor) -> Tensor:
        return self.conditions.updated(layer, x)


def _pairs(block: Any) -> Any:
    """A block's residual blocks, each with the transformer that follows it or None."""
    attentions = getattr(block, "attentions", [None] * len(block.resnets))
    return zip(block.resnets, attentions, strict=True)


def _repeated(value: Tensor, rows: int) -> Tensor:
    """A value of fewer rows, all of them again and again."""
    if len(value) == rows:
        return value
    return value.repeat(rows // len(value), *[1] * (value.ndim - 1))


def _doubles(x: Tensor, skip: Tensor) -> bool:
    """Whether twice the size is the size wanted, which is the upsampler's own way."""
    return [2 * side for side in x.shape[2:]] == list(skip.shape[2:])
