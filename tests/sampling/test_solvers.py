"""The solvers where the answer is known: on data of which the best prediction is a formula."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor

from facecrafter.models.scales import ARC2FACE, MINI, Scale
from facecrafter.sampling.sampler import build_scheduler
from facecrafter.sampling.solvers import SCHEDULERS

DEVIATION = 0.2236
DIVISORS = [steps for steps in range(1, 1001) if 1000 % steps == 0]


def exact(scale: Scale, noisy: Tensor, alpha: Tensor) -> Tensor:
    """The best prediction from noisy values of a normal distribution with mean 0 and :data:`DEVIATION`."""
    clean = alpha.sqrt() * DEVIATION**2 * noisy / (alpha * DEVIATION**2 + 1 - alpha)
    noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    if scale.scheduler["prediction_type"] == "epsilon":
        return noise
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


def made(scale: Scale, scheduler: str, steps: int) -> float:
    """The deviation of 10,000 values that a solver makes of noise."""
    solver, source = build_scheduler(scheduler, dict(scale.scheduler)), torch.Generator().manual_seed(0)
    solver.set_timesteps(steps)
    alphas = build_scheduler("ddpm", dict(scale.scheduler)).alphas_cumprod
    values = torch.randn(1, 1, 100, 100, generator=source) * solver.init_noise_sigma
    random = {"generator": source} if scheduler == "ddpm" else {}
    for timestep in solver.timesteps:
        prediction = exact(scale, solver.scale_model_input(values, timestep), alphas[int(timestep)])
        values = solver.step(prediction, timestep, values, **random).prev_sample
    return float(values.std())


@pytest.mark.parametrize("scale", [MINI, ARC2FACE], ids=lambda scale: scale.name)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_more_steps_come_nearer_to_the_data_whether_or_not_they_divide_the_timesteps(
    scheduler: str, scale: Scale
) -> None:
    found = {steps: made(scale, scheduler, steps) for steps in (4, 7, 8, 12, 25, 30, 100, 150, 300, 334, 501)}
    for fewer, more in zip(found.values(), list(found.values())[1:], strict=False):
        assert fewer < 1.01 * more, found
    for steps in (150, 300, 334, 501):
        assert 0.88 < found[steps] / DEVIATION < 1.02, found
    assert found[501] / DEVIATION > 0.95, found


@pytest.mark.parametrize("scale", [MINI, ARC2FACE], ids=lambda scale: scale.name)
@pytest.mark.parametrize("steps", DIVISORS)
def test_ddim_is_diffusers_to_the_bit_where_steps_divide_the_timesteps(steps: int, scale: Scale) -> None:
    ours = build_scheduler("ddim", dict(scale.scheduler))
    theirs = diffusers.DDIMScheduler(**scale.scheduler, timestep_spacing="trailing")
    source = torch.Generator().manual_seed(0)
    for solver in (ours, theirs):
        solver.set_timesteps(steps)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    one = other = torch.randn(2, 32, 8, 8, generator=source)
    for timestep in theirs.timesteps:
        prediction = torch.randn(2, 32, 8, 8, generator=source)
        step, wanted = ours.step(prediction, timestep, one), theirs.step(prediction, timestep, other)
        assert torch.equal(step.prev_sample, wanted.prev_sample)
        assert torch.equal(step.pred_original_sample, wanted.pred_original_sample)
        one, other = step.prev_sample, wanted.prev_sample


def test_a_timestep_of_another_list_is_refused() -> None:
    solver = build_scheduler("ddim", dict(MINI.scheduler))
    solver.set_timesteps(8)
    with pytest.raises(IndexError):
        solver.step(torch.zeros(1, 1, 1, 1), torch.tensor(5), torch.zeros(1, 1, 1, 1))
