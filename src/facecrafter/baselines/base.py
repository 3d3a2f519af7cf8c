"""What every baseline is: a network beside a frozen base, its file, and its way to images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facecrafter.errors import CheckpointError, ConfigError
from facecrafter.models import checkpoint
from facecrafter.models.checkpoint import FaceModel, digest
from facecrafter.models.controls import parameter_count
from facecrafter.request import Portrait, Progress, Request, batches
from facecrafter.sampling.guidance import Guidance, combine
from facecrafter.sampling.sampler import decode, denoise, pixels
from facecrafter.sampling.solvers import check_steps

# The result of training, in the run's `model/`.
FILE = "rival.safetensors"

# Which predictions of Eq. 6 have the identity tokens and which the baseline's condition, by the prediction's name.
Shown = Mapping[str, tuple[bool, bool]]


class Baseline(nn.Module):
    """A network that conditions a frozen base, in its place in Eq. 1 or beside the UNet.

    Attributes:
        kind: what configs and files call it.
        title: what a table calls it.
        note: what a reader of a table must know about it.
        is_identity: whether its condition is the person, in place of the base's identity tokens.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    note: ClassVar[str] = ""
    is_identity: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def beside(cls, base: FaceModel) -> Self:
        """A fresh one for a base: it starts by changing nothing."""

    @abstractmethod
    def fits(self, base: FaceModel) -> bool:
        """Whether it was made for a base of this shape."""

    @abstractmethod
    def read(self, portrait: Portrait, size: int) -> NDArray[np.float32]:
        """What it reads of a photo, of one shape for all.

        Args:
            portrait: the photo: whose pose and expression, or who.
            size: side of the base's images in pixels.
        """

    def prepare(self, condition: Tensor) -> Any:
        """What of a condition is the same in every denoising step: ``(R, ...)``, stacked from :meth:`read`."""
        return condition

    @abstractmethod
    def predict(
        self, unet: nn.Module, noisy: Tensor, timesteps: Tensor, tokens: Tensor, prepared: Any, rows: Tensor
    ) -> Tensor:
        """The base's prediction under the condition.

        Args:
            unet: the base.
            noisy: latents ``(B, C, h, w)``.
            timesteps: ``(B,)``.
            tokens: identity tokens ``(B, T, context)``.
            prepared: what :meth:`prepare` made of the conditions of R samples.
            rows: ``(R,)`` int64, which samples these are; the others are the base's, to the bit.

        Returns:
            ``(B, C, h, w)``.
        """

    def install(self, plain: bool) -> None:
        """Use attention that is fast to train on this machine; see :func:`facecrafter.models.attention.attend`."""


def load_baseline(cls: type[Baseline], path: Path, base: FaceModel) -> Baseline:
    """Read what training wrote, in float32 and evaluation mode.

    Args:
        cls: the baseline's class.
        path: the file, or the folder that holds ``rival.safetensors``.
        base: the base that it is for.

    Raises:
        CheckpointError: the file is missing, damaged, another baseline's, or was made for another base.
    """
    path = path / FILE if path.is_dir() else path
    title = f"{cls.kind} baseline for {base.scale.name}"
    baseline: Baseline = checkpoint.load_part(path, cls.kind, base.scale.name, cls.from_config, title)  # type: ignore[attr-defined]
    if not baseline.fits(base):
        raise CheckpointError(f"{path} was trained on a base of other widths; name the base that its run started from")
    return baseline.requires_grad_(False)


def whole_base(base: FaceModel | Path, device: str) -> FaceModel:
    """A base by its folder, on a device; one that is a whole model already stays where it is.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    from facecrafter.models.pretrained import load_folder

    return base if isinstance(base, FaceModel) else load_folder(Path(base)).to(device)


def save_baseline(baseline: Baseline, folder: Path, scale: str) -> None:
    """Write a baseline with its config into a folder, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"the folder {folder} could not be made: {error.strerror}") from None
    checkpoint.save_part(baseline, folder / FILE, baseline.kind, scale)


# --- images ---------------------------------------------------------------------------------------------------------


def check_sampling(steps: int, scheduler: str, batch_size: int) -> None:
    """Refuse what no images come of.

    Raises:
        ConfigError: unknown scheduler, no steps, or an empty batch.
    """
    check_steps(steps, scheduler)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")


