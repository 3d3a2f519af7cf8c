"""Equation 1 against a plain loop, and the promise that conditions which are off leave no trace."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from facecrafter.models import attention, scales
from facecrafter.models.attention import (
    AttentionInputs,
    AttentionRecord,
    Branch,
    ConditionedAttention,
    attend,
    attend_in_blocks,
    blocks_win,
    place_bias,
)
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.controls import branches
from facecrafter.models.scales import Scale


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loop_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, sigma: float | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, one number at a time: ``(Q, C)``, ``(T, C)``, ``(T, C)`` to ``(Q, C)``."""
    width = query.shape[1] // heads
    out = torch.zeros_like(query)
    side_q, side_t = math.isqrt(len(query)), math.isqrt(len(key))
    for head in range(heads):
        columns = range(head * width, (head + 1) * width)
        for i in range(len(query)):
            logits = []
            for j in range(len(key)):
                logit = sum(float(query[i, c] * key[j, c]) for c in columns) / math.sqrt(width)
                if sigma is not None:
                    down = (i // side_q + 0.5) / side_q - (j // side_t + 0.5) / side_t
                    right = (i % side_q + 0.5) / side_q - (j % side_t + 0.5) / side_t
                    logit -= (down**2 + right**2) / (2 * sigma**2)
                logits.append(logit)
            powers = [math.exp(logit - max(logits)) for logit in logits]
            for c in columns:
                out[i, c] = sum(p * float(value[j, c]) for j, p in enumerate(powers)) / sum(powers)
    return out


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("batch", "queries", "tokens", "heads"), [(1, 4, 3, 1), (3, 4, 9, 2), (2, 9, 4, 3)])
def test_attend_is_softmax_attention(batch: int, queries: int, tokens: int, heads: int, plain: bool) -> None:
    q, k, v = random(batch, queries, 6, seed=1), random(batch, tokens, 6, seed=2), random(batch, tokens, 6, seed=3)
    expected = torch.stack([loop_attention(q[b], k[b], v[b], heads) for b in range(batch)])
    torch.testing.assert_close(attend(q, k, v, heads, plain=plain), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("queries", "tokens", "sigma"), [(4, 9, 0.12), (16, 4, 0.3), (9, 9, 2.0)])
def test_the_place_bias_favours_near_tokens(queries: int, tokens: int, sigma: float, plain: bool) -> None:
    q, k, v = random(1, queries, 4, seed=1), random(1, tokens, 4, seed=2), random(1, tokens, 4, seed=3)
    got = attend(q, k, v, 2, place_bias(queries, tokens, sigma), plain)
    # The bias is kept in float32, and reaches -69 at sigma 0.12.
    torch.testing.assert_close(got[0], loop_attention(q[0], k[0], v[0], 2, sigma), rtol=0, atol=2e-5)


def test_the_place_bias_is_zero_on_its_own_place_and_refuses_what_is_no_square() -> None:
    assert torch.equal(place_bias(16, 16, 0.1).diagonal(), torch.zeros(16))
    assert torch.equal(place_bias(16, 16, 0.1).argmax(1), torch.arange(16))
    for queries, tokens in ((8, 16), (16, 12)):
        with pytest.raises(ValueError, match="not a square"):
            place_bias(queries, tokens, 0.1)


@pytest.mark.parametrize("at_once", [1, 7 * 300, 2**21])
@pytest.mark.parametrize(("batch", "queries", "tokens", "heads"), [(1, 20, 300, 1), (3, 17, 300, 2)])
def test_attention_in_blocks_is_attention_for_any_size_of_block(
    batch: int, queries: int, tokens: int, heads: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "LOGITS_AT_ONCE", at_once)
    q, k, v = (random(batch, heads, count, 8, seed=count) for count in (queries, tokens, tokens))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend_in_blocks(q, k, v), expected, rtol=0, atol=1e-12)


def test_in_bfloat16_blocks_are_nearly_as_exact_as_the_fused_kernel() -> None:
    q, k, v = (random(2, 400, 80, seed=seed, dtype=torch.bfloat16) for seed in (1, 2, 3))
    exact = attend(q.double(), k.double(), v.double(), 2)
    split = [x.unflatten(-1, (2, -1)).transpose(1, 2) for x in (q, k, v)]
    fused = torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    def error(made: Tensor) -> float:
        return float((made.double() - exact).square().mean().sqrt())

    assert blocks_win(split[0], split[1], None)
    assert 0 < error(attend(q, k, v, 2)) < 2.5 * error(fused) < 5e-4, "logits are rounded, which the kernel keeps"
    assert torch.equal(attend(q, k, v, 2)[:1], attend(q[:1], k[:1], v[:1], 2)), "a sample alone is that in a batch"


