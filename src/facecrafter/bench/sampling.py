"""An image of ours beside what diffusers makes on the same base, in one process and in turn. Weights are random."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from facecrafter.baselines.controlnet import condition_channels
from facecrafter.bench.measure import MIB, Spread, held, peak
from facecrafter.controls import CONTROLS
from facecrafter.errors import ConfigError
from facecrafter.models import attention, checkpoint, scales
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.guidance_student import student_of
from facecrafter.models.scales import Scale
from facecrafter.pipelines.devices import usable_device
from facecrafter.sampling.guidance import Guidance
from facecrafter.sampling.plans import SPEEDS
from facecrafter.sampling.sampler import Sampler, build_scheduler
from facecrafter.training.operations import matmul_limit, wait

BASE = "Arc2Face + ControlNet"
# Tokens that an IP-Adapter adds.
ADAPTER_TOKENS = 4
# Operations by what they are for; the first group whose word is in an operation's name counts it.
KINDS = {
    "attention": ("scaled_dot_product", "softmax"),
    "convolutions": ("convolution", "conv2d", "cudnn", "wgrad", "implicit"),
    "matrix products": ("mm", "gemm", "linear"),
    "norms": ("norm", "moments"),
    "copies": ("copy", "cat", "repeat", "index", "clone", "fill"),
}


@dataclass(frozen=True)
class Cost:
    """What an image of one candidate costs.

    Attributes:
        name: the candidate.
        predictions: rows that the UNet computes an image.
        teraflops: floating-point operations an image in units of 10^12, a multiplication and an addition being two.
        seconds: an image; None where nothing was run.
        ratio: seconds as a share of :data:`BASE`'s in the same round.
        peak_mib: the candidate's weights, and the most memory that a batch held beside what was held before.
    """

    name: str
    predictions: float
    teraflops: float
    seconds: Spread | None = None
    ratio: Spread | None = None
    peak_mib: float | None = None


@dataclass(frozen=True)
class Candidate:
    """One way to make a batch of images.

    Attributes:
        name: what it is called.
        modules: what it holds in memory.
        ready: puts the attention processors that it needs into the shared UNet.
        images: makes the batch in so many steps.
    """

    name: str
    modules: list[nn.Module]
    ready: Callable[[], None]
    images: Callable[[int], Tensor]


class Networks:
    """Every network of the benchmark, random, around one UNet, and the inputs of one batch.

    Args:
        scale: the model scale; ``mini`` with the autoencoder of its shipped weights.
        batch: images at once.
        device: where; on ``meta`` nothing has memory or can be timed, and operations can be counted.
        dtype: what the networks compute in.
    """

    def __init__(self, scale: Scale, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        from diffusers import ControlNetModel
        from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0

        self.batch, self.device = batch, device
        torch.manual_seed(0)
        with torch.device("meta") if device.type == "meta" else nullcontext():
            autoencoder = checkpoint.usual_autoencoder(scale)
            self.scale = scale = scales.fitting(scale, autoencoder)
            self.unet = scales.build_unet(scale)
            self.controlnet = ControlNetModel.from_unet(
                self.unet,
                conditioning_embedding_out_channels=condition_channels(scale.size, self.unet),
                load_weights_from_unet=device.type != "meta",
            )
            controls = scales.build_controls(scale, self.unet)
            student = student_of(self.unet, 16, scale.name)
            encoder = scales.build_encoder(scale)
            widths = iter(attention.cross_attention_widths(self.unet))
            tokens = (ADAPTER_TOKENS, ADAPTER_TOKENS)
            self.adapters = {
                name: IPAdapterAttnProcessor2_0(next(widths), self.unet.config.cross_attention_dim, tokens)
                if name.endswith("attn2.processor")
                else AttnProcessor2_0()
                for name in self.unet.attn_processors
            }
        self.model = FaceModel(scale, self.unet, encoder, autoencoder, controls, student)
        self.model.to(device, dtype, memory_format=torch.channels_last)
        others = [self.controlnet, *(one for one in self.adapters.values() if isinstance(one, nn.Module))]
        for module in others:
            nn.Module.to(module, device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in (*self.model.modules.values(), *others):
            module.requires_grad_(False).eval()
        width = int(self.unet.config.cross_attention_dim)
        source = torch.Generator().manual_seed(0)
        self.identity = torch.randn(batch, scale.embedding, generator=source).to(device)
        size = controls.config.landmark_size
        self.conditions = {
            "landmark": torch.rand(batch, 3, size, size, generator=source).to(device),
            "emotion": torch.rand(batch, 10, generator=source).to(device),
        }
        self.drawn = torch.rand(2 * batch, 3, scale.size, scale.size, generator=source).to(device, dtype)
        self.tokens = [torch.randn(2 * batch, ADAPTER_TOKENS, width, generator=source).to(device, dtype)] * 2

    def candidates(self) -> list[Candidate]:
        """Ours in every speed, and the baselines, :data:`BASE` among them."""
        shared = [self.model.encoder, self.model.autoencoder]
        own = [*shared, self.unet, self.model.controls]
        adapters = [one for one in self.adapters.values() if isinstance(one, nn.Module)]
        usual = partial(self._use, None)
        return [
            Candidate(BASE, [*shared, self.unet, self.controlnet], usual, partial(self._guided, self._controlled)),
            Candidate("Arc2Face", [*shared, self.unet], usual, partial(self._guided, self._plain)),
            Candidate(
                "Arc2Face + two IP-Adapters",
                [*shared, self.unet, *adapters],
                partial(self._use, self.adapters),
                partial(self._guided, self._adapted),
            ),
            *(
                Candidate(
                    speed,
                    own + [self.model.distilled] * (speed == "distilled"),  # type: ignore[list-item,operator]
                    partial(attention.install, self.unet),
                    partial(self._ours, speed),
                )
                for speed in SPEEDS
            ),
        ]

    def _use(self, processors: dict[str, Any] | None) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.unet.set_attn_processor(AttnProcessor2_0() if processors is None else dict(processors))

    def _ours(self, speed: str, steps: int) -> Tensor:
        own: Any = self.scale.sampling
        guidance = Guidance(own["identity_scale"], {name: own[f"{name}_scale"] for name in CONTROLS})
        return Sampler(self.model).generate(
            self.identity, self.conditions, guidance, steps, None, str(own["scheduler"]), speed=speed
        )

    @torch.no_grad()
    def _guided(self, predict: Callable[[Tensor, Tensor, Tensor], Tensor], steps: int) -> Tensor:
        """Two predictions a step in one call, and all images decoded at once, as diffusers' pipelines do it."""
        model, config = self.model, self.unet.config
        tokens = torch.cat([model.encoder.unconditional(self.batch), model.encoder(self.identity)])
        solver = build_scheduler(str(self.scale.sampling["scheduler"]), dict(self.scale.scheduler))
        solver.set_timesteps(steps)
        shape = (self.batch, config.in_channels, config.sample_size, config.sample_size)
        latents = torch.randn(shape, device=self.device) * solver.init_noise_sigma
        guidance = float(self.scale.sampling["identity_scale"])
        for timestep in solver.timesteps:
            noisy = solver.scale_model_input(torch.cat([latents] * 2), timestep).to(tokens.dtype)
            without, given = predict(noisy, timestep, tokens).float().chunk(2)
            latents = solver.step(without + guidance * (given - without), timestep, latents).prev_sample
        autoencoder = model.autoencoder
        images: Tensor = autoencoder.decode((latents / autoencoder.config.scaling_factor).to(autoencoder.dtype)).sample
        return images

    def _plain(self, noisy: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        out: Tensor = self.unet(noisy, timestep, tokens).sample
        return out

    def _controlled(self, noisy: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        down, middle = self.controlnet(noisy, timestep, tokens, self.drawn, return_dict=False)
        out: Tensor = self.unet(
            noisy, timestep, tokens, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        return out

    def _adapted(self, noisy: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        out: Tensor = self.unet(noisy, timestep, (tokens, self.tokens)).sample
        return out


def sampling(
    scale_name: str = "mini",
    batch: int = 1,
    steps: int | None = None,
    rounds: int = 5,
    device_name: str = "cpu",
    bfloat16: bool = False,
    only: Sequence[str] = (),
) -> tuple[list[Cost], dict[str, Any]]:
    """Images of every candidate, in turn, round after round.

    Args:
        scale_name: ``mini`` or ``arc2face``.
        batch: images at once.
        steps: denoising steps; the scale's own if None.
        rounds: how often every candidate is timed, after one step that is not.
        device_name: ``cpu``, ``cuda``, ``mps``, or ``meta`` to count operations and run nothing.
        bfloat16: what the networks compute in; float32 otherwise.
        only: names of candidates beside :data:`BASE`; all if empty.

    Returns:
        The costs, and where the time of ``exact`` goes (see :func:`profile`), empty on ``meta``.

    Raises:
        ConfigError: no such device, or no candidate of a name.
    """
    scale, device = scales.SCALES[scale_name], torch.device(usable_device(device_name))
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    steps = steps or int(scale.sampling["steps"])
    counted = Networks(scale, batch, torch.device("meta"), dtype)
    names = [one.name for one in counted.candidates()]
    for unknown in set(only) - set(names):
        raise ConfigError(f"there is no candidate '{unknown}' in this benchmark; there are {', '.join(names)}")
    wanted = [name for name in names if not only or name in (*only, BASE)]
    counts = {one.name: count(counted, one, steps) for one in counted.candidates() if one.name in wanted}
    if device.type == "meta":
        return [Cost(name, *counts[name]) for name in wanted], {}
    networks = Networks(scale, batch, device, dtype)
    candidates = [one for one in networks.candidates() if one.name in wanted]
    seconds, peaks = _in_turn(candidates, steps, rounds, device)
    costs = [
        Cost(
            name,
            *counts[name],
            Spread.of([one / batch for one in seconds[name]]),
            Spread.of([own / base for own, base in zip(seconds[name], seconds[BASE], strict=True)]),
            peaks[name],
        )
        for name in wanted
    ]
    exact = next((one for one in candidates if one.name == "exact"), None)
    return costs, profile(exact, counts["exact"][1] * batch, steps, device, dtype) if exact else {}


def lines(batch: int, costs: Sequence[Cost], where: dict[str, Any]) -> list[str]:
    """The result of :func:`sampling` in words."""
    outcome = [f"batch {batch}"]
    for cost in costs:
        line = f"  {cost.name}: {cost.predictions:.0f} predictions, {cost.teraflops:.3g} TFLOP an image"
        if cost.seconds and cost.ratio:
            line += f", {cost.seconds} s an image, {cost.ratio} of {BASE}, peak {cost.peak_mib:.0f} MiB"
        outcome.append(line)
    if where:
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in where["shares"].items())
        outcome.append(f"  time of exact: {shares}")
        outcome.append(
            f"  exact reaches {where['reached']:.0%} of the {where['limit']:.3g} TFLOP/s of large matrix products here"
        )
    return outcome


def count(networks: Networks, candidate: Candidate, steps: int) -> tuple[float, float]:
    """Rows of the UNet's output and teraflops an image, counted on networks without memory."""
    rows: list[int] = []
    candidate.ready()
    hook = networks.unet.conv_out.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    with FlopCounterMode(display=False) as counter:
        candidate.images(steps)
    hook.remove()
    return sum(rows) / networks.batch, counter.get_total_flops() / networks.batch / 1e12


def _in_turn(
    candidates: list[Candidate], steps: int, rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every batch and the most memory, by candidate."""
    seconds: dict[str, list[float]] = {one.name: [] for one in candidates}
    peaks = dict.fromkeys(seconds, 0.0)
    for one in candidates:
        one.ready()
        one.images(1)
    for _ in range(rounds):
        for one in candidates:
            one.ready()
            before = held(device)
            with peak(device) as most:
                wait(device)
                start = time.perf_counter()
                one.images(steps)
                wait(device)
                seconds[one.name].append(time.perf_counter() - start)
            peaks[one.name] = max(peaks[one.name], _weights(one) + most[0] - before)
    return seconds, peaks


def _weights(candidate: Candidate) -> float:
    """MiB of a candidate's own parameters."""
    parameters = {id(value): value for module in candidate.modules for value in module.parameters()}
    return sum(value.numel() * value.element_size() for value in parameters.values()) / MIB


def profile(
    candidate: Candidate, teraflops: float, steps: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Where the time of a batch goes.

    Args:
        candidate: whose.
        teraflops: of a batch.
        steps: denoising steps.
        device, dtype: where and in what it computes.

    Returns:
        ``shares`` of the time by :data:`KINDS` and ``other``; ``limit``, the teraflops a second of the machine's own
        matrix products; ``reached``, the batch's teraflops a second as a share of it.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    candidate.ready()
    start = time.perf_counter()
    candidate.images(steps)
    wait(device)
    seconds = time.perf_counter() - start
    with recorded(activities=activities) as recording:
        candidate.images(steps)
        wait(device)
    limit = matmul_limit(device, dtype) / 1e12
    return {
        "shares": shares(recording.key_averages(), device.type == "cuda"),
        "limit": limit,
        "reached": teraflops / seconds / limit,
    }


def shares(events: Iterable[Any], on_device: bool) -> dict[str, float]:
    """Shares of the time by :data:`KINDS` and ``other``.

    Args:
        events: operations as ``torch.profiler`` averages them.
        on_device: count what the operations took on an accelerator. Its kernels are events too, with the same time
            once more, and are left out.
    """
    times: dict[str, float] = dict.fromkeys((*KINDS, "other"), 0.0)
    for event in events:
        if event.device_type == DeviceType.CPU:
            times[_kind(event.key)] += event.self_device_time_total if on_device else event.self_cpu_time_total
    total = sum(times.values())
    return {kind: own / total for kind, own in times.items()}


def _kind(operation: str) -> str:
    name = operation.lower()
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")
