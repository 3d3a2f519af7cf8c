"""What the stages share that predict the noise of latents: their settings, their batches and sample grids."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from facecrafter.controls import CONTROLS, Control
from facecrafter.data.dataset import TrainingSet
from facecrafter.data.pairs import Kind, PairConfig, PairSampler
from facecrafter.data.shards import Prepared
from facecrafter.errors import ConfigError, DataError
from facecrafter.models import attention, checkpoint, scales
from facecrafter.models.pretrained import is_published
from facecrafter.models.pretrained import load as load_published
from facecrafter.pipelines.generator import FaceCrafterGenerator
from facecrafter.pipelines.settings import Settings
from facecrafter.training.batches import CPU, Draw, draw, generator
from facecrafter.training.config import ASIDE, PLACE, Mixture, Share, Stage, start_folder
from facecrafter.training.samples import grid
from facecrafter.training.stages.prepared import PreparedConfig, training_sets

log = logging.getLogger(__name__)

# Validation draws the same batches whatever the run's own seed is, so that runs can be compared.
VALIDATION_SEED, VALIDATION_BATCHES = 20_000, 8


class DiffusionConfig(PreparedConfig):
    """A run that predicts the noise of latents."""

    # A model folder (an earlier run's `model/`) whose parts this stage builds on; `mini` for the shipped weights.
    start: Annotated[Path, PLACE]
    # Without pairs: how often the identity comes from another photo of the same person, where there is one.
    pair: Share = 0.5
    identity_noise: float = Field(0.0, ge=0)  # deviation added to each number of the identity embedding
    # Two products and a softmax: on a CPU the fused kernel's backward is slow.
    plain_attention: Annotated[bool, ASIDE] = True

    def image_size(self) -> int:
        """That of the autoencoder in `start`, or the scale's."""
        return checkpoint.image_size(start_folder(self.start)) or super().image_size()

    @property
    def controls(self) -> Mapping[str, Control]:
        """What samples can be given beside identity."""
        return CONTROLS

    @property
    def encodings(self) -> Mapping[str, Mapping[str, Any]]:
        """By control, the options of its encoding that are not the scale's."""
        return {}

    @property
    def recomputes(self) -> bool:
        """Whether the backward pass computes the UNet's blocks again."""
        return False

    @property
    def compiles(self) -> bool:
        """Whether torch.compile is to have the UNet."""
        return False

    @property
    def captures(self) -> bool:
        """Whether a step is to be one CUDA graph."""
        return False

    @property
    def drawn_on_device(self) -> bool:
        """Whether batches are drawn where the model is, and not on the CPU."""
        return False

    def pair_sampler(self, prepared: Prepared, keep: NDArray[np.bool_] | None) -> PairSampler | None:
        """What draws pairs of an input and an identity image; None where they are drawn apart."""
        return None


class Mixed(DiffusionConfig):
    """A run whose samples have conditions by a mixture."""

    mixture: Mixture = Mixture(none=0.1, identity=0.9)


class Paired(DiffusionConfig):
    """A run that may draw an input and an identity image together."""

    # Pairs of an input and an identity image by the paper's rules (Sec. 3.2). null: see `pair`.
    pairs: PairConfig | None = None

    @property
    def pair_kind(self) -> Kind:
        """By which rule: landmark pairs differ in pose and expression."""
        return "landmark"

    def pair_sampler(self, prepared: Prepared, keep: NDArray[np.bool_] | None) -> PairSampler | None:
        """The sampler of the run's kind, where `pairs` is set. Where a short run has so few samples that there are no
        pairs among them, they are drawn apart."""
        try:
            return PairSampler(prepared, self.pair_kind, self.pairs, keep) if self.pairs else None
        except DataError:
            if self.most_samples is None:
                raise
            log.warning("%s has no %s pairs in the samples that there is time for", self.data, self.pair_kind)
            return None


class DiffusionLossConfig(DiffusionConfig):
    """A run that minimises Eq. 4."""

    # Min-SNR weighting (Hang et al., 2023); null for Eq. 4 as it stands. It takes weight from high noise, where who a
    # person is and how the head is turned are decided: with 5, a mini base had not begun to use the identity
    # after 64,000 samples.
    snr_gamma: float | None = Field(None, gt=0)
    # Where batches are drawn. `device`: on the accelerator that trains, which then waits for no CPU; the numbers are
    # others than the CPU's.
    draws: Literal["cpu", "device"] = "cpu"
    # Let torch.compile fuse the UNet's small operations, on a GPU; it takes a minute at the start.
    compiled: Annotated[bool, ASIDE] = False
    # Capture the step as one CUDA graph, so that a GPU does not wait for Python to start its kernels. Wants
    # `draws: device`, and memory for all that a step makes.
    captured: Annotated[bool, ASIDE] = False
    # Recompute the UNet's blocks in the backward pass: less memory, more time.
    gradient_checkpointing: Annotated[bool, ASIDE] = False

    @model_validator(mode="after")
    def _can_be_captured(self) -> DiffusionLossConfig:
        if self.captured and (self.draws != "device" or self.accumulate > 1 or self.precision == "fp16"):
            raise ValueError("`captured` is for runs with `draws: device`, without `accumulate` and in bf16")
        return self

    @property
    def recomputes(self) -> bool:
        """As `gradient_checkpointing` says."""
        return self.gradient_checkpointing

    @property
    def captures(self) -> bool:
        """As `captured` says."""
        return self.captured

    @property
    def compiles(self) -> bool:
        """As `compiled` says."""
        return self.compiled

    @property
    def drawn_on_device(self) -> bool:
        """As `draws` says."""
        return self.draws == "device"