@pytest.mark.parametrize(
    ("dtype", "tokens", "bias", "learns", "wins"),
    [
        (torch.bfloat16, 256, False, False, True),
        (torch.float32, 256, False, False, False),
        (torch.bfloat16, 255, False, False, False),
        (torch.bfloat16, 256, True, False, False),
        (torch.bfloat16, 256, False, True, False),
    ],
)
def test_where_blocks_are_the_faster_way(dtype: torch.dtype, tokens: int, bias: bool, learns: bool, wins: bool) -> None:
    q, k = torch.zeros(1, 1, 4, 8, dtype=dtype), torch.zeros(1, 1, tokens, 8, dtype=dtype, requires_grad=learns)
    assert blocks_win(q, k, torch.zeros(4, tokens) if bias else None) == wins
    with torch.no_grad():
        assert blocks_win(q, k, torch.zeros(4, tokens) if bias else None) == (wins or learns)


def test_plain_and_fused_attention_agree_in_single_precision() -> None:
    q, k, v = (random(2, 64, 32, seed=seed, dtype=torch.float32) for seed in (1, 2, 3))
    for bias in (None, place_bias(64, 64, 0.12)):
        torch.testing.assert_close(attend(q, k, v, 4, bias, True), attend(q, k, v, 4, bias, False), rtol=0, atol=2e-6)


# --- Eq. 1 ------------------------------------------------------------------------------------------------------------


def block(context: int = 5) -> Attention:
    torch.manual_seed(0)
    return Attention(query_dim=8, cross_attention_dim=context, heads=2, dim_head=4).double().requires_grad_(False)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "weights",
    [
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]],
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]],  # mixed conditions: the third sample has none
        [[-0.7, 3.5, 0.0], [0.0, 1e-3, -2.0]],  # any real number
        [[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]],
    ],
)
def test_equation_1_with_a_weight_per_condition_and_sample(weights: list[list[float]], plain: bool) -> None:
    """Attn_final = Attn_ID + a_LMK Attn_LMK + a_EMO Attn_EMO, then the output projection."""
    attn = block()
    hidden, identity = random(3, 4, 8, seed=1), random(3, 6, 5, seed=2)
    landmark = random(3, 9, 8, seed=3), random(3, 9, 8, seed=4)
    emotion = random(3, 2, 8, seed=5), random(3, 2, 8, seed=6)
    made = []
    for (key, value), weight, sigma in ((landmark, weights[0], 0.4), (emotion, weights[1], None)):
        rows = torch.tensor([row for row, a in enumerate(weight) if a != 0], dtype=torch.int64)
        a = torch.tensor(weight, dtype=torch.float64)[rows]
        made.append(Branch([(key[rows], value[rows])], rows, a, sigma))
    got = ConditionedAttention(0, plain)(attn, hidden, identity, conditions=AttentionInputs(made))
    for b in range(3):
        query = attn.to_q(hidden[b])
        total = loop_attention(query, attn.to_k(identity[b]), attn.to_v(identity[b]), 2)
        total += weights[0][b] * loop_attention(query, landmark[0][b], landmark[1][b], 2, 0.4)
        total += weights[1][b] * loop_attention(query, emotion[0][b], emotion[1][b], 2)
        torch.testing.assert_close(got[b], attn.to_out[0](total), rtol=0, atol=2e-6)  # float32 place bias


def test_each_block_takes_its_own_keys_and_self_attention_takes_none() -> None:
    attn = block()
    hidden, identity = random(2, 4, 8, seed=1), random(2, 3, 5, seed=2)
    pairs = [(random(2, 4, 8, seed=10 + i), random(2, 4, 8, seed=20 + i)) for i in range(2)]
    rows, ones = torch.arange(2), torch.ones(2, dtype=torch.float64)
    inputs = AttentionInputs([Branch(pairs, rows, ones)])
    first, second = (ConditionedAttention(i)(attn, hidden, identity, conditions=inputs) for i in range(2))
    only = ConditionedAttention(0)(attn, hidden, identity, conditions=AttentionInputs([Branch(pairs[1:], rows, ones)]))
    assert torch.equal(second, only)
    assert not torch.equal(first, second)
    itself = block(context=8)
    conditioned, bare = (ConditionedAttention(None)(itself, hidden, conditions=given) for given in (inputs, None))
    assert torch.equal(conditioned, bare)


