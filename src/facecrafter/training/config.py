"""The settings that every training run has. Those of a stage are beside it, in :mod:`facecrafter.training.stages`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, RootModel, model_validator

from facecrafter.config import Bearing, Strict
from facecrafter.controls import CONTROLS, together
from facecrafter.errors import nearest
from facecrafter.weights import ASSETS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from facecrafter.data.dataset import TrainingSet

Share = Annotated[float, Field(ge=0, le=1)]
# What has one of these may change when a run goes on; everything else is what the run is.
ASIDE, PLACE = Bearing.ASIDE, Bearing.PLACE


class Mixture(RootModel[dict[str, Share]]):
    """How often a sample has which conditions; the shares sum to 1. The paper does not state them: our choice.

    Its keys are ``none``, ``identity``, a control's name for identity with it, and such names joined by ``+``.
    """

    model_config = ConfigDict(frozen=True)
    # `both` is from when there were two controls.
    ALIASES: ClassVar[Mapping[str, str]] = {"both": "landmark+emotion"}

    @model_validator(mode="after")
    def _names_and_sum(self) -> Mixture:
        known = ["none", *together(CONTROLS)]
        given = {self.ALIASES.get(name, name): share for name, share in self.root.items()}
        for name in given.keys() - set(known):
            raise ValueError(f"a mixture has no share '{name}'{nearest(name, known)}")
        total = sum(given.get(name, 0.0) for name in known)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of a mixture sum to {total:g}, not 1")
        # Without the zeros that runs used to write down, and in one order, so that equal mixtures are equal.
        self.root.clear()
        self.root.update({name: given[name] for name in known if given.get(name)})
        return self

    def share(self, name: str) -> float:
        """Of a combination, by its name."""
        return self.root.get(name, 0.0)

    @property
    def shares(self) -> dict[str, float]:
        """Of every combination, in the order of :func:`facecrafter.controls.together` after ``none``."""
        return {name: self.share(name) for name in ("none", *together(CONTROLS))}

    def foreign(self, *own: str) -> bool:
        """Whether it names a combination beside some, ``none`` and ``identity``."""
        return bool(self.root.keys() - {"none", "identity", *own})


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

    def settled(self, step: int) -> list[nn.Parameter]:
        """Parameters that from this very step on learn no more: they take their averages, which are the model's."""
        return []

    @abstractmethod
    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Any]:
        """The ``index``-th of ``parts`` even shares of a step's batch, a pure function of the seed and the step."""

    @property
    def captures(self) -> bool:
        """Whether a GPU is to have a step's kernels as one graph: none of it waits for the device, and every batch is
        alike in all but its values."""
        return False

    def compile(self) -> None:  # noqa: B027 - most have nothing to do
        """Let the network be compiled from the next step on, where the config wants it."""

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

    stage: str  # a name of facecrafter.training.stages.stages
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

    def wants_steps(self) -> str:
        """What is to be set, and how, where nobody knows how many steps a run will have; empty where nothing is."""
        return ""

    def rate_factor(self, step: int) -> float:
        """The learning rate's factor at a step, in (0, 1]: linear warm-up, then constant or half a cosine down to
        2 %."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return warm
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))

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
