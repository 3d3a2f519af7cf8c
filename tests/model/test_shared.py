"""What precedes the conditions is computed once, and nobody can tell from the output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from facecrafter.model.attention import AttentionInputs, Branch, identity_keys_values
from facecrafter.model.checkpoint import FaceModel
from facecrafter.model.shared import before_conditions, computed_once

BATCH = 2


def call(model: FaceModel, copies: int, once: bool) -> Tensor:
    """A UNet call on ``copies`` times the same two rows, each copy with conditions of its own."""
    source = torch.Generator().manual_seed(copies)
    rows = torch.randn(BATCH, 32, 8, 8, generator=source).repeat(copies, 1, 1, 1)
    tokens = torch.randn(copies * BATCH, 8, 128, generator=source)
    assert model.controls is not None
    values = torch.rand(BATCH, 10, generator=source)
    emotion = Branch(model.controls.keys_values("emotion", values), torch.arange(BATCH), torch.ones(BATCH))
    inputs = AttentionInputs([emotion], identity_keys_values(model.unet, tokens))
    with torch.no_grad(), computed_once(model.unet, copies if once else 1):
        out: Tensor = model.unet(
            rows, torch.tensor(400), rows.new_zeros(len(rows), 1, 128), cross_attention_kwargs={"conditions": inputs}
        ).sample
    return out


@contextmanager
def seen_rows(modules: list[nn.Module]) -> Iterator[list[int]]:
    """How many rows each call of these modules computes."""
    rows: list[int] = []
    wrapped = [(module, module.forward) for module in modules]

    def counting(forward):
        def run(first: Tensor, *others: object, **named: object) -> Tensor:
            rows.append(len(first))
            return forward(first, *others, **named)

        return run

    for module, forward in wrapped:
        module.forward = counting(forward)
    try:
        yield rows
    finally:
        for module, _ in wrapped:
            del module.forward


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_the_output_is_that_of_a_call_that_computes_everything(small_model: FaceModel, copies: int) -> None:
    plain, once = call(small_model, copies, False), call(small_model, copies, True)
    assert plain.std() > 0.01
    # Kernels add up in another order for another number of rows; one copy is to the bit.
    torch.testing.assert_close(once, plain, rtol=0, atol=2e-5 if copies > 1 else 0)


def test_what_precedes_the_conditions_runs_on_the_different_rows_only(small_model: FaceModel) -> None:
    early = before_conditions(small_model.unet)
    late = [small_model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2, small_model.unet.conv_out]
    with seen_rows(early) as once, seen_rows(late) as all_of_them:
        call(small_model, 4, True)
    assert once == [BATCH] * len(early)
    assert all_of_them == [4 * BATCH] * 2


def test_the_copies_agree_up_to_the_first_cross_attention_and_no_further(small_model: FaceModel) -> None:
    first = small_model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    said: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, __, made: said.append(made.unflatten(0, (4, BATCH))))
        for module in (first.to_q, first)
    ]
    call(small_model, 4, False)
    for hook in hooks:
        hook.remove()
    queries, attended = said
    torch.testing.assert_close(queries, queries[:1].expand_as(queries), rtol=0, atol=2e-5)
    assert (attended[1] - attended[0]).abs().max() > 1e-3


def test_afterwards_the_network_is_as_before(small_model: FaceModel) -> None:
    before = call(small_model, 2, False)
    with pytest.raises(RuntimeError, match="stop"), computed_once(small_model.unet, 2):
        raise RuntimeError("stop")
    assert torch.equal(call(small_model, 2, False), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in before_conditions(small_model.unet))
