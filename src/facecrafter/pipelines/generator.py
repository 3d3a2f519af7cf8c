"""Requests to images by the project's own model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facecrafter import __version__
from facecrafter.controls import CONTROLS
from facecrafter.pipelines.settings import FilledSettings, Settings
from facecrafter.request import Progress, Request, batches

if TYPE_CHECKING:
    from facecrafter.models.checkpoint import FaceModel


class FaceCrafterGenerator:
    """The project's model; see :class:`facecrafter.request.Generator`.

    Args:
        model: a whole model.
        name: what a table calls it.
        conditions: which controls it takes from a request, where they are there; all if None.
        settings: how to sample where a request does not say; what is None is the scale's own.
        people: see :class:`facecrafter.sampling.sampler.Sampler`.

    Raises:
        ConfigError: a setting cannot be used.
    """

    def __init__(
        self,
        model: FaceModel,
        name: str = "",
        conditions: Sequence[str] | None = None,
        settings: Settings = Settings(),
        people: int = 0,
    ) -> None:
        from facecrafter.sampling.sampler import Sampler

        self.name, self.size = name, model.scale.size
        self.conditions = tuple(sorted(CONTROLS if conditions is None else conditions))
        self.settings = settings.filled(model.scale)
        self.model, self._sampler = model, Sampler(model, people)

    @property
    def extra_parameters(self) -> int:
        """Of the controls in use."""
        from facecrafter.models.controls import parameter_count

        controls = self.model.controls
        used = [] if controls is None else [name for name in self.conditions if name in controls.names]
        return parameter_count([part for name in used for part in controls.parts(name)]) if controls else 0

    @cached_property
    def key(self) -> str:
        """Of the weights in use, the conditions, the settings and the project's version."""
        from facecrafter.models.checkpoint import digest

        idle = set() if self.settings.speed == "distilled" else {"distilled"}
        modules = [module for name, module in sorted(self.model.modules.items()) if name not in idle]
        return digest(modules, {**self.settings.described(), "conditions": self.conditions, "version": __version__})

    def generate(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The images of requests, each as soon as it is made.

        Raises:
            ConfigError: an unknown scheduler or speed, no steps, or a condition or a speed that this model has no
                weights for.
        """
        for alike in batches(requests, len(requests), self._kind):
            settings = requests[alike[0]].settings or self.settings
            for first in range(0, len(alike), settings.batch_size):
                batch = alike[first : first + settings.batch_size]
                images = self._sample([requests[index] for index in batch], settings, progress)
                yield from zip(batch, images, strict=True)

    def _kind(self, request: Request) -> tuple[tuple[str, ...], FilledSettings | None]:
        """Which controls it reads of a request, in the order of the controls, and how that is sampled."""
        given = tuple(name for name in CONTROLS if name in self.conditions and name in request.conditions)
        return given, request.settings

    def _sample(
        self, batch: Sequence[Request], settings: FilledSettings, progress: Progress | None
    ) -> NDArray[np.uint8]:
        """A batch of one kind, ``(B, S, S, 3)`` uint8 RGB."""
        import torch

        from facecrafter.sampling.sampler import pixels

        device: Any = self.model.unet.device
        controls = self.model.controls
        given = {}
        for name in self._kind(batch[0])[0]:
            # What the model has no control for the sampler refuses, however it is encoded.
            options = controls.options(name) if controls and name in controls.names else CONTROLS[name].options
            given[name] = CONTROLS[name].shown([one.conditions[name] for one in batch], options).to(device)
        images = self._sampler.generate(
            torch.from_numpy(np.stack([one.identity.embedding for one in batch])).to(device),
            given,
            guidance=settings.guidance,
            steps=settings.steps,
            seeds=[one.seed for one in batch],
            scheduler=settings.scheduler,
            progress=progress and partial(progress, len(batch) / settings.steps),
            speed=settings.speed,
        )
        return pixels(images)
