"""Losses on a finished image: make one with the model as it is, and measure it.

Eq. 4 learns a person from single predictions under noise, which takes millions of photos. A recogniser has learned from
millions: where it finds that the person made is not the person asked, its gradient shows what to change. The image is
made as sampling makes it, from pure noise by deterministic steps (DDIM; Song et al., 2021), and the gradient goes back
through several of them (DRaFT; Clark et al., 2024). The recogniser is the condition's own; the judge of evaluation is
another network.

The model must not learn patterns that please the recogniser and are no likeness. When only one prediction of a rollout
learned, at fixed timesteps, it did: predictions were recognised, and finished images were not. So steps from all
of the rollout learn, its timesteps are random, and the recogniser's crops are moved, blurred and lit at random. And
where the image's pose is given, the photo that it came from is known: LPIPS and colours hold the image to that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from facecrafter.config import Strict
from facecrafter.estimators.differentiable import ARCFACE_CROP, Crop
from facecrafter.models.attention import AttentionInputs
from facecrafter.training.augmentation import blurred
from facecrafter.training.config import PLACE, Share
from facecrafter.training.discriminator import Discriminator, balance, pleasing_loss, telling_loss
from facecrafter.training.words import CROP as WORD_CROP
from facecrafter.training.words import WordLoss


class ImageLossConfig(Strict):
    """Losses on finished images, beside Eq. 4; all zero for none. See docs/method.md for why they are there."""

    identity: float = Field(0.0, ge=0)  # weight of `enough` - cosine, by the recogniser that gave the condition
    # From this cosine on an image is of the person. Two photos of one person have about 0.95 by dlib's network; where
    # nothing else holds an image, asking for more paints patterns on faces that please the recogniser.
    enough: Share = 1.0
    expression: float = Field(0.0, ge=0)  # weight of the difference from the photo in blendshapes and pose, where posed
    # The same in blendshapes alone where an emotion is asked for and no pose: what an emotion in words is to show. The
    # reader imitates MediaPipe's blendshapes; the emotion estimator, which judges models, has no part in it.
    emotion: float = Field(0.0, ge=0)
    expression_net: Annotated[Path | None, PLACE] = None  # reads these: what the expression stage trained
    # The weight of the logarithm of the probability of a word, where an image is asked for one; see training/words.py.
    words: float = Field(0.0, ge=0)
    # Share of the images with an emotion and no pose that are asked for one of the eight words, whatever their photo
    # shows; the others are held to their photo by `emotion`.
    word_share: Share = 0.7
    emotion_net: Annotated[Path | None, PLACE] = None  # reads the words: an estimator that is not the judge
    lpips: float = Field(0.0, ge=0)  # weight of LPIPS (AlexNet) to the photo, where posed
    face_lpips: float = Field(0.0, ge=0)  # the same to the photo's face, larger
    # Weight of the difference from the photo on an 8 x 8 grid; where the pose is free, from its face on 4 x 4.
    colours: float = Field(0.0, ge=0)
    face: float = Field(0.0, ge=0)  # weight of the difference from the photo's face on a 28 x 28 grid, where posed
    # What places away from the face count in `lpips` and `colours`. A background is nobody's condition, so held to the
    # photo's it becomes the average of all.
    background: Share = 1.0
    # How hard the discriminators pull, which tell images from photos; 1 is as all other terms.
    adversary: float = Field(0.0, ge=0)
    batch: int = Field(8, ge=1)  # images a step, over all processes and accumulated steps
    steps: int = Field(8, ge=2)  # denoising steps from noise to the image
    learning: int = Field(4, ge=1)  # how many of these, drawn at random, the gradient goes into
    blend: Share = 0.2  # share of the images whose identity lies between two people: nobody the set has
    # Share of those that are asked for somebody else altogether, in the photo's pose: what users ask for, and what
    # nobody has a photo of.
    cross: Share = 0.0

    @model_validator(mode="after")
    def _has_its_networks(self) -> ImageLossConfig:
        if (self.expression > 0 or self.emotion > 0) != (self.expression_net is not None):
            raise ValueError(
                "`expression` or `emotion`, and `expression_net`, which the expression stage trains, go together"
            )
        if (self.words > 0) != (self.emotion_net is not None):
            raise ValueError("`words`, and `emotion_net`, which the estimator stage trains, go together")
        return self

    @property
    def on(self) -> bool:
        """Whether there is such a loss."""
        weights = (
            self.identity,
            self.expression,
            self.emotion,
            self.words,
            self.lpips,
            self.face_lpips,
            self.colours,
            self.face,
            self.adversary,
        )
        return max(weights) > 0

    @property
    def perceptual(self) -> bool:
        """Whether LPIPS's network is wanted."""
        return max(self.lpips, self.face_lpips, self.adversary) > 0


