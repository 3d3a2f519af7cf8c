"""What each training stage trains and what it minimises. A stage reads top to bottom: parts, step, samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from facecrafter.data.dataset import TrainingSet
from facecrafter.errors import ConfigError
from facecrafter.estimators import expression
from facecrafter.estimators.differentiable import ARCFACE_CROP, differentiable
from facecrafter.models import attention, checkpoint, scales
from facecrafter.models.controls import branches
from facecrafter.models.pretrained import is_published
from facecrafter.models.pretrained import load as load_published
from facecrafter.sampling.sampler import build_scheduler
from facecrafter.training import losses
from facecrafter.training.batches import Draw, batch_indices, draw, draw_joint, generator
from facecrafter.training.config import TrainConfig
from facecrafter.training.image_loss import ImageLoss, Rollout, rollout_timesteps
from facecrafter.weights import ASSETS

# Validation draws the same batches whatever the run's own seed is, so that runs can be compared.
VALIDATION_SEED, VALIDATION_BATCHES = 20_000, 8


class Stage(Protocol):
    """One stage of training."""

    objective: nn.Module  # called with what `batch` returns; gives the loss; all trained parts are inside it
    model: checkpoint.FaceModel | nn.Module
    data: TrainingSet | None

    def trained(self) -> list[nn.Module]:
        """The modules that learn; everything else is frozen."""
        ...

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters that learn at a share of the learning rate of their own, with that share."""
        ...

    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Any]:
        """The ``index``-th of ``parts`` even shares of a step's batch."""
        ...

    def validate(self) -> float | None:
        """The loss on held-out people, always on the same draws; None where nobody is held out."""
        ...

    def samples(self) -> Tensor:
        """A grid of images ``(N, 3, S, S)`` in [-1, 1] that shows how far training is."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model as it is now."""
        ...