# --- in a UNet --------------------------------------------------------------------------------------------------------


def unet_inputs(scale: Scale, batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    width = int(scale.unet["cross_attention_dim"])  # type: ignore[call-overload]
    noisy = random(batch, 32, 8, 8, seed=1, dtype=torch.float32)
    tokens = random(batch, 12, width, seed=2, dtype=torch.float32)
    return noisy, torch.arange(batch) * 249, tokens


def condition_values(batch: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "landmark": torch.rand(batch, 3, 128, 128, generator=generator),
        "emotion": torch.rand(batch, 10, generator=generator),
    }


@torch.no_grad()
def call(unet: Any, inputs: tuple[Tensor, ...], conditions: AttentionInputs | None = None) -> Tensor:
    kwargs = None if conditions is None else {"conditions": conditions}
    out: Tensor = unet(*inputs, cross_attention_kwargs=kwargs).sample
    return out


@pytest.mark.parametrize("scale_name", ["mini", "small"])
def test_without_conditions_the_output_is_that_of_diffusers_own_processor(
    scale_name: str, tiny_model: FaceModel, small_model: FaceModel
) -> None:
    model = tiny_model if scale_name == "mini" else small_model
    inputs = unet_inputs(model.scale)
    ours = call(model.unet, inputs)
    theirs = UNet2DConditionModel(**model.scale.unet).eval()
    theirs.load_state_dict(model.unet.state_dict())
    theirs.set_attn_processor(AttnProcessor2_0())
    expected = call(theirs, inputs)
    assert torch.equal(ours, expected)
    assert torch.equal(call(model.unet, inputs, AttentionInputs()), expected)


def test_conditions_act_and_weights_of_zero_equal_the_base_to_the_bit(small_model: FaceModel) -> None:
    unet, controls, inputs = small_model.unet, small_model.controls, unet_inputs(small_model.scale)
    assert controls is not None
    base, values = call(unet, inputs), condition_values()
    on = {name: torch.ones(4) for name in values}
    off = {name: torch.zeros(4) for name in values}
    assert branches(controls, values, off) == []
    assert torch.equal(call(unet, inputs, AttentionInputs(branches(controls, values, off))), base)
    for condition in values:
        changed = call(unet, inputs, AttentionInputs(branches(controls, values, {**off, condition: on[condition]})))
        assert (changed - base).abs().amax((1, 2, 3)).min() > 1e-3
    # A sample without a condition beside samples that have one.
    some = {"landmark": torch.tensor([1.0, 0.0, 0.0, -2.0]), "emotion": torch.tensor([0.0, 0.0, 0.5, 1.0])}
    mixed = call(unet, inputs, AttentionInputs(branches(controls, values, some)))
    assert torch.equal(mixed[1], base[1])
    assert all(not torch.equal(mixed[row], base[row]) for row in (0, 2, 3))


def test_fresh_controls_equal_the_base_to_the_bit(small_model: FaceModel) -> None:
    unet, inputs = small_model.unet, unet_inputs(small_model.scale)
    fresh = scales.build_controls(small_model.scale, unet)
    weights = {"landmark": torch.full((4,), 2.0), "emotion": torch.full((4,), -1.0)}
    made = branches(fresh, condition_values(), weights)
    assert len(made) == 2
    assert torch.equal(call(unet, inputs, AttentionInputs(made)), call(unet, inputs))


def test_identity_keys_computed_beforehand_equal_those_computed_inside(small_model: FaceModel) -> None:
    unet, controls, inputs = small_model.unet, small_model.controls, unet_inputs(small_model.scale)
    assert controls is not None
    made = branches(controls, condition_values(), {name: torch.ones(4) for name in ("landmark", "emotion")})
    with torch.no_grad():
        before = attention.identity_keys_values(unet, inputs[2])
    unread = (*inputs[:2], torch.zeros(4, 1, inputs[2].shape[2]))
    assert torch.equal(call(unet, unread, AttentionInputs(made, before)), call(unet, inputs, AttentionInputs(made)))


def test_a_sample_alone_is_the_sample_in_a_batch(small_model: FaceModel) -> None:
    unet, controls, inputs = small_model.unet, small_model.controls, unet_inputs(small_model.scale)
    assert controls is not None
    values = condition_values()
    weights = {"landmark": torch.tensor([1.0, 0.0, 2.0, -1.0]), "emotion": torch.tensor([0.5, 0.0, 0.0, 1.0])}
    together = call(unet, inputs, AttentionInputs(branches(controls, values, weights)))
    for row in range(4):
        one = slice(row, row + 1)
        made = branches(
            controls, {name: value[one] for name, value in values.items()}, {n: w[one] for n, w in weights.items()}
        )
        alone = call(unet, tuple(x[one] for x in inputs), AttentionInputs(made))
        # Matrix products of another height add up in another order, so the last bits may differ.
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=2e-5)


