"""A training step of ours beside a ControlNet's, in one process, round after round. Weights are random: cost alone
counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.baselines.controlnet import condition_channels
from facecrafter.bench.measure import MIB, held, peak
from facecrafter.models import attention, checkpoint, scales
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.scales import Scale
from facecrafter.training import losses
from facecrafter.training.operations import wait
from facecrafter.training.stages.joint import Joint, JointObjective
from facecrafter.training.stages.objective import DiffusionObjective


@dataclass(frozen=True)
class Cost:
    """What one training step of one candidate costs.

    Attributes:
        name: the candidate.
        trainable, total: parameters, in millions; ``total`` counts everything the step runs.
        optimiser_mib: the state that AdamW keeps.
        peak_mib: the most memory that candidate, optimiser and a step held at once, beside what was held before.
        seconds: the median over the steps.
        spread: the slowest step less the fastest, in seconds.
    """

    name: str
    trainable: float
    total: float
    optimiser_mib: float
    peak_mib: float
    seconds: float
    spread: float


class _ControlNetObjective(nn.Module):
    """Eq. 4 with a ControlNet (Zhang et al., 2023) beside a frozen base."""

    alpha_bars: Tensor

    def __init__(self, unet: nn.Module, controlnet: nn.Module, alpha_bars: Tensor) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet
        self.register_buffer("alpha_bars", alpha_bars)

    def forward(self, latents: Tensor, noise: Tensor, timesteps: Tensor, tokens: Tensor, landmark: Tensor) -> Tensor:
        noisy = losses.noised(latents, noise, self.alpha_bars[timesteps])
        down, middle = self.controlnet(noisy, timesteps, tokens, landmark, return_dict=False)
        predicted = self.unet(
            noisy, timesteps, tokens, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        return F.mse_loss(predicted.float(), noise.float())


def training(
    scale_name: str = "arc2face", batch: int = 1, steps: int = 3, precision: str = "bf16", rounds: int = 2
) -> list[Cost]:
    """One training step of ours and of a ControlNet on the same base, in turn, at random weights.

    Only one candidate is in memory. Each is built and timed once a round, in every other round the last one first, so
    that a machine that becomes slower or faster on the way does so for all of them.

    The candidates are pre-training of the landmark module, the joint stage (Eq. 5) with and without gradient
    checkpointing, and a ControlNet. All read latents and landmark images of one shape; the ControlNet is given its
    identity tokens, ours computes them.

    Args:
        scale_name: ``mini`` or ``arc2face``.
        batch: samples a step.
        steps: measured steps a round, after one that is not.
        precision: ``bf16`` for autocast, or ``no``.
        rounds: how often each candidate is timed.
    """
    scale = scales.SCALES[scale_name]
    with torch.device("meta"):
        scale = scales.fitting(scale, checkpoint.usual_autoencoder(scale))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    candidates: dict[str, Callable[[], tuple[nn.Module, list[nn.Module], dict[str, Tensor]]]] = {
        "landmark pre-training": lambda: _ours(scale, batch, "landmark", False, device),
        "joint": lambda: _ours(scale, batch, "joint", False, device),
        "joint, checkpointed": lambda: _ours(scale, batch, "joint", True, device),
        "ControlNet": lambda: _controlnet(scale, batch, device),
    }
    found: dict[str, list[_Round]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name, make in list(candidates.items())[:: -1 if number % 2 else 1]:
            found[name].append(_measure(make, steps, precision, device))
    return [_cost(name, of) for name, of in found.items()]


def ratios(costs: list[Cost], to: str = "ControlNet") -> list[dict[str, Any]]:
    """The costs, each with its time, optimiser memory and peak memory as shares of one candidate's."""
    base = next(cost for cost in costs if cost.name == to)
    return [
        {
            **asdict(cost),
            "time_ratio": cost.seconds / base.seconds,
            "optimiser_ratio": cost.optimiser_mib / base.optimiser_mib,
            "peak_ratio": cost.peak_mib / base.peak_mib,
        }
        for cost in costs
    ]