class AutoencoderObjective(nn.Module):
    """L1 + LPIPS + a prior on the latents, under the posterior's noise."""

    def __init__(self, autoencoder: Any, perceptual: nn.Module, config: TrainConfig) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder
        self.perceptual, self.weights = perceptual, config.loss

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` in [-1, 1] and normal noise of the latents' shape to the loss."""
        posterior = self.autoencoder.encode(images).latent_dist
        reconstruction = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample
        perceptual = self.perceptual(reconstruction, images)
        weights = self.weights
        return losses.reconstruction_loss(
            reconstruction, images, posterior.mean, perceptual, weights.prior, weights.lpips
        )


class AutoencoderStage:
    """Images to latents and back (mini only; arc2face brings Stable Diffusion's)."""

    def __init__(
        self, config: TrainConfig, data: TrainingSet, device: torch.device, held: TrainingSet | None = None
    ) -> None:
        from facecrafter import weights
        from facecrafter.estimators.lpips import LPIPS

        self.config, self.data, self.held = config, data, held
        torch.manual_seed(config.seed)
        self.model = scales.build_autoencoder(scales.SCALES[config.scale])
        perceptual = LPIPS(weights.locate("lpips_alexnet"))
        objective = AutoencoderObjective(self.model, perceptual, config)
        self.objective = objective.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def trained(self) -> list[nn.Module]:
        """See :class:`Stage`."""
        return [self.model]

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """See :class:`Stage`; all of it learns alike."""
        return []

    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Tensor]:
        """Crops for the first part of the run, whole images after it: crops see more faces a second, and whole
        images teach the borders."""
        config, side = self.config, self.data.pixels.shape[1]
        whole = step >= config.loss.whole_from * config.steps
        crop = side if whole else config.loss.crop
        size = max(parts, config.batch_size // 3 if whole else config.batch_size) // parts
        source = generator(config.seed, 2, step)
        left, top = torch.randint(0, side - crop + 1, (2,), generator=source).tolist()
        chosen = batch_indices(config.seed, step, config.batch_size, len(self.data))[index * size : (index + 1) * size]
        noise = torch.randn(
            size * parts, 4 * self.model.config.latent_channels, crop // 16, crop // 16, generator=source
        )
        images = self.data.images(chosen)[:, :, top : top + crop, left : left + crop]
        return {
            "images": images.to(device, memory_format=torch.channels_last),
            "noise": noise[index * size : (index + 1) * size].to(device),
        }

    @torch.no_grad()
    def validate(self) -> float | None:
        """See :class:`Stage`; without the noise on the latents."""
        if self.held is None:
            return None
        device, losses_ = next(self.model.parameters()).device, []
        for chosen in torch.arange(min(64, self.held.count)).split(16):
            images = self.held.images(chosen).to(device)
            shape = (len(chosen), 4 * self.model.config.latent_channels, *(side // 16 for side in images.shape[2:]))
            losses_.append(float(self.objective(images, torch.zeros(shape, device=device))) * len(chosen))
        return sum(losses_) / min(64, self.held.count)

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Eight images above their reconstructions."""
        device = next(self.model.parameters()).device
        images = self.data.images(torch.arange(min(8, self.data.count))).to(device)
        return torch.cat([images, self.model.decode(self.model.encode(images).latent_dist.mode()).sample]).cpu()

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write the autoencoder, its latents standardised over the training set."""
        import copy

        model = copy.deepcopy(self.model)
        device = next(model.parameters()).device
        count = min(2048, self.data.count)
        rows = torch.linspace(0, self.data.count - 1, count).long().split(64)
        latents = torch.cat([model.encoder(self.data.images(part).to(device)) for part in rows])
        model.standardise(latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save_part(model, folder / "autoencoder.safetensors", "autoencoder", self.config.scale)


class DiffusionObjective(nn.Module):
    """Eq. 4 over a batch whose samples differ in their conditions (Eq. 1 with a weight a sample)."""

    alpha_bars: Tensor

    def __init__(self, model: checkpoint.FaceModel, config: TrainConfig, frozen_encoder: bool) -> None:
        super().__init__()
        self.unet, self.encoder, self.controls = model.unet, model.encoder, model.controls
        self.kind = str(model.scale.scheduler["prediction_type"])
        self.gamma, self.frozen_encoder = config.snr_gamma, frozen_encoder
        schedule = build_scheduler("ddpm", model.scale.scheduler)
        self.register_buffer("alpha_bars", schedule.alphas_cumprod, persistent=False)
        self.joint = config.joint if config.stage == "joint" else None
        self.image_loss = _image_loss(model, config, self.alpha_bars) if config.image_loss.on else None

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        identity: Tensor,
        dropped: Tensor,
        landmark: Tensor,
        landmark_weight: Tensor,
        emotion: Tensor,
        emotion_weight: Tensor,
        masks: Tensor | None = None,
        group: int = 0,
        rollout: Rollout | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            latents: clean latents ``(B, C, h, w)``.
            noise: standard normal, the same shape.
            timesteps: ``(B,)``.
            identity: embeddings ``(B, D)``.
            dropped: ``(B,)`` bool, samples without identity.
            landmark: landmark images ``(R, 3, L, L)`` in [0, 1], only of the R samples whose weight is not 0.
            landmark_weight: ``(B,)``.
            emotion: ``(B, 10)``.
            emotion_weight: ``(B,)``.
            masks: face masks ``(B, M, M)`` in [0, 1], in the joint stage.
            group: how many neighbouring samples are replicas of one data point, in the joint stage.
            walk: what :class:`ImageLoss` needs, for the first rows of the batch.
        """
        alpha_bar = self.alpha_bars[timesteps]
        noisy = losses.noised(latents, noise, alpha_bar)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_encoder):
            tokens = self.encoder.mixed(identity, dropped)
        conditions = self._conditions(landmark, landmark_weight, emotion, emotion_weight)
        record = conditions.record = attention.AttentionRecord() if self.joint and self.joint.weight else None
        prediction = self.unet(noisy, timesteps, tokens, cross_attention_kwargs={"conditions": conditions}).sample
        target = losses.diffusion_target(self.kind, latents, noise, alpha_bar)
        loss = losses.diffusion_loss(prediction, target, losses.snr_weight(self.kind, alpha_bar, self.gamma))
        if record is not None and self.joint is not None:
            assert masks is not None
            said = record.taken()
            features = [
                losses.attention_features(own, controls, self.joint.reading)
                for own, controls in zip(said.identity, said.controls, strict=True)
            ]
            combinations = losses.combination(dropped, landmark_weight, emotion_weight)
            # Eq. 5
            return loss + self.joint.weight * losses.attention_disentanglement(features, masks, combinations, group)
        if rollout is None or self.image_loss is None:
            return loss
        first = len(rollout.identity)
        drawn = landmark[: int(landmark_weight[:first].count_nonzero())]
        conditions = self._conditions(drawn, landmark_weight[:first], emotion[:first], emotion_weight[:first])
        return loss + self.image_loss(rollout, self.encoder(rollout.identity), conditions)

    def _conditions(
        self, landmark: Tensor, landmark_weight: Tensor, emotion: Tensor, emotion_weight: Tensor
    ) -> attention.AttentionInputs:
        """The controls' summands of Eq. 1; landmark images only of the samples whose weight is not 0."""
        if self.controls is None:
            return attention.AttentionInputs()
        values = {"landmark": landmark, "emotion": emotion}
        return attention.AttentionInputs(
            branches(self.controls, values, {"landmark": landmark_weight, "emotion": emotion_weight})
        )


def _image_loss(model: checkpoint.FaceModel, config: TrainConfig, alpha_bars: Tensor) -> ImageLoss:
    from facecrafter import weights
    from facecrafter.estimators.lpips import LPIPS

    recogniser, crop = differentiable(model.scale.recogniser, config.arcface)
    perceptual = LPIPS(weights.locate("lpips_alexnet")) if config.image_loss.perceptual else None
    eye = config.image_loss.expression_net
    kind = str(model.scale.scheduler["prediction_type"])
    return ImageLoss(
        model.unet, model.autoencoder, recogniser, crop, perceptual, alpha_bars, kind, config.image_loss,
        embedding=model.scale.embedding, expression=expression.load(eye) if eye else None,
    )  # fmt: skip


class DiffusionStage:
    """The base, or one control module on a frozen base.

    - ``base`` trains the UNet and the identity encoder; with ``scaffold: true`` the controls learn along.
    - ``landmark`` and ``emotion`` train one module and its K/V projections, everything else frozen (Sec. 3.2).
    - ``joint`` trains both, and the transformer of the identity encoder (Sec. 3.2, Eq. 5).
    """

    def __init__(
        self, config: TrainConfig, data: TrainingSet, device: torch.device, held: TrainingSet | None = None
    ) -> None:
        assert config.start is not None
        self.config, self.data, self.held, self.device = config, data, held, device
        self.model = _starting_model(config)
        attention.install(self.model.unet, plain=config.plain_attention and device.type == "cpu")
        if config.gradient_checkpointing:
            self.model.unet.enable_gradient_checkpointing()
        for part in (data, held):
            if part is not None:
                part.encode(self.model.autoencoder.to(device), config.data / "cache", device)
        data.place(device)
        self.objective = self._build_objective().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        looks = getattr(self.objective, "image_loss", None)
        # The face, and what the recogniser looks at, each with where it is when the pose is free.
        self.crops = [(crop, data.usual_crop_grid(crop)) for crop in (ARCFACE_CROP, looks.crop)] if looks else []

    def _build_objective(self) -> nn.Module:
        """What this stage minimises, on the model as it starts."""
        return DiffusionObjective(self.model, self.config, self.config.stage in ("landmark", "emotion"))

    def trained(self) -> list[nn.Module]:
        """See :class:`Stage`."""
        model, config = self.model, self.config
        if config.stage == "base":
            scaffold = [model.controls] if config.scaffold and model.controls else []
            return [model.unet, model.encoder, *scaffold, *self._discriminators]
        assert model.controls is not None
        if config.stage == "joint":
            projections = attention.identity_projections(model.unet) if config.joint.identity_projections else []
            return [model.controls, model.encoder, *projections]
        return model.controls.parts(config.stage)

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """See :class:`Stage`: the identity encoder, the identity's K and V in the base, and the controls beside it."""
        model, config = self.model, self.config
        projections = [one for layer in attention.identity_projections(model.unet) for one in layer.parameters()]
        scaffold = list(model.controls.parameters()) if model.controls and config.stage == "base" else []
        return [
            (list(model.encoder.parameters()), config.encoder_rate),
            (projections, config.identity_rate),
            (scaffold, config.scaffold_rate),
            (
                [parameter for discriminator in self._discriminators for parameter in discriminator.parameters()],
                config.discriminator_rate,
            ),
        ]

    @property
    def _discriminators(self) -> list[nn.Module]:
        """What learns along and is no part of the model."""
        loss = self.objective.image_loss
        return [loss.discriminators] if loss is not None and loss.discriminators is not None else []

    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Any]:
        """See :class:`Stage`."""
        return self._batch(self.data, self.config.seed, step, index, parts, device)

    def _batch(
        self, data: TrainingSet, seed: int, step: int, index: int, parts: int, device: torch.device
    ) -> dict[str, Any]:
        config = self.config
        assert data.latents is not None
        about = (seed, step, config.batch_size, len(data), data.latents.shape[1:], data.identity.shape[1])
        if config.stage == "joint":
            whole = draw_joint(*about, config.joint.groups, config.joint.drop, config.pair)
        else:
            whole = draw(*about, config.mixture, config.pair)
        if data.pairs:
            whole, sources = self._paired(step, whole)
            chosen = whole.part(index, parts)
            identity = data.identity[sources[index * len(chosen.indices) :][: len(chosen.indices)]]
        else:
            chosen = whole.part(index, parts)
            identity = data.identities(chosen.indices, chosen.swap, chosen.pick)
        with_landmarks = chosen.indices[chosen.landmark.bool()]
        batch = {
            "latents": data.latents[chosen.indices.to(data.latents.device)].float(),
            "noise": chosen.noise,
            "timesteps": chosen.timesteps,
            "identity": identity + config.identity_noise * chosen.identity_noise,
            "dropped": chosen.dropped,
            "landmark": data.landmark_images(with_landmarks) if len(with_landmarks) else torch.zeros(0),
            "landmark_weight": chosen.landmark,
            "emotion": data.emotions(chosen.indices),
            "emotion_weight": chosen.emotion,
        }
        if config.stage == "joint":
            batch["masks"] = data.face_masks(chosen.indices)
        placed: dict[str, Any] = {name: value.to(device) for name, value in batch.items()}
        if config.image_loss.on and data is self.data:
            rollout = self._rollout(step, index, chosen, identity, config.image_loss.batch // parts)
            placed["rollout"] = rollout.to(device)
        if config.stage == "joint":
            # A group that is cut into several parts of the batch is compared within each part.
            group = min(config.batch_size // config.joint.groups, len(chosen.indices))
            if len(chosen.indices) % group:
                raise ConfigError(
                    f"groups of {group} replicas do not fit into parts of {len(chosen.indices)} samples; choose "
                    "joint.groups so that a group is a multiple of a part or a part of a group"
                )
            placed["group"] = group
        return placed

    def _paired(self, step: int, whole: Draw) -> tuple[Draw, Tensor]:
        """The draw with inputs from pairs, half of them mirrored, and the numbers of their identity images."""
        config, data = self.config, self.data
        assert data.pairs is not None
        points = config.joint.groups if config.stage == "joint" else config.batch_size
        inputs, sources = data.pairs.draw(config.seed, step, points)
        mirrored = torch.rand(points, generator=generator(config.seed, 5, step)) < 0.5
        replicas = torch.arange(points).repeat_interleave(config.batch_size // points)
        return replace(whole, indices=(inputs + data.count * mirrored)[replicas]), sources[replicas]

    def _rollout(self, step: int, index: int, chosen: Draw, identity: Tensor, count: int) -> Rollout:
        """Walks for the first ``count`` samples of a batch: some keep their person, some get one between two people or
        another one altogether."""
        config, data = self.config.image_loss, self.data
        source = generator(self.config.seed, 3, step, index)
        other = data.identity[torch.randint(0, data.count, (count,), generator=source)]
        kind, between = torch.rand(2, count, 1, generator=source)
        crossed, blended = kind < config.cross, kind < config.cross + config.blend
        share = torch.where(crossed, 1.0, between * blended)
        indices, posed = chosen.indices[:count], chosen.landmark[:count] != 0
        grids, views = (
            torch.where(posed.view(-1, 1, 1), data.crop_grids(crop, indices), usual) for crop, usual in self.crops
        )
        learns = torch.zeros(config.steps, dtype=torch.bool)
        learns[torch.randperm(config.steps, generator=source)[: config.learning]] = True
        return Rollout(
            noise=torch.randn(count, *chosen.noise.shape[1:], generator=source),
            timesteps=rollout_timesteps(config.steps, torch.rand(config.steps - 1, generator=source)),
            learns=learns,
            identity=nn.functional.normalize((1 - share) * identity[:count] + share * other, dim=-1),
            own=~blended.squeeze(1),
            posed=posed,
            photos=data.images(indices),
            masks=data.face_masks(indices),
            grids=grids,
            views=views,
            jitter=2 * torch.rand(count, 8, generator=source) - 1,
        )

    @torch.no_grad()
    def validate(self) -> float | None:
        """See :class:`Stage`: Eq. 4, or Eq. 5 in the joint stage, without the losses on finished images."""
        if self.held is None:
            return None
        device = next(self.model.unet.parameters()).device
        batches = [self._batch(self.held, VALIDATION_SEED, step, 0, 1, device) for step in range(VALIDATION_BATCHES)]
        return sum(float(self.objective(**batch)) for batch in batches) / len(batches)

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Eight people: the photo, identity alone, and identity with each condition of the next person's photo."""
        from facecrafter.pipelines.generate import Settings
        from facecrafter.sampling.sampler import Sampler

        settings = Settings().filled(self.model.scale)

        device = next(self.model.unet.parameters()).device
        people = torch.arange(0, self.data.count, max(1, self.data.count // 8))[:8]
        targets = people.roll(-1)
        sampler = Sampler(self.model)
        rows = [self.data.images(people).cpu(), self.data.images(targets).cpu()]
        for names in ((), ("landmark",), ("emotion",)) if self.model.controls else ((),):
            rows.append(
                sampler.generate(
                    self.data.identity[people].to(device),
                    landmark=self.data.landmark_images(targets).to(device) if "landmark" in names else None,
                    emotion=self.data.emotions(targets).to(device) if "emotion" in names else None,
                    guidance=settings.guidance,
                    steps=settings.steps,
                    seeds=list(range(len(people))),
                    scheduler=settings.scheduler,
                ).cpu()
            )
        return torch.cat(rows)

    def save(self, folder: Path) -> None:
        """See :class:`Stage`."""
        checkpoint.save_model(self.model, folder)


def start_folder(start: Path) -> Path:
    """The folder that `start` names: `mini` is the shipped one."""
    return ASSETS / "mini" if str(start) == "mini" else start


def _starting_model(config: TrainConfig) -> checkpoint.FaceModel:
    """The model a stage begins with: what `start` holds, and fresh parts where it holds none."""
    assert config.start is not None
    scale = scales.SCALES[config.scale]
    start = start_folder(config.start)
    if config.scale == "arc2face" and is_published(start):
        model = load_published(start)
    elif config.stage != "base" or (start / "unet.safetensors").is_file():
        model = checkpoint.load_model(start)
        if model.scale is not scale:
            raise ConfigError(f"{config.start} is a {model.scale.name} model, and the config asks for {scale.name}")
    else:
        torch.manual_seed(config.seed)
        autoencoder = checkpoint.load_part(start / "autoencoder.safetensors", "autoencoder", scale.name)
        model = checkpoint.FaceModel(scale, scales.build_unet(scale), scales.build_encoder(scale), autoencoder)
    if config.fresh_controls:
        model.controls = None
    model.distilled = None  # it says what the model said that is trained further now
    if model.controls is None and config.stage in ("joint", "distill"):
        raise ConfigError(
            f"the {config.stage} stage builds on trained controls, and {config.start} has none; "
            "train landmark and emotion first"
        )
    if model.controls is None and (config.stage != "base" or config.scaffold):
        torch.manual_seed(config.seed)
        model.controls = scales.build_controls(scale, model.unet)
    if model.controls is None and sum(config.mixture.shares[2:]) > 0:
        raise ConfigError(f"the mixture names controls, and {config.start} has none; set scaffold: true, or drop them")
    return model


STAGES = {
    "autoencoder": AutoencoderStage,
    "base": DiffusionStage,
    "landmark": DiffusionStage,
    "emotion": DiffusionStage,
    "joint": DiffusionStage,
}
