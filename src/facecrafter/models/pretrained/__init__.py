"""Weights as others publish them: Arc2Face's files and Stable Diffusion 1.5's, read for the arc2face scale.

A folder of weights holds

    arc2face/             config.json, diffusion_pytorch_model.safetensors: the UNet
    encoder/              config.json, pytorch_model.bin: the identity encoder, a CLIP text model
    vae/                  config.json, diffusion_pytorch_model.safetensors: Stable Diffusion's autoencoder
    arcface.onnx          the recogniser
    controls.safetensors  this project's own, where there are any

docs/arc2face.md says where each comes from.
"""

from facecrafter.models.pretrained.checking import check, is_published, recogniser
from facecrafter.models.pretrained.files import Finding
from facecrafter.models.pretrained.loading import folder_of, load, load_folder, open_model
from facecrafter.models.pretrained.single_file import conversion, is_single_file, refuse_single_file

__all__ = [
    "Finding",
    "check",
    "conversion",
    "folder_of",
    "is_published",
    "is_single_file",
    "load",
    "load_folder",
    "open_model",
    "recogniser",
    "refuse_single_file",
]
