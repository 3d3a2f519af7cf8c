"""The explicit pass computes what diffusers' own forward does, and what precedes the conditions once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from facecrafter.models import attention
from facecrafter.models.attention import AttentionInputs, Branch, identity_keys_values
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.prediction import predict

BATCH = 2


def inputs(model: FaceModel, copies: int) -> tuple[Tensor, AttentionInputs]:
    """Two rows of latents, and conditions that differ from copy to copy."""
    source = torch.Generator().manual_seed(copies)
    rows = torch.randn(BATCH, 32, 8, 8, generator=source)
    tokens = torch.randn(copies * BATCH, 8, 128, generator=source)
    assert model.controls is not None
    values = torch.rand(BATCH, 10, generator=source)
    emotion = Branch(model.controls.keys_values("emotion", values), torch.arange(BATCH), torch.ones(BATCH))
    return rows, AttentionInputs([emotion], identity_keys_values(model.unet, tokens))


def plain(model: FaceModel, rows: Tensor, copies: int, conditions: AttentionInputs) -> Tensor:
    """diffusers' forward on all rows."""
    every = rows.repeat(copies, 1, 1, 1)
    unread = rows.new_zeros(len(every), 1, 128)
    out: Tensor = model.unet(every, torch.tensor(400), unread, cross_attention_kwargs={"conditions": conditions}).sample
    return out


@contextmanager
def counted_rows(modules: list[nn.Module]) -> Iterator[list[int]]:
    """How many rows each call of these modules computes."""
    rows: list[int] = []
    hooks = [module.register_forward_pre_hook(lambda _, given: rows.append(len(given[0]))) for module in modules]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("copies", [1, 2, 4])
@torch.no_grad()
def test_it_is_diffusers_own_forward(small_model: FaceModel, copies: int) -> None:
    rows, conditions = inputs(small_model, copies)
    expected = plain(small_model, rows, copies, conditions)
    made = predict(small_model.unet, rows, torch.tensor(400), conditions, copies=copies)
    assert expected.std() > 0.01
    # Kernels add up in another order for another number of rows; one copy is to the bit.
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-5 if copies > 1 else 0)


@pytest.mark.parametrize("size", [8, 12, 11])
@torch.no_grad()
def test_it_is_diffusers_own_forward_of_every_kind_of_block(size: int) -> None:
    """Stable Diffusion 1.5's layout with few channels, also where halving and doubling do not give the size back."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=size, block_out_channels=(32, 64, 64, 64), layers_per_block=2, cross_attention_dim=32,
        attention_head_dim=4,
    ).eval()  # fmt: skip
    attention.install(unet)
    noisy, tokens = torch.randn(2, 4, size, size), torch.randn(2, 5, 32)
    timesteps = torch.tensor([7, 900])
    expected = unet(noisy, timesteps, tokens).sample
    assert torch.equal(predict(unet, noisy, timesteps, AttentionInputs(), tokens), expected)


def test_gradients_are_those_of_diffusers_own_forward(small_model: FaceModel) -> None:
    rows, conditions = inputs(small_model, 1)
    gradients = []
    for made in (
        lambda given: plain(small_model, given, 1, conditions),
        lambda given: predict(small_model.unet, given, torch.tensor(400), conditions),
    ):
        given = rows.clone().requires_grad_(True)
        made(given).square().sum().backward()
        gradients.append(given.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[1], gradients[0])


@torch.no_grad()
def test_what_precedes_the_conditions_runs_on_the_different_rows_only(small_model: FaceModel) -> None:
    unet = small_model.unet
    first = unet.down_blocks[0].attentions[0]
    layer = first.transformer_blocks[0]
    early = [unet.time_embedding, unet.conv_in, unet.down_blocks[0].resnets[0], first.norm, first.proj_in]
    early += [layer.norm1, layer.attn1.to_q, layer.norm2, layer.attn2.to_q]
    rows, conditions = inputs(small_model, 4)
    with counted_rows(early) as once, counted_rows([layer.attn2.to_out[0], unet.conv_out]) as every:
        predict(unet, rows, torch.tensor(400), conditions, copies=4)
    assert once == [BATCH] * len(early)
    assert every == [4 * BATCH] * 2


@torch.no_grad()
def test_an_update_is_added_to_its_layer_in_this_call_alone(small_model: FaceModel) -> None:
    unet = small_model.unet
    rows, conditions = inputs(small_model, 1)
    before = predict(unet, rows, torch.tensor(400), conditions)
    layer = unet.mid_block.resnets[0].conv1
    torch.manual_seed(0)
    update = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=False)
    changed = AttentionInputs(conditions.branches, conditions.identity, updates={layer: update})
    made = predict(unet, rows, torch.tensor(400), changed)
    own = layer.weight.clone()
    layer.weight.add_(update.weight)
    expected = predict(unet, rows, torch.tensor(400), conditions)
    layer.weight.copy_(own)
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-5)
    assert torch.equal(predict(unet, rows, torch.tensor(400), conditions), before)
