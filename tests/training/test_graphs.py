"""Batches copied to where a captured one lay; on a GPU, a captured step against the same step as it is."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facecrafter.training.graphs import WARM, Captured, cloned, copied


@dataclass(frozen=True)
class Part:
    noise: Tensor
    learns: tuple[bool, ...] | Tensor
    rows: dict[str, Tensor]


def batch_of(seed: int, device: str = "cpu", **others: Any) -> dict[str, Any]:
    source = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, 6, 4, generator=source).to(device)
    part = Part(noise, torch.rand(3, generator=source).to(device) < 0.5, {"emotion": torch.arange(2, device=device)})
    return {"x": x, "part": part, "count": 3, **others}


def test_a_batch_is_copied_whole() -> None:
    first, second = batch_of(0), batch_of(1)
    target = cloned(first)
    assert target["x"].data_ptr() != first["x"].data_ptr()
    address = target["part"].noise.data_ptr()
    assert copied(target, second)
    assert torch.equal(target["x"], second["x"])
    assert torch.equal(target["part"].noise, second["part"].noise)
    assert torch.equal(target["part"].learns, second["part"].learns)
    assert target["part"].noise.data_ptr() == address


@pytest.mark.parametrize(
    "other",
    [
        batch_of(1, x=torch.zeros(7, 4)),
        batch_of(1, x=torch.zeros(6, 4, dtype=torch.float64)),
        batch_of(1, x=None),
        batch_of(1, count=4),
        batch_of(1, more=torch.zeros(1)),
        batch_of(1, part=Part(torch.zeros(6, 4), torch.zeros(3, dtype=torch.bool), {"emotion": torch.arange(3)})),
        batch_of(1, part=Part(torch.zeros(6, 4), (True, False, True), {"emotion": torch.arange(2)})),
        batch_of(1, part=Part(torch.zeros(6, 4), torch.zeros(3, dtype=torch.bool), {"landmark": torch.arange(2)})),
    ],
)
def test_a_batch_of_other_shapes_is_refused(other: dict[str, Any]) -> None:
    assert not copied(cloned(batch_of(0)), other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures on a GPU")
def test_a_captured_step_is_the_step() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 4)).to("cuda")
    parameters = list(network.parameters())

    def gradients(batch: dict[str, Any]) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            said = network(batch["x"])
            said = torch.where(batch["part"].learns[0], said, said.detach())
            loss = (said.float() - batch["part"].noise)[batch["part"].rows["emotion"]].square().mean()
        loss.backward()
        return loss.detach()

    captured = Captured(gradients, parameters, torch.device("cuda"), nullcontext())
    for seed in range(WARM + 5):
        batch = batch_of(seed, "cuda")
        wanted = gradients(batch)
        expected = [parameter.grad for parameter in parameters]
        network.zero_grad(set_to_none=True)
        got = captured(batch)
        torch.testing.assert_close(got, wanted)
        for parameter, one in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, one)
        network.zero_grad(set_to_none=True)
    assert captured._graph is not None
    odd = batch_of(9, "cuda", x=torch.randn(8, 4, device="cuda"))
    odd["part"] = Part(torch.randn(8, 4, device="cuda"), odd["part"].learns, odd["part"].rows)
    torch.testing.assert_close(captured(odd), gradients(odd))  # as it is
