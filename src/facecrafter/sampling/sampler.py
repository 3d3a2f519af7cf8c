"""Conditions to images: the reverse process under Eq. 6, batched, each condition's K and V computed once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facecrafter.controls import CONTROLS
from facecrafter.errors import ConfigError
from facecrafter.models.attention import AttentionInputs, Branch, KeyValue, identity_keys_values
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.guidance_student import StudentInputs
from facecrafter.models.prediction import predict
from facecrafter.sampling.ddim import DDIM
from facecrafter.sampling.guidance import Guidance, given_to
from facecrafter.sampling.plans import Step, plan, summed
from facecrafter.sampling.solvers import SCHEDULERS, check_steps

# What is decoded in one call: one image of 512 px, or sixteen of 128.
PIXELS_AT_ONCE = 512 * 512


def check_conditions(model: FaceModel, wanted: Collection[str]) -> None:
    """Refuse conditions that a model has no control for.

    Raises:
        ConfigError: it has none, or not one of these.
    """
    controls = model.controls
    if controls is None and wanted:
        titles = " and ".join(control.title.rpartition(" ")[0] for control in CONTROLS.values())
        raise ConfigError(f"this model has no controls; leave {titles} out, or load a controls file")
    if controls is not None and (lacking := set(wanted) - set(controls.names)):
        raise ConfigError(f"this model has no control '{min(lacking)}'; it has {', '.join(controls.names)}")


class Sampler:
    """Makes images with one model.

    Args:
        model: a whole model; its controls may be missing, then only identity can be asked for.
        people: whose identity's K and V are held for the next batches, how many at most. Each is then computed alone,
            so that an image does not depend on which of them were held; 0 computes those of a batch in one call.
    """

    def __init__(self, model: FaceModel, people: int = 0) -> None:
        self.model, self.people = model, people
        self._held: dict[bytes, list[KeyValue]] = {}

    @torch.no_grad()
    def generate(
        self,
        identity: Tensor,
        conditions: Mapping[str, Tensor] = MappingProxyType({}),
        guidance: Guidance | None = None,
        steps: int = 25,
        seeds: Sequence[int] | None = None,
        scheduler: str = "dpm",
        progress: Callable[[], object] | None = None,
        speed: str = "exact",
    ) -> Tensor:
        """Sample ``B`` images.

        Args:
            identity: embeddings ``(B, D)``.
            conditions: by control, ``(B, ...)`` as its module reads it; what is left out is free.
            guidance: the scales of Eq. 6; the paper's if None.
            steps: denoising steps.
            seeds: one an image; an image depends on its own seed and not on its neighbours. 0, 1, ... if None.
            scheduler: one of :data:`facecrafter.sampling.solvers.SCHEDULERS`.
            progress: called after every step.
            speed: one of :data:`facecrafter.sampling.plans.SPEEDS`.

        Returns:
            ``(B, 3, S, S)`` float32 in [-1, 1].

        Raises:
            ConfigError: unknown scheduler or speed, no steps, as many seeds as images are not given, or a condition
                or a speed is asked of a model that lacks the weights for it.
        """
        seeds = list(range(len(identity))) if seeds is None else list(seeds)
        self._check(identity, conditions, steps, seeds, scheduler)
        model, guidance = self.model, guidance or Guidance()
        planned = plan(speed, guidance.coefficients(conditions), steps)

        scales = {name: identity.new_tensor([scale]) for name, scale in guidance.scales(conditions).items()}
        student = self._student(planned, scales, conditions)
        predictions = {name for step in planned for name in step.weights}
        persons = self._persons(identity, "none" in predictions)
        computed = _Conditions(model, persons, identity, conditions, predictions, student)
        ahead, kept = iter(planned), None
        precision = model.unet.dtype  # diffusers goes through all of its modules to give it: not in every step

        def guided(noisy: Tensor, timestep: Tensor) -> Tensor:
            nonlocal kept
            step = next(ahead)
            total, kept = summed(self._predict(noisy.to(precision), timestep, step, computed), step, kept)
            return total

        latents = denoise(guided, model.unet, model.scale.scheduler, steps, scheduler, seeds, progress)
        return decode(model.autoencoder, latents, model.scale.size)

    def _persons(self, identity: Tensor, empty: bool) -> list[KeyValue]:
        """K and V of embeddings ``(B, D)`` in every block, and after them, if ``empty``, of the empty prompt's row."""
        unet, encoder = self.model.unet, self.model.encoder
        prompts = [encoder.unconditional(1)] * empty
        if not self.people:
            return identity_keys_values(unet, torch.cat([encoder(identity), *prompts]))
        rows = [self._person(one[None]) for one in identity]
        rows += [identity_keys_values(unet, prompt) for prompt in prompts]
        return [
            (torch.cat([key for key, _ in block]), torch.cat([value for _, value in block]))
            for block in zip(*rows, strict=True)
        ]

    def _person(self, embedding: Tensor) -> list[KeyValue]:
        """K and V of one person's embedding ``(1, D)``, held or computed; the :attr:`people` last computed are held."""
        key = embedding.cpu().numpy().tobytes()
        if key not in self._held:
            if len(self._held) >= self.people:
                del self._held[next(iter(self._held))]
            self._held[key] = identity_keys_values(self.model.unet, self.model.encoder(embedding))
        return self._held[key]

    def _student(
        self, planned: Sequence[Step], scales: Mapping[str, Tensor], given: Collection[str]
    ) -> StudentInputs | None:
        """What the distilled network adds to every prediction, where the plan asks for it.

        Args:
            planned: the plan.
            scales: of Eq. 6, each ``(1,)``.
            given: the controls that are.
        """
        if not planned[0].distilled:
            return None
        if self.model.distilled is None:
            raise ConfigError("this model has no distilled network; train one (docs/speed.md), or choose another speed")
        if unknown := set(given) - set(self.model.distilled.controls):
            raise ConfigError(f"the distilled network does not know the control '{min(unknown)}'; choose another speed")
        return self.model.distilled.inputs(self.model.unet, scales)

    def _predict(self, noisy: Tensor, timestep: Tensor, step: Step, conditions: _Conditions) -> Tensor:
        """A step's P predictions of noisy latents ``(B, C, h, w)``, in the UNet's precision, in one call,
        ``(P * B, C, h, w)`` float32."""
        unet, names, student = self.model.unet, tuple(step.weights), conditions.student
        return predict(
            unet,
            noisy,
            timestep,
            conditions.inputs(names),
            copies=len(names),
            time_update=None if student is None else student.time_update,
        ).float()

    def _check(
        self,
        identity: Tensor,
        conditions: Mapping[str, Tensor],
        steps: int,
        seeds: Sequence[int],
        scheduler: str,
    ) -> None:
        check_steps(steps, scheduler)
        if len(seeds) != len(identity):
            raise ConfigError(f"{len(identity)} images need as many seeds, not {len(seeds)}")
        wanted = self.model.scale.embedding
        if identity.shape[1] != wanted:
            raise ConfigError(
                f"the {self.model.scale.name} scale reads embeddings of {wanted} numbers, not {identity.shape[1]}"
            )
        check_conditions(self.model, conditions)