@dataclass(frozen=True)
class Rollout:
    """One batch of rollouts from noise to images.

    Attributes:
        noise: where they begin, ``(B, C, h, w)``.
        timesteps: of their steps, ``(N,)`` falling; the last prediction is the image.
        learns: of each step, whether the gradient goes into it. As a tensor, ``(N,)`` bool, nothing has to wait for the
            device to say which: all steps keep what a gradient needs, and that of the others is zero.
        rows: of each control, which samples have it, ``(R,)``.
        identity: the embeddings asked for, ``(B, D)``.
        own: ``(B,)`` bool, whether that is the person on the photo.
        posed: ``(B,)`` bool, whether landmarks say how the face is turned.
        moved: ``(B,)`` bool, whether the photo's emotion is asked for and no landmarks.
        words: ``(B,)`` int64, the emotion that a word asks for in place of the photo's, or -1.
        photos: where the conditions come from, ``(B, 3, S, S)`` in [-1, 1].
        masks: where their faces are, ``(B, M, M)`` in [0, 1].
        grids: where the faces are, ``(B, 2, 3)``, see :class:`facecrafter.estimators.differentiable.Crop`.
        views: the recogniser's crops, likewise.
        frames: the emotion network's, likewise.
        jitter: ``(B, 8)`` in [-1, 1], see :func:`jittered` and :func:`relit`; zeros for the crops as they are.
    """

    noise: Tensor
    timesteps: Tensor
    learns: tuple[bool, ...] | Tensor
    rows: Mapping[str, Tensor]
    identity: Tensor
    own: Tensor
    posed: Tensor
    moved: Tensor
    words: Tensor
    photos: Tensor
    masks: Tensor
    grids: Tensor
    views: Tensor
    frames: Tensor
    jitter: Tensor

    def to(self, device: torch.device) -> Rollout:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved, rows={name: rows.to(device) for name, rows in self.rows.items()})


def rollout_timesteps(steps: int, jitter: Tensor) -> Tensor:
    """The timesteps of a rollout from pure noise, ``(steps,)`` int64: 999, then one in each of equal spans below.

    Args:
        steps: how many, at least 2.
        jitter: ``(steps - 1,)`` in [0, 1), where in its span each of the others is.
    """
    spans = torch.arange(steps - 1, 0, -1, device=jitter.device) - jitter + 0.5
    later = (spans * 1000 / steps).long().clamp(20, 998)
    return torch.cat([later.new_full((1,), 999), later])


def jittered(grids: Tensor, jitter: Tensor) -> Tensor:
    """Crop grids ``(B, 2, 3)`` turned, scaled, shifted and mirrored at random.

    Args:
        grids: see :class:`facecrafter.estimators.differentiable.Crop`.
        jitter: ``(B, 8)`` in [-1, 1], of which the first five are read: turn (up to 8 degrees), scale (8 %), shift in x
            and y (5 % of the crop's side), and mirrored where negative.
    """
    angle, scale = jitter[:, 0] * math.radians(8), 1 + 0.08 * jitter[:, 1]
    mirror = torch.where(jitter[:, 4] < 0, -1.0, 1.0)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    move = torch.stack(
        [
            torch.stack([mirror * cosine, -sine, 0.1 * jitter[:, 2]], dim=1),
            torch.stack([mirror * sine, cosine, 0.1 * jitter[:, 3]], dim=1),
            torch.eye(3, dtype=jitter.dtype, device=jitter.device)[2].expand(len(jitter), 3),
        ],
        dim=1,
    )
    return grids @ move


def relit(crops: Tensor, jitter: Tensor) -> Tensor:
    """Crops ``(B, 3, H, W)`` in 0-255 blurred and lit at random.

    Args:
        crops: the images.
        jitter: ``(B, 8)`` in [-1, 1], of which the last three are read: blur (none below 0, over 4 pixels at 1),
            contrast (20 %), brightness (20 of 255).
    """
    blur, contrast, brightness = (jitter[:, place].view(-1, 1, 1, 1) for place in (5, 6, 7))
    crops = blurred(crops, blur.clamp(min=0))
    return (crops - 127.5) * (1 + 0.2 * contrast) + 127.5 + 20 * brightness