class BaselineGenerator:
    """A baseline as a row of a table; see :class:`facecrafter.request.Generator`.

    Args:
        baseline: the network.
        base: the base that it was trained on.
        identity_scale, condition_scale: of Eq. 6, where the baseline stands in the landmark module's place.
        steps, scheduler: as for ours. Whatever of these is None is the scale's own, and so ours.
        batch_size: images made at once; it changes how fast they come, not what they show.

    Raises:
        ConfigError: a setting that cannot be used.
    """

    SHOWN: ClassVar[Shown] = {"none": (False, False), "identity": (True, False), "landmark": (True, True)}
    SHOWN_OF_IDENTITY: ClassVar[Shown] = {"none": (False, False), "identity": (False, True)}

    def __init__(
        self,
        baseline: Baseline,
        base: FaceModel,
        identity_scale: float | None = None,
        condition_scale: float | None = None,
        steps: int | None = None,
        scheduler: str | None = None,
        batch_size: int = 16,
    ) -> None:
        own: Any = base.scale.sampling
        self.baseline, self.base, self.batch_size = baseline.to(base.unet.device), base, batch_size
        self.guidance = Guidance(
            own["identity_scale"] if identity_scale is None else identity_scale,
            {"landmark": own["landmark_scale"] if condition_scale is None else condition_scale},
        )
        self.steps = own["steps"] if steps is None else steps
        self.scheduler = own["scheduler"] if scheduler is None else scheduler
        check_sampling(self.steps, self.scheduler, batch_size)
        self.shown = self.SHOWN_OF_IDENTITY if baseline.is_identity else self.SHOWN
        self.name, self.note, self.size = baseline.title, baseline.note, base.scale.size
        self.extra_parameters = parameter_count([baseline])

    @cached_property
    def key(self) -> str:
        """A digest of the weights and settings."""
        base = self.base
        return digest((self.baseline, base.unet, base.encoder, base.autoencoder), self.settings())

    def settings(self) -> dict[str, object]:
        """What images depend on besides the networks."""
        scales = {"identity": self.guidance.identity, **self.guidance.controls}
        return {"kind": self.baseline.kind, **scales, "steps": self.steps, "scheduler": self.scheduler}

    def generate(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The images of requests, each as soon as it is made.

        Raises:
            ConfigError: an identity embedding of another length than the base reads.
        """
        wanted = self.base.scale.embedding
        for request in requests:
            if len(request.identity.embedding) != wanted:
                found = len(request.identity.embedding)
                raise ConfigError(f"the {self.base.scale.name} scale reads embeddings of {wanted} numbers, not {found}")
        for batch in batches(requests, self.batch_size, lambda one: self._read(one) is not None):
            chosen = [requests[index] for index in batch]
            device = self.base.unet.device
            identity = torch.from_numpy(np.stack([request.identity.embedding for request in chosen])).to(device)
            condition = self.condition(chosen)
            condition = None if condition is None else condition.to(device)
            step = progress and partial(progress, len(batch) / self.steps)
            images = self.sample(identity, condition, [request.seed for request in chosen], step)
            yield from zip(batch, images, strict=True)

    def _read(self, request: Request) -> Portrait | None:
        """What the baseline's condition is read of; None where the request leaves it free."""
        return request.identity if self.baseline.is_identity else request.conditions.get("landmark")

    def condition(self, requests: Sequence[Request]) -> Tensor | None:
        """What the baseline reads of requests that are alike in having a condition or not, ``(B, ...)``."""
        portraits = [self._read(request) for request in requests]
        read = [self.baseline.read(portrait, self.size) for portrait in portraits if portrait is not None]
        return torch.from_numpy(np.stack(read)) if read else None

    @torch.no_grad()
    def sample(
        self,
        identity: Tensor,
        condition: Tensor | None,
        seeds: Sequence[int],
        progress: Callable[[], object] | None = None,
    ) -> NDArray[np.uint8]:
        """Images ``(B, S, S, 3)`` uint8 RGB of B people.

        Args:
            identity: embeddings ``(B, D)``.
            condition: ``(B, ...)`` as the baseline reads it, or None to leave it free.
            seeds: B.
            progress: called after every step.
        """
        base, baseline, count = self.base, self.baseline, len(identity)
        coefficients = self.guidance.coefficients({"landmark"} & self.shown.keys() if condition is not None else ())
        parts = [self.shown[name] for name in coefficients]
        people, nobody = base.encoder(identity), base.encoder.unconditional(count)
        tokens = torch.cat([people if person else nobody for person, _ in parts])
        asked = [index for index, (_, on) in enumerate(parts) if on and condition is not None]
        rows = torch.tensor([index * count + row for index in asked for row in range(count)], dtype=torch.long)
        rows = rows.to(identity.device)
        prepared = None if condition is None or not asked else baseline.prepare(torch.cat([condition] * len(asked)))

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            every = torch.cat([noisy] * len(parts))
            timesteps = timestep.to(every.device).expand(len(every))
            predictions = baseline.predict(base.unet, every, timesteps, tokens, prepared, rows)
            return combine(predictions, coefficients)

        latents = denoise(predict, base.unet, base.scale.scheduler, self.steps, self.scheduler, seeds, progress)
        return pixels(decode(base.autoencoder, latents, self.size))