class EncoderConfig(DiffusionConfig):
    """A run that trains the identity encoder. Its rates are shares of the learning rate."""

    # At 1 the encoder forgot who is who before the UNet had learned to listen to it.
    encoder_rate: float = Field(0.05, gt=0)  # the identity encoder
    identity_rate: float = Field(4.0, gt=0)  # the identity's K and V projections in the UNet

    def encoder_rates(self, model: checkpoint.FaceModel) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters of both with their shares."""
        projections = [one for layer in attention.identity_projections(model.unet) for one in layer.parameters()]
        return [(list(model.encoder.parameters()), self.encoder_rate), (projections, self.identity_rate)]


Own = TypeVar("Own", bound=DiffusionConfig)


class DiffusionStage(Stage, Generic[Own]):
    """What the stages have in common that predict the noise of latents.

    Args:
        config: the run.
        device: where to train.
    """

    data: TrainingSet

    def __init__(self, config: Own, device: torch.device) -> None:
        self.config, self.device = config, device
        self.drawn_on = device if config.drawn_on_device else CPU
        prepared, keep = config.read_at_scale()
        controls, pairs = config.controls, config.pair_sampler(prepared, keep)
        data, held = training_sets(prepared, keep, config.scale, pairs, controls, config.encodings)
        self.data, self.held = data, held
        self.model = self._starting_model()
        attention.install(self.model.unet, plain=config.plain_attention and device.type == "cpu")
        if config.recomputes:
            self.model.unet.enable_gradient_checkpointing()
        for part in (data, held):
            if part is not None:
                part.encode(self.model.autoencoder.to(device), config.data / "cache", device)
        data.place(device, controls)
        for part in (data, held):
            if part is not None:
                part.place_identities(self.drawn_on)
        self.objective = self._build_objective().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._note_origin(prepared)

    def _starting_model(self) -> checkpoint.FaceModel:
        """The model to begin with."""
        return load_start(self.config)

    @abstractmethod
    def _build_objective(self) -> nn.Module:
        """What this stage minimises, on the model as it starts."""

    def learned_controls(self) -> Sequence[str]:
        """The names of the controls that learn."""
        return ()

    def _note_origin(self, prepared: Prepared) -> None:
        """Write into the controls' config where what they learn comes from, for generation to read photos likewise."""
        for name in self.learned_controls():
            assert self.model.controls is not None
            for option, value in CONTROLS[name].origin(prepared).items():
                before = self.model.controls.options(name)[option]
                if value is None:
                    continue
                if before not in (None, value):
                    log.warning(
                        "the control '%s' of %s learned from %s, and goes on with what %s has from %s",
                        name, self.config.start, before, self.config.data, value,
                    )  # fmt: skip
                self.model.controls.register_to_config(**{f"{name}_{option}": value})

    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Any]:
        """A share of a step's batch, of the samples to learn from."""
        return self._batch(self.data, self.config.seed, step, index, parts, device)

    def _batch(
        self, data: TrainingSet, seed: int, step: int, index: int, parts: int, device: torch.device
    ) -> dict[str, Any]:
        assert data.latents is not None
        whole = self._draw(data, seed, step)
        if data.pairs:
            whole, sources = self._paired(data.pairs, step, whole)
            chosen = whole.part(index, parts)
            identity = data.identity[sources[index * len(chosen.indices) :][: len(chosen.indices)]]
        else:
            chosen = whole.part(index, parts)
            identity = data.identities(chosen.indices, chosen.swap, chosen.pick)
        batch = {
            "latents": data.latents[chosen.indices.to(data.latents.device)].float(),
            "noise": chosen.noise,
            "timesteps": chosen.timesteps,
            "identity": identity + self.config.identity_noise * chosen.identity_noise,
            "dropped": chosen.dropped,
        }
        placed: dict[str, Any] = {name: value.to(device) for name, value in batch.items()}
        placed["weights"] = {name: weight.to(device) for name, weight in chosen.weights.items()}
        # Found on the CPU, where the weights are: a device would have to finish all its work to say how many there are.
        rows = {name: weight.nonzero().squeeze(1) for name, weight in chosen.weights.items() if name in data.encoded}
        on_device = {name: own.to(self.drawn_on) for name, own in rows.items()}
        if self.config.drawn_on_device:
            placed["rows"] = on_device
        placed["values"] = {
            name: data.conditions(name, chosen.indices[own]).to(device) for name, own in on_device.items()
        }
        for name, value in self._more(data, chosen, identity, (step, index, parts)).items():
            placed[name] = value if isinstance(value, int) else value.to(device)
        return placed

    def _draw(self, data: TrainingSet, seed: int, step: int) -> Draw:
        """The random part of a step's whole batch."""
        assert isinstance(self.config, Mixed)
        return draw(*self._about(data, seed, step), self.config.mixture.shares, self.config.pair, self.drawn_on)

    def _about(self, data: TrainingSet, seed: int, step: int) -> tuple[int, int, int, TrainingSet, torch.Size, int]:
        """What every draw begins with; see :func:`facecrafter.training.batches.draw`."""
        assert data.latents is not None
        return seed, step, self.config.batch_size, data, data.latents.shape[1:], data.identity.shape[1]

    @property
    def _points(self) -> int:
        """Different data points in a batch."""
        return self.config.batch_size

    def _paired(self, pairs: PairSampler, step: int, whole: Draw) -> tuple[Draw, Tensor]:
        """The draw with inputs from pairs, half of them mirrored, and the numbers of their identity images."""
        config, points = self.config, self._points
        inputs, sources = pairs.draw(config.seed, step, points)
        mirrored = torch.rand(points, generator=generator(config.seed, 5, step)) < 0.5
        replicas = torch.arange(points).repeat_interleave(config.batch_size // points)
        indices = (inputs + self.data.count * mirrored)[replicas]
        return replace(whole, indices=indices.to(self.drawn_on)), sources[replicas].to(self.drawn_on)

    def _more(self, data: TrainingSet, chosen: Draw, identity: Tensor, place: tuple[int, int, int]) -> dict[str, Any]:
        """What this stage's objective takes beside Eq. 4's.

        Args:
            data: where the samples come from.
            chosen: the draw of this share of the batch.
            identity: its embeddings, without noise.
            place: the step, which share it is, and of how many.
        """
        return {}

    @property
    def captures(self) -> bool:
        """As the config says."""
        return self.config.captures

    def compile(self) -> None:
        """Let the UNet be compiled, on a GPU; where that fails it goes on as it is."""
        if self.config.compiles and self.device.type == "cuda":
            import torch._dynamo

            torch._dynamo.config.suppress_errors = True
            objective: Any = self.objective
            objective.compiled = torch.compile(self.model.unet, dynamic=False)

    @torch.no_grad()
    def validate(self) -> float | None:
        """The objective without losses on finished images: Eq. 4, or Eq. 5 in the joint stage."""
        if self.held is None:
            return None
        device = next(self.model.unet.parameters()).device
        batches = [self._batch(self.held, VALIDATION_SEED, step, 0, 1, device) for step in range(VALIDATION_BATCHES)]
        return sum(float(self.objective(**batch)) for batch in batches) / len(batches)

    def samples(self) -> Tensor:
        """Identity alone, and identity with each condition of the next person's photo."""
        method = FaceCrafterGenerator(self.model, settings=Settings(speed="exact"))
        alone = [[name] for name in self.model.controls.names] if self.model.controls else []
        return grid(self.data, [(method, given) for given in ([], *alone)])

    def save(self, folder: Path) -> None:
        """The whole model."""
        checkpoint.save_model(self.model, folder)


def load_start(config: DiffusionConfig) -> checkpoint.FaceModel:
    """The model that `start` names.

    Raises:
        ConfigError: it is not there, or of another scale.
        CheckpointError: it cannot be read.
    """
    scale, start = scales.SCALES[config.scale], start_folder(config.start)
    if not start.is_dir():
        raise ConfigError(
            f"start: there is no folder {config.start}; train the stage that it is of, or name another model, as in "
            "start: mini"
        )
    published = config.scale == "arc2face" and is_published(start)
    model = load_published(start) if published else checkpoint.load_model(start)
    if model.scale.name != scale.name:
        raise ConfigError(f"{config.start} is a {model.scale.name} model, and the config asks for {scale.name}")
    model.distilled = None  # it learned the predictions of the model that is trained further now
    return model


def add_controls(model: checkpoint.FaceModel, seed: int) -> None:
    """Give a model untrained controls, the same for a seed."""
    torch.manual_seed(seed)
    model.controls = scales.build_controls(model.scale, model.unet)


def add_control(model: checkpoint.FaceModel, name: str, seed: int) -> None:
    """Give a model's controls one more, untrained, the same for a seed."""
    assert model.controls is not None
    torch.manual_seed(seed)
    options = model.scale.control_options(name)
    model.controls.add([name], {f"{name}_{option}": value for option, value in options.items()})


def need_controls(model: checkpoint.FaceModel, config: DiffusionConfig) -> checkpoint.FaceModel:
    """The model, if it has controls.

    Raises:
        ConfigError: it has none.
    """
    if model.controls is None:
        raise ConfigError(
            f"the {config.stage} stage builds on trained controls, and {config.start} has none; "
            "train landmark and emotion first"
        )
    return model
