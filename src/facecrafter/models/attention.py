"""Equation 1: cross-attention to the identity plus weighted cross-attention to each control.

    Attn_final = Attn_ID + a_LMK Attn_LMK + a_EMO Attn_EMO

The processors hold no weights. What they need arrives with each call, in an :class:`AttentionInputs` passed as
``cross_attention_kwargs={"conditions": inputs}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

KeyValue = tuple[Tensor, Tensor]

# `attend_in_blocks` is for so many keys at least, and holds so many logits at once: 4 MiB, which stay in a cache.
KEYS_FOR_BLOCKS = 256
LOGITS_AT_ONCE = 2**21


@dataclass
class Branch:
    """One control's part in Eq. 1, for a batch of ``B`` samples.

    Attributes:
        keys_values: K and V for each cross-attention block in the UNet's order, each ``(R, T, width of the block)``.
        rows: ``(R,)`` int64, which of the B samples the rows of K and V belong to. A sample that is not named here has
            this condition cut: nothing is computed for it and nothing is added.
        weights: ``(R,)``, the coefficient a of Eq. 1, any real number.
        place_sigma: see :func:`place_bias`; None for Eq. 1 as it stands.
    """

    keys_values: list[KeyValue]
    rows: Tensor
    weights: Tensor
    place_sigma: float | None = None


@dataclass
class AttentionRecord:
    """What the cross-attention blocks gave in one UNet call, for the loss of Eq. 2.

    Each list has one tensor ``(B, Q, width of the block)`` a block, before the block's output projection.

    Attributes:
        identity: Attn_ID.
        controls: the other summands of Eq. 1 together; zero for samples without.
    """

    identity: list[Tensor] = field(default_factory=list)
    controls: list[Tensor] = field(default_factory=list)

    def taken(self) -> AttentionRecord:
        """A copy that keeps what is there now: checkpointed blocks run, and would be recorded, again in the backward
        pass."""
        return AttentionRecord(list(self.identity), list(self.controls))


@dataclass
class AttentionInputs:
    """What all cross-attention blocks of one UNet call need.

    Attributes:
        branches: the controls that are on.
        identity: K and V of the identity tokens for each block, when they were computed beforehand; otherwise the
            blocks compute them from ``encoder_hidden_states``.
        record: where the blocks write what they gave; None for not at all.
        updates: layers of the UNet, each with what is to be added to its output, a function of its input.
    """

    branches: list[Branch] = field(default_factory=list)
    identity: list[KeyValue] | None = None
    record: AttentionRecord | None = None
    updates: Mapping[nn.Module, nn.Module] = field(default_factory=dict)

    def updated(self, layer: nn.Module, x: Tensor) -> Tensor:
        """A layer's output, with its update where it has one."""
        update, made = self.updates.get(layer), layer(x)
        return made if update is None else made + update(x)


@lru_cache(maxsize=32)
def place_bias(queries: int, tokens: int, sigma: float, device: torch.device = torch.device("cpu")) -> Tensor:
    """The logit added for the distance between a query's place and a token's, ``(queries, tokens)``.

    Both lie on square grids over the same image. The bias is ``-d^2 / (2 sigma^2)`` with the distance d in units of
    the image's side, so attention starts out looking where the landmark is. It has no parameters.
    """

    def grid(count: int) -> Tensor:
        side = round(count**0.5)
        if side * side != count:
            raise ValueError(f"a place bias needs square grids, and {count} is not a square")
        centres = (torch.arange(side, device=device) + 0.5) / side  # there, so that a compiled UNet has it whole
        return torch.cartesian_prod(centres, centres)

    return -torch.cdist(grid(queries), grid(tokens)).square() / (2 * sigma**2)


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None, plain: bool = False
) -> Tensor:
    """``softmax(Q K^T / sqrt(d) + bias) V`` by heads.

    Args:
        query: ``(B, Q, heads * d)``.
        key, value: ``(B, T, heads * d)``.
        bias: ``(Q, T)`` added to the logits of every head.
        plain: two matrix products and a softmax instead of the fused kernel, whose backward pass is slow on CPUs.

    Returns:
        ``(B, Q, heads * d)``.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    bias = None if bias is None else bias.to(q)
    if plain:
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        out = (logits if bias is None else logits + bias).softmax(-1).to(v.dtype) @ v
    else:
        out = attend_in_blocks(q, k, v) if blocks_win(q, k, bias) else F.scaled_dot_product_attention(q, k, v, bias)
    return out.transpose(1, 2).flatten(2)


def blocks_win(query: Tensor, key: Tensor, bias: Tensor | None) -> bool:
    """Whether :func:`attend_in_blocks` can do it, and is the faster way: bfloat16 on a CPU, without gradients and bias,
    and with keys enough. There it takes half the fused kernel's time, and in float32 one and a half times as long."""
    learns = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    small = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return small and bias is None and not learns and key.shape[2] >= KEYS_FOR_BLOCKS


