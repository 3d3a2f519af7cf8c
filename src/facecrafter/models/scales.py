"""One builder for both scales. ``mini`` and ``arc2face`` are the same classes with other numbers.

A whole model is a folder in diffusers' layout, which is Arc2Face's own:

    unet/  encoder/  vae/  scheduler/  controls.safetensors  model.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from facecrafter.models import attention, registry
from facecrafter.models.autoencoder import FaceAutoencoder
from facecrafter.models.controls import FaceControls
from facecrafter.models.deep_autoencoder import DeepAutoencoder
from facecrafter.models.identity_encoder import CLIP_END, CLIP_LENGTH, CLIP_PROMPT, IdentityEncoder
from facecrafter.models.noise import TIMESTEPS

# mini's vocabulary: the words of Arc2Face's prompt and nothing else.
MINI_PROMPT, MINI_END, MINI_LENGTH = (0, 1, 2, 3, 4, 5), 6, 8


@dataclass(frozen=True)
class Scale:
    """What differs between the scales.

    Attributes:
        name: ``mini`` or ``arc2face``.
        size: side of an image in pixels.
        recogniser: whose embeddings the identity encoder reads.
        embedding: their length.
        prompt, end, length, gain: see :class:`IdentityEncoder`.
        unet, text: arguments of the two networks.
        controls: arguments of the controls, over those that each control has for this scale.
        scheduler: arguments of the noise schedule.
        solving: how images are made unless something else is asked for: identity's scale in Eq. 6, ``steps``, the
            solver (``scheduler``), and how Eq. 6 is computed (``speed``).
    """

    name: str
    size: int
    recogniser: str
    embedding: int
    prompt: tuple[int, ...]
    end: int
    length: int
    gain: float
    unet: dict[str, object]
    text: dict[str, object]
    controls: dict[str, object]
    scheduler: dict[str, object]
    solving: dict[str, float | int | str]

    @property
    def sampling(self) -> dict[str, float | int | str]:
        """``solving``, and each control's scale in Eq. 6, ``NAME_scale``."""
        own = {f"{name}_scale": control.scales[self.name] for name, control in registry.known().items()}
        return {**own, **self.solving}

    @property
    def control_settings(self) -> dict[str, Any]:
        """The arguments of :class:`FaceControls` but for the base's widths: every control with its options."""
        known = registry.known()
        options = {f"{name}_{option}": value for name in known for option, value in self.control_options(name).items()}
        return {"controls": list(known), **self.controls, **options}

    def control_options(self, name: str) -> dict[str, Any]:
        """The options of a control at this scale, by their names without the control's."""
        control = registry.known()[name]
        options = {**control.options, **control.own_options.get(self.name, {})}
        return {option: self.controls.get(f"{name}_{option}", value) for option, value in options.items()}


# The noise schedule of Stable Diffusion 1.5.
_SCHEDULE: dict[str, object] = {
    "num_train_timesteps": TIMESTEPS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

MINI = Scale(
    name="mini",
    size=128,
    recogniser="dlib",
    embedding=128,
    prompt=MINI_PROMPT,
    end=MINI_END,
    length=MINI_LENGTH,
    gain=16.0,
    unet={
        "sample_size": 8,
        "in_channels": 32,
        "out_channels": 32,
        "block_out_channels": (256, 256),
        "layers_per_block": 1,
        # Four cross-attention blocks: three at 8x8 and the middle one at 4x4.
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 256,
        "attention_head_dim": 4,  # diffusers reads this as the number of heads
        "use_linear_projection": True,
    },
    text={
        "vocab_size": 7,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MINI_LENGTH,
        "bos_token_id": 0,
        "eos_token_id": 6,
        "pad_token_id": 6,
    },
    controls={
        "context_width": 256,
        "scale": "mini",
    },
    # v-prediction (Salimans & Ho, 2022) trains steadily at every noise level, which a short training run needs.
    scheduler={**_SCHEDULE, "prediction_type": "v_prediction"},
    # Close to how its training made the images that it judged (docs/history.md compares), and with Eq. 6 in every
    # third step only, which no metric tells from all of it (docs/speed.md).
    solving={
        "identity_scale": 1.5,
        "steps": 8,
        "scheduler": "ddim",
        "speed": "refresh",
    },
)

ARC2FACE = Scale(
    name="arc2face",
    size=512,
    recogniser="arcface",
    embedding=512,
    prompt=CLIP_PROMPT,
    end=CLIP_END,
    length=CLIP_LENGTH,
    gain=1.0,
    unet={"sample_size": 64, "cross_attention_dim": 768},
    text={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": CLIP_LENGTH,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    controls={"scale": "arc2face"},
    scheduler={**_SCHEDULE, "prediction_type": "epsilon"},
    # The paper's scales. It samples with DDPM; DPM-Solver++ in 25 steps is Arc2Face's default, but for its spacing of
    # timesteps (see sampler.py).
    solving={
        "identity_scale": 2.5,
        "steps": 25,
        "scheduler": "dpm",
        "speed": "exact",
    },
)

SCALES = {scale.name: scale for scale in (MINI, ARC2FACE)}


def build_unet(scale: Scale) -> UNet2DConditionModel:
    """A fresh UNet with our processors in it."""
    unet = UNet2DConditionModel(**scale.unet)
    attention.install(unet)
    return unet


def build_encoder(scale: Scale) -> IdentityEncoder:
    """A fresh identity encoder."""
    return wrap_encoder(scale, CLIPTextModel(CLIPTextConfig(**scale.text)))


def wrap_encoder(scale: Scale, text_model: nn.Module) -> IdentityEncoder:
    """An identity encoder around a CLIP text model."""
    return IdentityEncoder(text_model, scale.prompt, scale.end, scale.length, scale.gain)


def fitting(scale: Scale, autoencoder: Any) -> Scale:
    """The scale with the image size and the latents of an autoencoder, which may be another one than its own."""
    if not isinstance(autoencoder, DeepAutoencoder):
        return scale
    size = int(autoencoder.config.size)
    channels, side, _ = autoencoder.latent_shape(size)
    unet = {**scale.unet, "sample_size": side, "in_channels": channels, "out_channels": channels}
    return replace(scale, size=size, unet=unet)


def build_autoencoder(
    scale: Scale, settings: Mapping[str, Any] | None = None
) -> FaceAutoencoder | DeepAutoencoder | AutoencoderKL:
    """A fresh autoencoder.

    Args:
        scale: which one's.
        settings: arguments of :class:`DeepAutoencoder`, for the mini scale at another size than its own.
    """
    if settings is not None:
        return DeepAutoencoder(**settings)
    if scale.name == "mini":
        return FaceAutoencoder()
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )


def build_controls(scale: Scale, unet: nn.Module) -> FaceControls:
    """Fresh controls for a base: they start by changing nothing."""
    return FaceControls(block_widths=attention.cross_attention_widths(unet), **scale.control_settings)


def on_meta(scale: Scale) -> tuple[nn.Module, FaceControls]:
    """UNet and controls without memory behind them, for counting."""
    with torch.device("meta"):
        unet = build_unet(scale)
        return unet, build_controls(scale, unet)
