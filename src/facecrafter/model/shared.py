"""What the predictions of one step have in common, computed once.

The predictions of Eq. 6 read the same noisy latents and differ in what their cross-attention is given. So everything
up to the queries of the first cross-attention is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def before_conditions(unet: Any) -> list[nn.Module]:
    """The modules of a UNet that run before any condition enters, the first cross-attention's queries the last."""
    block = unet.down_blocks[0]
    first = block.attentions[0]
    layer = first.transformer_blocks[0]
    inner = [first.norm, first.proj_in, layer.norm1, layer.attn1, layer.norm2, layer.attn2.to_q]
    return [unet.time_embedding, unet.conv_in, block.resnets[0], *inner]


@contextmanager
def computed_once(unet: nn.Module, copies: int) -> Iterator[None]:
    """Within it, a call of the UNet on ``copies * B`` rows, which are B rows ``copies`` times over, runs what precedes
    the conditions on B rows. What it returns stays the same.
    """

    def narrow(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(map(first, given)), {name: first(value) for name, value in named.items()}

    def first(value: Any) -> Any:
        return value[: len(value) // copies] if isinstance(value, Tensor) else value

    def widen(_: nn.Module, __: object, made: Tensor) -> Tensor:
        return made.repeat(copies, *[1] * (made.ndim - 1))

    hooks = []
    if copies > 1:
        for module in before_conditions(unet):
            hooks += [module.register_forward_pre_hook(narrow, with_kwargs=True), module.register_forward_hook(widen)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