class _Conditions:
    """K and V of all that is asked for, computed once, and laid out for whatever predictions a step makes.

    Args:
        model: the model.
        persons: K and V of identity in every block, a row for each embedding; where a prediction is without identity,
            the empty prompt's one row comes after them.
        identity, conditions: see :meth:`Sampler.generate`.
        predictions: the names of all predictions that will be made; see :mod:`facecrafter.sampling.guidance`.
        student: the distilled network's part in every prediction, and with it the weights of Eq. 1; None for the base
            alone and weights of 1.
    """

    def __init__(
        self,
        model: FaceModel,
        persons: list[KeyValue],
        identity: Tensor,
        conditions: Mapping[str, Tensor],
        predictions: set[str],
        student: StudentInputs | None,
    ) -> None:
        self.model, self.batch, self.device, self.student = model, len(identity), identity.device, student
        self.weights = dict.fromkeys(conditions, identity.new_ones(1)) if student is None else student.weights
        self.updates = {} if student is None else student.updates
        self.laid_out: dict[tuple[str, ...], AttentionInputs] = {}
        self.persons = persons
        wanted = {name for prediction in predictions for name in given_to(prediction)}
        self.controls = {
            name: model.controls.keys_values(name, conditions[name].to(model.controls.dtype))
            for name in CONTROLS
            if name in wanted and model.controls is not None
        }

    def inputs(self, predictions: tuple[str, ...]) -> AttentionInputs:
        """What a call needs for some predictions laid end to end, all samples of the first one first."""
        if predictions not in self.laid_out:
            own = torch.arange(self.batch, device=self.device)
            rows = torch.cat([own if given_to(name) else torch.full_like(own, self.batch) for name in predictions])
            persons = [(key[rows], value[rows]) for key, value in self.persons]
            branches = [branch for name in self.controls for branch in self._branches(name, predictions)]
            self.laid_out[predictions] = AttentionInputs(branches, persons, updates=self.updates)
        return self.laid_out[predictions]

    def _branches(self, control: str, predictions: tuple[str, ...]) -> list[Branch]:
        """A control's summand of Eq. 1 in each prediction that is given it."""
        assert self.model.controls is not None
        sigma = self.model.controls.place_sigma(control)
        first = [index * self.batch for index, name in enumerate(predictions) if control in given_to(name)]
        return [
            Branch(
                self.controls[control],
                torch.arange(start, start + self.batch, device=self.device),
                self.weights[control].expand(self.batch),
                sigma,
            )
            for start in first
        ]