def _ours(
    scale: Scale, batch: int, stage: str, checkpointed: bool, device: torch.device
) -> tuple[nn.Module, list[nn.Module], dict[str, Tensor]]:
    torch.manual_seed(0)
    unet = scales.build_unet(scale)
    attention.install(unet, plain=device.type == "cpu")
    if checkpointed:
        unet.enable_gradient_checkpointing()
    controls = scales.build_controls(scale, unet)
    model = FaceModel(scale, unet, scales.build_encoder(scale), nn.Identity(), controls)  # type: ignore[arg-type]
    objective = JointObjective(model, Joint()) if stage == "joint" else DiffusionObjective(model, frozen_encoder=True)
    objective = objective.to(device)
    values = _inputs(scale, batch, unet, device)
    size = controls.config.landmark_size
    joint = {"masks": torch.rand(batch, 64, 64, device=device), "group": batch} if stage == "joint" else {}
    inputs = {
        **{name: values[name] for name in ("latents", "noise", "timesteps")},
        "identity": torch.randn(batch, scale.embedding, device=device),
        "dropped": torch.zeros(batch, dtype=torch.bool, device=device),
        "values": {
            "landmark": torch.rand(batch, 3, size, size, device=device),
            "emotion": torch.rand(batch, 10, device=device),
        },
        "weights": {
            "landmark": torch.ones(batch, device=device),
            "emotion": torch.full((batch,), float(stage == "joint"), device=device),
        },
        **joint,
    }
    learning = [controls, model.encoder] if stage == "joint" else controls.parts(stage)
    return objective, learning, inputs  # type: ignore[return-value]


def _controlnet(scale: Scale, batch: int, device: torch.device) -> tuple[nn.Module, list[nn.Module], dict[str, Tensor]]:
    from diffusers import ControlNetModel, UNet2DConditionModel

    from facecrafter.sampling.sampler import build_scheduler

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**scale.unet)
    attention.install(unet, plain=device.type == "cpu")
    channels = condition_channels(scale.size, unet)
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels)
    attention.install(controlnet, plain=device.type == "cpu")
    alpha_bars = build_scheduler("ddpm", scale.scheduler).alphas_cumprod
    objective = _ControlNetObjective(unet, controlnet, alpha_bars).to(device)
    inputs = _inputs(scale, batch, unet, device)
    return objective, [controlnet], inputs


def _inputs(scale: Scale, batch: int, unet: nn.Module, device: torch.device) -> dict[str, Tensor]:
    config: Any = unet.config
    side = int(config.sample_size)
    latents = torch.randn(batch, config.in_channels, side, side, device=device)
    return {
        "latents": latents,
        "noise": torch.randn_like(latents),
        "timesteps": torch.full((batch,), 500, device=device),
        "tokens": torch.randn(batch, scale.length, config.cross_attention_dim, device=device),
        "landmark": torch.rand(batch, 3, scale.size, scale.size, device=device),
    }


@dataclass(frozen=True)
class _Round:
    """One round of a candidate: what :class:`Cost` has of it, and the seconds of its steps."""

    trainable: float
    total: float
    optimiser_mib: float
    peak_mib: float
    seconds: list[float]


def _cost(name: str, rounds: list[_Round]) -> Cost:
    first, seconds = rounds[0], [one for each in rounds for one in each.seconds]
    return Cost(
        name,
        first.trainable,
        first.total,
        first.optimiser_mib,
        max(one.peak_mib for one in rounds),
        statistics.median(seconds),
        max(seconds) - min(seconds),
    )


def _measure(
    make: Callable[[], tuple[nn.Module, list[nn.Module], dict[str, Tensor]]],
    steps: int,
    precision: str,
    device: torch.device,
) -> _Round:
    before = held(device)
    objective, learning, inputs = make()
    objective.requires_grad_(False)
    for module in learning:
        module.requires_grad_(True)
    parameters = [one for one in objective.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(parameters, 1e-5)
    times = []
    with peak(device) as most:
        for _ in range(1 + steps):
            wait(device)
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = objective(**inputs)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            wait(device)
            times.append(time.perf_counter() - start)
    kept = sum(
        value.numel() * value.element_size()
        for state in optimiser.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
    trainable = sum(one.numel() for one in parameters) / 1e6
    total = sum(one.numel() for one in objective.parameters()) / 1e6
    return _Round(trainable, total, kept / MIB, most[0] - before, times[1:])
