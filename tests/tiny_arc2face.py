"""The arc2face scale with tiny networks, and folders of its files as they are published."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from diffusers import AutoencoderKL
from onnx import TensorProto, helper, numpy_helper

from facecrafter.models import scales
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.scales import Scale

ENCODER = "encoder/pytorch_model.bin"

# The classes of the real scale, block for block of the kinds it has, with tiny widths.
TINY = dataclasses.replace(
    scales.ARC2FACE,
    size=64,
    prompt=scales.MINI_PROMPT,
    end=scales.MINI_END,
    length=scales.MINI_LENGTH,
    unet={
        "sample_size": 8,
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 8,
        "cross_attention_dim": 520,
    },
    text={
        **scales.MINI.text,
        "hidden_size": 520,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
    },
    controls={
        "scale": "arc2face",
        "context_width": 16,
        "landmark_channels": (3, 8, 16),
        "landmark_strides": (4, 4),
        "landmark_size": 64,
        "emotion_hidden": 8,
    },
)


build_autoencoder = scales.build_autoencoder


def tiny_autoencoder(scale: Scale) -> Any:
    if scale.name == "mini":
        return build_autoencoder(scale)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        sample_size=scale.size,
    )


def write_recogniser(path: Path, numbers: int = 512, outputs: int = 1, seed: int = 0) -> None:
    """A network of one convolution and one matrix, whose sides are open where InsightFace's files leave them open."""
    rng = np.random.default_rng(seed)
    stored = {"w": rng.normal(size=(4, 3, 28, 28)) / 50, "fc": rng.normal(size=(numbers, 64))}
    nodes = [
        helper.make_node("Conv", ["input.1", "w"], ["c"], strides=[28, 28]),
        helper.make_node("Flatten", ["c"], ["f"]),
        *(helper.make_node("Gemm", ["f", "fc"], [f"out{index}"], transB=1) for index in range(outputs)),
    ]
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [None, 3, 112, 112])]
    ends = [helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, [1, numbers]) for i in range(outputs)]
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, ends, weights), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))


def publish(built: FaceModel, folder: Path) -> None:
    """Fill a folder as it is published: old names in the encoder's file, configs with what only their makers need."""
    built.unet.save_pretrained(folder / "arc2face")
    built.autoencoder.save_pretrained(folder / "vae")
    (folder / "encoder").mkdir()
    config = {**built.encoder.text_model.config.to_dict(), "architectures": ["CLIPTextModel"]}
    (folder / "encoder" / "config.json").write_text(json.dumps(config, default=str))
    old = {f"text_model.{name}": value for name, value in built.encoder.text_model.state_dict().items()}
    torch.save({**old, "text_model.embeddings.position_ids": torch.arange(8)[None]}, folder / ENCODER)
    write_recogniser(folder / "arcface.onnx")
