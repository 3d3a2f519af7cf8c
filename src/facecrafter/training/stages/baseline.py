"""Training of the baselines: the landmark stage's loss, pairs and draws, with another network on the frozen base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor, nn

from facecrafter.baselines import baseline_class, head
from facecrafter.baselines.base import Baseline, BaselineGenerator, save_baseline
from facecrafter.controls import CONTROLS, Control
from facecrafter.controls.base import stacked, unchanged
from facecrafter.data.dataset import TrainingSet
from facecrafter.faces import symmetry
from facecrafter.models.checkpoint import FaceModel
from facecrafter.training.samples import grid
from facecrafter.training.stages.diffusion import (
    DiffusionLossConfig,
    DiffusionStage,
    Mixed,
    Paired,
    load_start,
)
from facecrafter.training.stages.objective import NoiseObjective

Kind = Literal["controlnet", "caphuman", "ip_adapter", "expression_adapter"]


class BaselineConfig(Mixed, Paired, DiffusionLossConfig):
    """A run of the baseline stage."""

    stage: Literal["baseline"] = "baseline"
    # Which network learns beside the frozen base (docs/method.md). In its mixture `landmark` is the baseline's
    # condition, whatever it reads; of ip_adapter, whose condition is the person, `identity` is.
    baseline: Kind

    @model_validator(mode="after")
    def _learns(self) -> BaselineConfig:
        own = "identity" if baseline_class(self.baseline).is_identity else "landmark"
        if self.mixture.foreign(own):
            raise ValueError(f"the baseline {self.baseline} has one condition, {own}; its mixture names another")
        if not self.mixture.share(own):
            raise ValueError(f"the baseline {self.baseline} learns nothing from a mixture without {own}")
        return self

    @property
    def controls(self) -> Mapping[str, Control]:
        """The landmark module's place, taken by what the baseline reads: mostly landmark images, or who it is."""
        return {"landmark": READ_BY.get(self.baseline, CONTROLS["landmark"])}

    @property
    def encodings(self) -> Mapping[str, Mapping[str, Any]]:
        """A baseline reads its condition at the size of the base's images, a landmark module at its own."""
        return {"landmark": {"size": self.image_size()}}

    def build(self, device: torch.device) -> BaselineStage:
        """A fresh baseline beside the base that `start` holds."""
        return BaselineStage(self, device)


def _heads(points: Sequence[NDArray[np.float32]], size: float, options: Mapping[str, Any]) -> NDArray[np.float32]:
    """Head maps ``(B, 5, L, L)``; see :func:`facecrafter.baselines.head.draw`."""
    return np.stack([head.draw(one, size, options["size"]) for one in points])


def _mirrored(mirror: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Callable[[Tensor], Tensor]:
    """A mirror of arrays as one of tensors."""
    return lambda value: torch.from_numpy(np.ascontiguousarray(mirror(value.cpu().numpy()))).to(value.device)


# What baselines read that do not read landmark images.
READ_BY: dict[str, Control] = {
    "caphuman": replace(CONTROLS["landmark"], encode=_heads, present=unchanged, mirror=_mirrored(head.mirrored)),
    "expression_adapter": replace(
        CONTROLS["landmark"],
        read=lambda portrait: portrait.blendshapes,
        encode=stacked,
        present=unchanged,
        mirror=_mirrored(symmetry.blendshapes),
    ),
}


class BaselineObjective(NoiseObjective):
    """Eq. 4 of a base's prediction under a baseline's condition."""

    def __init__(self, model: FaceModel, baseline: Baseline, gamma: float | None) -> None:
        super().__init__(model, gamma)
        self.baseline = baseline

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        identity: Tensor,
        dropped: Tensor,
        condition: Tensor,
        given: Tensor,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            latents: clean latents ``(B, C, h, w)``.
            noise: standard normal, the same shape.
            timesteps: ``(B,)``.
            identity: embeddings ``(B, D)``.
            dropped: ``(B,)`` bool, samples without identity tokens.
            condition: ``(R, ...)``, what the baseline reads of the R samples that have its condition.
            given: ``(B,)`` bool, which these are.
        """
        noisy = self.noised(latents, noise, timesteps)
        with torch.no_grad():
            tokens = self.encoder.mixed(identity, dropped)
        rows = given.nonzero().squeeze(1)
        prepared = self.baseline.prepare(condition) if len(rows) else None
        prediction = self.baseline.predict(self.unet, noisy, timesteps, tokens, prepared, rows)
        return self.loss(prediction, latents, noise, timesteps)


class BaselineStage(DiffusionStage[BaselineConfig]):
    """A baseline learns, the base is frozen, there are no controls."""

    baseline: Baseline

    def _starting_model(self) -> FaceModel:
        model = load_start(self.config)
        model.controls = None
        return model

    def _build_objective(self) -> nn.Module:
        config = self.config
        torch.manual_seed(config.seed)
        self.baseline = baseline_class(config.baseline).beside(self.model)
        self.baseline.install(plain=config.plain_attention and self.device.type == "cpu")
        if config.gradient_checkpointing and getattr(self.baseline, "_supports_gradient_checkpointing", False):
            self.baseline.enable_gradient_checkpointing()  # type: ignore[operator]
        return BaselineObjective(self.model, self.baseline, config.snr_gamma)

    def trained(self) -> list[nn.Module]:
        """The baseline."""
        return [self.baseline]

    def _batch(
        self, data: TrainingSet, seed: int, step: int, index: int, parts: int, device: torch.device
    ) -> dict[str, Any]:
        drawn = super()._batch(data, seed, step, index, parts, device)
        batch = {name: drawn[name] for name in ("latents", "noise", "timesteps", "identity", "dropped")}
        if not self.baseline.is_identity:
            return {**batch, "condition": drawn["values"]["landmark"], "given": drawn["weights"]["landmark"] != 0}
        given = ~drawn["dropped"]
        return {**batch, "dropped": torch.ones_like(given), "condition": drawn["identity"][given], "given": given}

    def samples(self) -> Tensor:
        """Identity alone, and with the condition of the next person's photo."""
        method = BaselineGenerator(self.baseline, self.model)
        controls = [[]] if self.baseline.is_identity else [[], ["landmark"]]
        return grid(self.data, [(method, given) for given in controls])

    def save(self, folder: Path) -> None:
        """The baseline alone; the base is where it was."""
        save_baseline(self.baseline, folder, self.config.scale)
