"""The settings that every training run has. Those of a stage are beside it, in :mod:`facecrafter.training.stages`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from facecrafter.config import Bearing, Strict
from facecrafter.weights import ASSETS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from facecrafter.data.dataset import TrainingSet

Share = Annotated[float, Field(ge=0, le=1)]
# What has one of these may change when a run goes on; everything else is what the run is.
ASIDE, PLACE = Bearing.ASIDE, Bearing.PLACE


class Mixture(Strict):
    """How often a sample has which conditions; the shares sum to 1. The paper does not state them: our choice."""

    none: Share = 0.0
    identity: Share = 0.0
    landmark: Share = 0.0  # identity and landmarks
    emotion: Share = 0.0  # identity and emotion
    both: Share = 0.0  # identity, landmarks and emotion

    @model_validator(mode="after")
    def _sums_to_one(self) -> Mixture:
        total = sum(self.shares)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of a mixture sum to {total:g}, not 1")
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """In the order none, identity, landmark, emotion, both."""
        return self.none, self.identity, self.landmark, self.emotion, self.both


class Stage(ABC):
    """One stage of training, at work.

    Attributes:
        objective: called with what :meth:`batch` returns; gives the loss; all trained parts are inside it.
        model: what is trained.
        data: what it learns from, where that is a prepared folder.
    """

    objective: nn.Module
    model: Any
    data: TrainingSet | None = None

    @abstractmethod
    def trained(self) -> list[nn.Module]:
        """The modules that learn; everything else is frozen."""

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters that learn at a share of the learning rate of their own, with that share."""
        return []

    @abstractmethod
    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Any]:
        """The ``index``-th of ``parts`` even shares of a step's batch, a pure function of the seed and the step."""

    @abstractmethod
    def validate(self) -> float | None:
        """The loss on held-out people, always on the same draws; None where nobody is held out."""

    @abstractmethod
    def samples(self) -> Tensor:
        """A grid of images ``(N, 3, S, S)`` in [-1, 1] that shows how far training is."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model as it is now."""


class RunConfig(Strict):
    """One training run: what all stages have in common. Each stage's own config is a subclass."""

    RENAMED = {"rival": "baseline", "picture_loss": "image_loss", "critic_rate": "discriminator_rate"}  # noqa: RUF012
    # Settings that are shares of `steps`, so that more steps change what they mean.
    SHARES_OF_STEPS: ClassVar[tuple[str, ...]] = ()

    stage: str  # a name of facecrafter.training.stages.STAGES
    data: Annotated[Path, PLACE]  # a folder that `facecrafter data prepare` wrote
    run: Annotated[Path, ASIDE]  # where checkpoints, logs and the result go
    steps: Annotated[int, ASIDE] = Field(ge=1)  # a run that goes on may have more: docs/training.md
    batch_size: int = Field(32, ge=1)  # over all processes and accumulated steps
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    warmup: int = Field(100, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)  # largest norm of the gradient
    ema: float = Field(0.999, ge=0, lt=1)
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    seed: int = 0
    log_every: Annotated[int, ASIDE] = Field(20, ge=1)
    save_every: Annotated[int, ASIDE] = Field(500, ge=1)
    sample_every: Annotated[int, ASIDE] = Field(1000, ge=1)
    validate_every: Annotated[int, ASIDE] = Field(500, ge=1)  # the loss on held-out people, where some are

    @model_validator(mode="after")
    def _divides(self) -> RunConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        return self

    def divided(self) -> dict[str, int]:
        """The counts of samples a step that are divided among processes and accumulated steps, by setting."""
        return {"batch_size": self.batch_size}

    @abstractmethod
    def build(self, device: torch.device) -> Stage:
        """The stage, its data read and its model made.

        Raises:
            ConfigError: the model that it starts from does not fit.
            DataError: the data does not.
        """


def start_folder(start: Path) -> Path:
    """The folder that `start` names: `mini` is the shipped one."""
    return ASSETS / "mini" if str(start) == "mini" else start
