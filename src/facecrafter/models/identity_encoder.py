"""Identity embedding to identity tokens: Arc2Face's splice (Paraperas Papantoniou et al., 2024), batched."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# "<start> photo of a id person <end> <end> ..." in CLIP's vocabulary.
CLIP_PROMPT = (49406, 1125, 539, 320, 1014, 2533)
CLIP_END = 49407
CLIP_LENGTH = 77
ID_PLACE = 4

# The embeddings that the call under way puts into the prompt, ``(B, width)``; every thread has a value of its own.
_SPLICED: ContextVar[Tensor | None] = ContextVar("spliced", default=None)


class IdentityEncoder(nn.Module):
    """The embedding takes the place of one token of a fixed prompt, and a causal CLIP text transformer reads it.

    Args:
        text_model: a transformers ``CLIPTextModel``; its width bounds the embedding's.
        prompt: token ids up to and without the end token, the token that is replaced at index 4.
        end: id of the end token, which also pads.
        length: tokens in all.
        gain: what the unit embedding is multiplied by. 1 is Arc2Face's; a transformer trained from scratch needs
            more, or what it adds by itself drowns who the person is.
    """

    prompt_ids: Tensor
    empty_ids: Tensor

    def __init__(self, text_model: Any, prompt: Sequence[int], end: int, length: int, gain: float = 1.0) -> None:
        super().__init__()
        self.text_model: Any = text_model
        embeddings = text_model.get_input_embeddings()
        if _splice not in embeddings._forward_hooks.values():  # a text model may be wrapped again
            embeddings.register_forward_hook(_splice)
        self.gain = gain
        filled = [*prompt, *[end] * (length - len(prompt))]
        empty = [prompt[0], *[end] * (length - 1)]
        self.register_buffer("prompt_ids", torch.tensor([filled]), persistent=False)
        self.register_buffer("empty_ids", torch.tensor([empty]), persistent=False)

    @property
    def width(self) -> int:
        """Width of the tokens."""
        return int(self.text_model.config.hidden_size)

    def forward(self, embedding: Tensor) -> Tensor:
        """Identity embeddings ``(B, D)``, D at most the width, to tokens ``(B, length, width)``.

        Embeddings are L2-normalised, multiplied by the gain, and padded with zeros on the right. Tokens are the last
        hidden state after the final layer norm.
        """
        spliced = F.pad(self.gain * F.normalize(embedding, dim=-1), (0, self.width - embedding.shape[-1]))
        token = _SPLICED.set(spliced)
        try:
            tokens: Tensor = self.text_model(input_ids=self.prompt_ids.expand(len(embedding), -1)).last_hidden_state
            return tokens
        finally:
            _SPLICED.reset(token)

    def unconditional(self, batch: int) -> Tensor:
        """The tokens of the empty prompt, ``(batch, length, width)``."""
        tokens = self.text_model(input_ids=self.empty_ids).last_hidden_state
        return tokens.expand(batch, -1, -1)

    def mixed(self, embedding: Tensor, dropped: Tensor, ask: bool = True) -> Tensor:
        """Tokens of embeddings ``(B, D)``, those of the empty prompt where ``dropped`` ``(B,)`` is true.

        Args:
            ask: whether any is, which spares the empty prompt, but has a device finish its work to answer.
        """
        tokens = self(embedding)
        if ask and not dropped.any():
            return tokens
        return torch.where(dropped.view(-1, 1, 1), self.unconditional(len(embedding)).to(tokens.dtype), tokens)


def _splice(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Token embeddings ``(B, T, width)``, that of the identity replaced where there is one."""
    spliced = _SPLICED.get()
    if spliced is None:
        return output
    output = output.clone()
    output[:, ID_PLACE] = spliced.to(output.dtype)
    return output