def test_plain_attention_in_every_block_is_the_fused_one(small_model: FaceModel) -> None:
    controls, inputs = small_model.controls, unet_inputs(small_model.scale)
    assert controls is not None
    unet = copy.deepcopy(small_model.unet)
    inputs_of = AttentionInputs(
        branches(controls, condition_values(), {name: torch.ones(4) for name in ("landmark", "emotion")})
    )
    fused = call(unet, inputs, inputs_of)
    attention.install(unet, plain=True)
    torch.testing.assert_close(call(unet, inputs, inputs_of), fused, rtol=0, atol=2e-5)


def test_gradient_checkpointing_changes_nothing(small_model: FaceModel) -> None:
    unet, controls = copy.deepcopy(small_model.unet), copy.deepcopy(small_model.controls)
    assert controls is not None
    controls.requires_grad_(True)
    inputs, gradients = unet_inputs(small_model.scale), []
    for checkpointing in (False, True):
        unet.train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        made = branches(controls, condition_values(), {name: torch.ones(4) for name in ("landmark", "emotion")})
        loss = unet(*inputs, cross_attention_kwargs={"conditions": AttentionInputs(made)}).sample.square().mean()
        gradients.append(torch.autograd.grad(loss, list(controls.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_record_says_what_each_block_said_and_changes_nothing(small_model: FaceModel, checkpointing: bool) -> None:
    unet, controls = copy.deepcopy(small_model.unet).train(), copy.deepcopy(small_model.controls)
    assert controls is not None
    controls.requires_grad_(True)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    inputs = unet_inputs(small_model.scale)
    weights = {"landmark": torch.tensor([0.0, 1, 0, 1]), "emotion": torch.tensor([0.0, 0, 2, 1])}

    def run(record: AttentionRecord | None) -> tuple[Tensor, AttentionInputs]:
        conditions = AttentionInputs(branches(controls, condition_values(), weights), record=record)
        return unet(*inputs, cross_attention_kwargs={"conditions": conditions}).sample, conditions

    said: list[Tensor] = []
    blocks = [name.removesuffix(".processor") for name in attention.cross_attention_names(unet)]
    hooks = [
        dict(unet.named_modules())[name]
        .to_out[0]
        .register_forward_pre_hook(lambda _module, given: said.append(given[0].detach()))
        for name in blocks
    ]
    out, conditions = run(AttentionRecord())
    for hook in hooks:
        hook.remove()
    assert conditions.record is not None
    record = conditions.record.taken()
    assert len(record.identity) == len(record.controls) == len(blocks)
    for block in range(len(blocks)):
        assert torch.equal(record.identity[block] + record.controls[block], said[block])
        assert record.controls[block][0].count_nonzero() == 0
        assert all(record.controls[block][row].abs().max() > 0 for row in (1, 2, 3))
    plain, _ = run(None)
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-5)

    # The gradient of something recorded, with blocks that run again in the backward pass or without.
    sum(part.square().mean() for part in record.controls).backward()
    assert len(record.identity) == len(blocks)
    made = branches(controls, condition_values(), weights)
    expected = torch.autograd.grad(
        sum(part.square().mean() for part in _recorded(unet, inputs, made).controls), list(controls.parameters())
    )
    for parameter, gradient in zip(controls.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def _recorded(unet: Any, inputs: tuple[Tensor, ...], made: list[attention.Branch]) -> AttentionRecord:
    unet.disable_gradient_checkpointing()
    conditions = AttentionInputs(made, record=AttentionRecord())
    unet(*inputs, cross_attention_kwargs={"conditions": conditions})
    assert conditions.record is not None
    return conditions.record


def test_processors_hold_no_weights_and_number_the_blocks_in_order(tiny_model: FaceModel) -> None:
    unet = tiny_model.unet
    names = attention.cross_attention_names(unet)
    assert len(names) == len(attention.cross_attention_widths(unet)) == 4
    assert attention.cross_attention_widths(unet) == [256] * 4
    assert [unet.attn_processors[name].block for name in names] == [0, 1, 2, 3]
    others = set(unet.attn_processors) - set(names)
    assert others
    assert all(unet.attn_processors[name].block is None for name in others)
    assert not [key for key in unet.state_dict() if "processor" in key]