@torch.no_grad()
def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    unet: Any,
    schedule: Mapping[str, object],
    steps: int,
    scheduler: str,
    seeds: Sequence[int],
    progress: Callable[[], object] | None = None,
) -> Tensor:
    """The reverse process, from noise that depends on the seeds alone.

    Args:
        predict: latents ``(B, C, h, w)`` as the UNet reads them and a timestep, which is on the CPU, to the
            prediction, guidance included; called once a step, in order.
        unet: says the latents' shape and device.
        schedule: the noise schedule.
        steps, scheduler, progress: see :meth:`Sampler.generate`.
        seeds: B.

    Returns:
        Latents ``(B, C, h, w)``.
    """
    solver = build_scheduler(scheduler, dict(schedule))
    solver.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(unet.device)
    latents = latents * solver.init_noise_sigma
    random = {"generator": generators} if scheduler == "ddpm" else {}
    for timestep in solver.timesteps:
        prediction = predict(solver.scale_model_input(latents, timestep), timestep)
        latents = solver.step(prediction, timestep, latents, **random).prev_sample
        if progress:
            progress()
    return latents


@torch.no_grad()
def decode(autoencoder: Any, latents: Tensor, size: int) -> Tensor:
    """Latents ``(B, C, h, w)`` to images ``(B, 3, S, S)`` in [-1, 1], a few at once: a decoder takes more memory an
    image than all that comes before it.

    Args:
        autoencoder: decodes.
        latents: as :func:`denoise` gives them.
        size: S.
    """
    at_once = max(1, PIXELS_AT_ONCE // size**2)
    parts = (latents / autoencoder.config.scaling_factor).to(autoencoder.dtype).split(at_once)
    return torch.cat([autoencoder.decode(part).sample.float().clamp(-1, 1) for part in parts])


def pixels(images: Tensor) -> NDArray[np.uint8]:
    """Images ``(B, 3, S, S)`` in [-1, 1] as ``(B, S, S, 3)`` uint8 RGB."""
    values = ((images + 1) * 127.5).round().to(torch.uint8)
    return np.asarray(values.permute(0, 2, 3, 1).cpu().numpy())


def build_scheduler(name: str, schedule: dict[str, object]):  # noqa: ANN201 - one of several diffusers classes
    """A solver by its short name, on a noise schedule: diffusers' own, but for DDIM's step."""
    options = {**schedule, "timestep_spacing": "trailing"}
    if name != "ddim":
        options.pop("set_alpha_to_one")
    if name not in ("ddim", "ddpm"):
        options.pop("clip_sample")
    if name == "ddpm":
        options["steps_offset"] = 0
    return (DDIM if name == "ddim" else getattr(diffusers, SCHEDULERS[name]))(**options)