def clean_and_noise(kind: str, prediction: Tensor, noisy: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """What a prediction says the clean latents and the noise are.

    Args:
        kind: ``epsilon`` or ``v_prediction``.
        prediction, noisy: ``(B, C, h, w)``.
        alpha_bar: a scalar in (0, 1).
    """
    signal, rest = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if kind == "epsilon":
        return (noisy - rest * prediction) / signal, prediction
    return signal * noisy - rest * prediction, rest * noisy + signal * prediction


def heads(masks: Tensor, background: float) -> Tensor:
    """What a place of an image counts: 1 on the face and within a sixth of the side of it, where hair and chin are,
    and ``background`` elsewhere.

    Args:
        masks: of the faces, ``(B, M, M)`` in [0, 1].
        background: in [0, 1].
    """
    reach = masks.shape[-1] // 6
    near = nn.functional.max_pool2d(masks[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0]
    return background + (1 - background) * near


def _grid_difference(a: Tensor, b: Tensor, cells: int, counts: Tensor | None = None) -> Tensor:
    """The mean absolute difference of images ``(B, 3, S, S)`` on a grid of so many cells a side, ``(B,)``; places
    count as the map ``counts`` ``(B, M, M)`` says."""
    apart = nn.functional.avg_pool2d(a - b, a.shape[-1] // cells).abs()
    if counts is not None:
        apart = apart * nn.functional.adaptive_avg_pool2d(counts, cells)[:, None]
    return apart.mean((1, 2, 3))


class ImageLoss(nn.Module):
    """What is wrong with the images that the model makes.

    Args:
        unet: the denoiser; its gradients are wanted.
        autoencoder: frozen.
        recogniser: frozen; the same network that gave the embeddings.
        crop: its crop of an image.
        perceptual: LPIPS, or None to leave it out.
        alpha_bars: ``(1000,)``.
        kind: what the denoiser predicts.
        weights: of the terms.
        embedding: width of the identity embeddings.
        expression: frozen; reads expression and pose, or None to leave them out.
        words: reads the emotions that words ask for, or None to leave them out.
    """

    alpha_bars: Tensor

    def __init__(
        self,
        unet: Any,
        autoencoder: Any,
        recogniser: nn.Module,
        crop: Crop,
        perceptual: Any,
        alpha_bars: Tensor,
        kind: str,
        weights: ImageLossConfig,
        embedding: int = 128,
        expression: Any = None,
        words: WordLoss | None = None,
    ) -> None:
        super().__init__()
        self.unet: Any = unet
        self.autoencoder: Any = autoencoder
        self.perceptual: Any = perceptual
        self.expression: Any = expression
        self.recogniser, self.words = recogniser, words
        self.register_buffer("alpha_bars", alpha_bars, persistent=False)
        self.crop, self.kind, self.weights = crop, kind, weights
        # One judges whole images, one faces.
        self.discriminators = nn.ModuleList(Discriminator(embedding) for _ in range(2)) if weights.adversary else None

    def forward(self, rollout: Rollout, tokens: Tensor, conditions: AttentionInputs) -> Tensor:
        """The weighted sum of the terms, each the mean over the batch.

        Args:
            rollout: where it begins, and what should come out.
            tokens: identity tokens ``(B, T, W)``.
            conditions: the controls.
        """
        images = self.images(rollout, tokens, conditions)
        crops = self._crops(self.crop, images, rollout.views, rollout.jitter)
        asked = nn.functional.normalize(rollout.identity.float(), dim=-1)
        alike = (self.recogniser(crops) * asked).sum(-1)
        loss = self.weights.identity * nn.functional.relu(self.weights.enough - alike).mean()
        own, posed = rollout.own.float(), (rollout.own & rollout.posed).float()
        faces, wanted = (ARCFACE_CROP.cut(whole, rollout.grids) for whole in (images, rollout.photos))
        counts = heads(rollout.masks, self.weights.background)
        # Where the pose is free only the face's colours are asked for, so that hair and background are free too.
        coarse = torch.where(
            rollout.posed, _grid_difference(images, rollout.photos, 8, counts), _grid_difference(faces, wanted, 4)
        )
        loss = loss + self.weights.colours * (own * coarse).mean()
        loss = loss + self.weights.face * (posed * _grid_difference(faces, wanted, 28)).mean()
        if self.expression is not None:
            # Whoever is asked for, the face is to do what the photo's does.
            shown = relit((images + 1) * 127.5, rollout.jitter) / 127.5 - 1
            shapes, angles = self._apart(shown, rollout.photos)
            loss = loss + self.weights.expression * (rollout.posed * (shapes + 0.5 * angles)).mean()
            loss = loss + self.weights.emotion * (rollout.moved * shapes).mean()
        if self.words is not None:
            frames = self._crops(WORD_CROP, images, rollout.frames, rollout.jitter)
            loss = loss + self.weights.words * self.words(frames, rollout.words).mean()
        for weight, one, other, places in (
            (self.weights.lpips, images, rollout.photos, counts),
            (self.weights.face_lpips, faces, wanted, None),  # the face alone, larger, where the expression is
        ):
            if weight and self.perceptual is not None:
                loss = loss + weight * (posed * self.perceptual(one, other, places).float()).mean()
        if self.discriminators is not None and self.perceptual is not None:
            pleasing, telling = loss.new_zeros(len(images)), loss.new_zeros(())
            views = (images, rollout.photos, own), (faces, wanted, posed)
            for discriminator, (made, photos, shown) in zip(self.discriminators, views, strict=True):
                maps = self.perceptual.features(made)
                pleasing = pleasing + pleasing_loss(discriminator, maps, asked)
                telling = telling + telling_loss(discriminator, maps, self.perceptual.features(photos), asked, shown)
            pull = balance(loss, pleasing.mean(), images)
            loss = loss + self.weights.adversary * (pull * pleasing).mean() + telling
        return loss

    @staticmethod
    def _crops(crop: Crop, images: Tensor, grids: Tensor, jitter: Tensor) -> Tensor:
        """A network's crops of images, moved, blurred and lit at random, ``(B, 3, size, size)`` in 0-255."""
        return relit(crop.cut((images + 1) * 127.5, jittered(grids, jitter)), jitter)

    def _apart(self, images: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        """How far the faces' expressions and poses are apart, each ``(B,)``: the root mean square of the blendshapes'
        differences, as the tables have it, and the mean of yaw's and pitch's. Aligned faces hardly roll."""
        with torch.no_grad():
            wanted = self.expression(photos)
        made = self.expression(images)
        shapes = ((made.blendshapes - wanted.blendshapes).float().square().mean(1) + 1e-6).sqrt()
        return shapes, (made.angles - wanted.angles)[:, :2].float().abs().mean(1)

    def images(self, rollout: Rollout, tokens: Tensor, conditions: AttentionInputs) -> Tensor:
        """From noise to images ``(B, 3, S, S)``, about [-1, 1]."""
        noisy, alpha_bars = rollout.noise, self.alpha_bars[rollout.timesteps]
        for step, alpha_bar in enumerate(alpha_bars):
            prediction = self._predict(noisy, step, rollout, tokens, conditions)
            clean, rest = clean_and_noise(self.kind, prediction, noisy, alpha_bar)
            if step + 1 < len(alpha_bars):
                following = alpha_bars[step + 1]
                noisy = following.sqrt() * clean + (1 - following).sqrt() * rest
        decoded: Tensor = self.autoencoder.decode(clean / self.autoencoder.config.scaling_factor).sample.float()
        return decoded

    def _predict(
        self, noisy: Tensor, step: int, rollout: Rollout, tokens: Tensor, conditions: AttentionInputs
    ) -> Tensor:
        """A step's prediction. One that does not learn passes the gradient straight on, its prediction taken as
        given."""
        learns, timesteps = rollout.learns[step], rollout.timesteps[step].expand(len(noisy))
        # Autocast keeps the first copy it makes of a weight. It was made with gradients, by Eq. 4's prediction.
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns is not False):
            prediction: Tensor = self.unet(
                noisy, timesteps, tokens, cross_attention_kwargs={"conditions": conditions}
            ).sample.float()
        return torch.where(learns, prediction, prediction.detach()) if isinstance(learns, Tensor) else prediction