def attend_in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(Q K^T / sqrt(d)) V``, some queries of one head at a time, so that the logits never leave the cache.

    Args:
        query: ``(B, heads, Q, d)``.
        key, value: ``(B, heads, T, d)``.

    Returns:
        ``(B, heads, Q, d)``, laid out in memory as ``(B, Q, heads, d)``.
    """
    batch, heads, queries, width = query.shape
    out = query.new_empty(batch, queries, heads, width).transpose(1, 2)
    at_once = max(1, LOGITS_AT_ONCE // key.shape[2])
    for sample in range(batch):
        for head in range(heads):
            keys = (key[sample, head] * width**-0.5).T.contiguous()
            values = value[sample, head].contiguous()
            for first in range(0, queries, at_once):
                some = slice(first, first + at_once)
                out[sample, head, some] = (query[sample, head, some] @ keys).softmax(-1) @ values
    return out


class ConditionedAttention:
    """The attention processor of every block, self-attention included.

    Args:
        block: the number of the cross-attention block, or None for self-attention.
        plain: see :func:`attend`.
    """

    def __init__(self, block: int | None, plain: bool = False) -> None:
        self.block, self.plain = block, plain

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        conditions: AttentionInputs | None = None,
        copies: int = 1,
    ) -> Tensor:
        """``(B, Q, C)`` to ``(copies * B, Q, C)``; the signature is diffusers', but for ``copies``: the conditions are
        for that many times the rows, and the queries of each row serve all its copies."""
        updated = AttentionInputs().updated if conditions is None else conditions.updated
        query = updated(attn.to_q, hidden_states)
        if copies > 1:
            query = query.repeat(copies, 1, 1)
        if self.block is not None and conditions is not None and conditions.identity is not None:
            key, value = conditions.identity[self.block]
        else:
            context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            key, value = attn.to_k(context), attn.to_v(context)
        out = attend(query, key, value, attn.heads, plain=self.plain)
        if self.block is not None and conditions is not None:
            record = conditions.record
            if record is not None:
                record.identity.append(out)
                controls = torch.zeros_like(out)
                for branch in conditions.branches:
                    controls = self._add(controls, query, branch, attn.heads)
                record.controls.append(controls)
                out = out + controls
            else:
                for branch in conditions.branches:
                    out = self._add(out, query, branch, attn.heads)
        return attn.to_out[1](updated(attn.to_out[0], out))

    def _add(self, out: Tensor, query: Tensor, branch: Branch, heads: int) -> Tensor:
        """Eq. 1's next summand, for the samples that have it."""
        assert self.block is not None
        key, value = branch.keys_values[self.block]
        bias = None
        if branch.place_sigma is not None:
            bias = place_bias(query.shape[1], key.shape[1], branch.place_sigma, query.device)
        attended = attend(query[branch.rows], key.to(query.dtype), value.to(query.dtype), heads, bias, self.plain)
        return out.index_add(0, branch.rows, (attended * branch.weights.view(-1, 1, 1)).to(out.dtype))


def cross_attention_names(unet: Any) -> list[str]:
    """The names of a UNet's cross-attention processors, in the order in which K and V are numbered."""
    return [name for name in unet.attn_processors if name.endswith("attn2.processor")]


def cross_attention_widths(unet: torch.nn.Module) -> list[int]:
    """The inner width of each cross-attention block, in the same order."""
    modules = dict(unet.named_modules())
    return [modules[name.removesuffix(".processor")].inner_dim for name in cross_attention_names(unet)]


def install(unet: Any, plain: bool = False) -> None:
    """Give a UNet our processors. Its weights and, without conditions, its output stay what they were."""
    order = {name: block for block, name in enumerate(cross_attention_names(unet))}
    unet.set_attn_processor({name: ConditionedAttention(order.get(name), plain) for name in unet.attn_processors})


def identity_keys_values(unet: torch.nn.Module, tokens: Tensor) -> list[KeyValue]:
    """K and V of identity tokens ``(B, T, context)`` in every cross-attention block, once an image."""
    projections = iter(identity_projections(unet))
    return [(key(tokens), value(tokens)) for key, value in zip(projections, projections, strict=True)]


def identity_projections(unet: torch.nn.Module) -> list[torch.nn.Linear]:
    """The base's own key and value projection of every cross-attention block: K, V, K, V, ..."""
    modules = dict(unet.named_modules())
    blocks = [modules[name.removesuffix(".processor")] for name in cross_attention_names(unet)]
    return [projection for block in blocks for projection in (block.to_k, block.to_v)]
