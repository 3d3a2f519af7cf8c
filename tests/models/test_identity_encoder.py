"""Arc2Face's splice: one embedding in place of one token, for a batch as for one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from facecrafter.models import scales
from facecrafter.models.identity_encoder import CLIP_LENGTH, CLIP_PROMPT, ID_PLACE, IdentityEncoder

# Arc2Face's own vocabulary, prompt and length around a narrow CLIP.
SHRUNKEN = dataclasses.replace(
    scales.ARC2FACE,
    text={
        **scales.ARC2FACE.text,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    embedding=20,
)


@pytest.fixture(scope="module", params=["mini", "arc2face"])
def scale(request: pytest.FixtureRequest) -> scales.Scale:
    return scales.MINI if request.param == "mini" else SHRUNKEN


@pytest.fixture(scope="module")
def encoder(scale: scales.Scale) -> IdentityEncoder:
    torch.manual_seed(0)
    return scales.build_encoder(scale).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def embeddings(scale: scales.Scale) -> Tensor:
    return F.normalize(torch.randn(3, scale.embedding, generator=torch.Generator().manual_seed(1)), dim=-1)


def test_a_batch_equals_one_at_a_time(encoder: IdentityEncoder, embeddings: Tensor, scale: scales.Scale) -> None:
    together = encoder(embeddings)
    assert together.shape == (3, scale.length, encoder.width)
    for row in range(3):
        # Matrix products of another height add up in another order.
        torch.testing.assert_close(encoder(embeddings[row : row + 1])[0], together[row], rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_the_embedding_takes_the_place_of_token_4(
    encoder: IdentityEncoder, embeddings: Tensor, scale: scales.Scale
) -> None:
    """The same by hand: look the prompt up, put the padded embedding in, and let the transformer read it."""
    ids = torch.tensor([[*scale.prompt, *[scale.end] * (scale.length - len(scale.prompt))]])
    words = encoder.text_model.get_input_embeddings().weight[ids].repeat(3, 1, 1)
    words[:, 4] = 0
    words[:, 4, : scale.embedding] = scale.gain * F.normalize(embeddings, dim=-1)
    seen: list[Tensor] = []
    hook = encoder.text_model.get_input_embeddings().register_forward_hook(lambda *_: words)
    try:
        expected = encoder.text_model(input_ids=ids.expand(3, -1)).last_hidden_state
    finally:
        hook.remove()
    assert torch.equal(encoder(embeddings), expected)
    reader = encoder.text_model.get_input_embeddings()
    hook = reader.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    try:
        encoder(embeddings)
    finally:
        hook.remove()
    assert torch.equal(seen[0], ids.expand(3, -1))


def test_tokens_before_the_embedding_do_not_know_it(encoder: IdentityEncoder, embeddings: Tensor) -> None:
    """The transformer is causal, so identity is in token 4 and after it, and in none before."""
    tokens = encoder(embeddings)
    assert torch.equal(tokens[0, :ID_PLACE], tokens[1, :ID_PLACE])
    assert ((tokens[0, ID_PLACE:] - tokens[1, ID_PLACE:]).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("factor", [0.01, 3.0, 1000.0])
def test_the_length_of_an_embedding_says_nothing(factor: float, encoder: IdentityEncoder, embeddings: Tensor) -> None:
    torch.testing.assert_close(encoder(embeddings * factor), encoder(embeddings), rtol=0, atol=1e-5)


def test_the_unconditional_tokens_are_those_of_the_empty_prompt(encoder: IdentityEncoder, scale: scales.Scale) -> None:
    ids = torch.tensor([[scale.prompt[0]] + [scale.end] * (scale.length - 1)])
    expected = encoder.text_model(input_ids=ids).last_hidden_state
    got = encoder.unconditional(3)
    assert got.shape == (3, scale.length, encoder.width)
    assert all(torch.equal(row, expected[0]) for row in got)


def test_a_call_that_fails_leaves_nothing_behind(
    encoder: IdentityEncoder, embeddings: Tensor, scale: scales.Scale
) -> None:
    before = encoder.unconditional(1)
    encoder(embeddings)
    with pytest.raises(RuntimeError):
        encoder(embeddings[:, None].expand(-1, 4, -1))  # four embeddings a sample
    scales.wrap_encoder(scale, encoder.text_model)  # wrapped again, spliced once
    assert len(encoder.text_model.get_input_embeddings()._forward_hooks) == 1
    assert torch.equal(encoder.unconditional(1), before)


@pytest.mark.parametrize("dropped", [[False] * 3, [True, False, True], [True] * 3])
def test_mixed_drops_identity_where_it_is_told(
    dropped: list[bool], encoder: IdentityEncoder, embeddings: Tensor
) -> None:
    got, given, empty = encoder.mixed(embeddings, torch.tensor(dropped)), encoder(embeddings), encoder.unconditional(3)
    for row, drop in enumerate(dropped):
        assert torch.equal(got[row], (empty if drop else given)[row])


def test_gradients_reach_the_transformer_and_the_embedding(scale: scales.Scale, embeddings: Tensor) -> None:
    encoder = scales.build_encoder(scale)
    given = embeddings.clone().requires_grad_(True)
    encoder.mixed(given, torch.tensor([False, True, False])).square().sum().backward()
    assert given.grad is not None
    assert (given.grad.abs().sum(1) > 0).tolist() == [True, False, True]
    assert all(p.grad is not None for p in encoder.text_model.parameters())


def test_the_prompt_is_arc2faces_own() -> None:
    assert CLIP_PROMPT == (49406, 1125, 539, 320, 1014, 2533)
    assert (CLIP_PROMPT[ID_PLACE], CLIP_LENGTH) == (1014, 77)
    encoder = scales.build_encoder(SHRUNKEN)
    assert encoder.prompt_ids.shape == (1, 77)
    assert encoder.prompt_ids[0, len(CLIP_PROMPT) :].unique().tolist() == [49407]
    assert not [name for name in encoder.state_dict() if "_ids" in name and "position" not in name]
