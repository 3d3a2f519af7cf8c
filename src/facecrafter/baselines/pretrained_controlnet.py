"""Arc2Face's ControlNet as its makers published it, from files the user has, at the size of Stable Diffusion 1.5.

The code has been run on tiny random files of the published layout, and not with the real weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facecrafter.baselines import head
from facecrafter.baselines.base import BaselineGenerator, Shown, whole_base
from facecrafter.baselines.controlnet import ControlNetBaseline
from facecrafter.errors import CheckpointError, ConfigError
from facecrafter.faces.face import load_photo
from facecrafter.models.checkpoint import FaceModel
from facecrafter.request import Portrait, Request
from facecrafter.weights import sha256


class PublishedControlNet(BaselineGenerator):
    """Arc2Face's ControlNet, a diffusers folder (``config.json``, ``diffusion_pytorch_model.safetensors``).

    It reads normals that EMOCA renders of a FLAME mesh with the target's pose and expression and the person's own head
    shape. Guidance is its makers': the normals are in both predictions.

    Args:
        model: the folder.
        base: Arc2Face, or the folder of its files.
        renders: a folder with EMOCA's normals for each pair, ``IDENTITY/TARGET.png``, both being the photos' paths
            inside their data set (``Ann/1.jpg/Bob/2.jpg.png``). None for normals of MediaPipe's mesh, which show the
            target's own face without its skull and which the network was not trained on.
        identity_scale: of guidance; 3 is Arc2Face's own.
        steps, scheduler, batch_size: see :class:`BaselineGenerator`.
        device: where to compute, as torch calls it; a base that is a whole model stays where it is.

    Raises:
        CheckpointError: the folder does not hold a ControlNet for this base.
        ConfigError: a setting that cannot be used, or `renders` is not a folder.
    """

    SHOWN: ClassVar[Shown] = {"none": (False, True), "identity": (True, True)}

    def __init__(
        self,
        model: Path,
        base: FaceModel | Path,
        renders: Path | None = None,
        identity_scale: float = 3.0,
        steps: int | None = None,
        scheduler: str | None = None,
        batch_size: int = 4,
        device: str = "cpu",
    ) -> None:
        whole = whole_base(base, device)
        super().__init__(_controlnet(model, whole), whole, identity_scale, None, steps, scheduler, batch_size)
        self.renders = None if renders is None else Path(renders)
        if self.renders is not None and not self.renders.is_dir():
            raise ConfigError(f"there is no folder of renders {self.renders}; leave it out, or make it with EMOCA")
        normals = "MediaPipe's points, which it was not trained on" if renders is None else "EMOCA"
        self.name, self.note = "Arc2Face + ControlNet (published)", f"Published weights; normals by {normals}."

    def settings(self) -> dict[str, object]:
        """What its images depend on; the renders count by what is in them."""
        files = sorted(self.renders.rglob("*.png")) if self.renders else []
        return {**super().settings(), "published": True, "renders": [f"{path.name} {sha256(path)}" for path in files]}

    def condition(self, requests: Sequence[Request]) -> Tensor | None:
        """Normals as colours, ``(B, 3, S, S)`` in [0, 1]: to the right red, up green, to the viewer blue, grey around.

        Raises:
            PhotoError: a render is missing or unreadable.
            ConfigError: a render has another size than the images.
        """
        targets = [(request.identity, self._read(request)) for request in requests]
        drawn = [self._normals(identity, target) for identity, target in targets if target is not None]
        return torch.from_numpy(np.stack(drawn)) if drawn else None

    def _normals(self, identity: Portrait, target: Portrait) -> NDArray[np.float32]:
        if self.renders is None:
            return np.asarray(head.draw(target.points, target.size, self.size)[:3] / 2 + 0.5, np.float32)
        path = self.renders / identity.file / f"{target.file}.png"
        image = load_photo(path)
        if image.shape != (self.size, self.size, 3):
            raise ConfigError(f"{path} is {image.shape[1]}x{image.shape[0]}, and the images are {self.size} px")
        return np.asarray(image.transpose(2, 0, 1) / 255, np.float32)


def _controlnet(folder: Path, base: FaceModel) -> ControlNetBaseline:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json; give the folder controlnet/ of Arc2Face's files")
    try:
        baseline, loading = ControlNetBaseline.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder} could not be read: {' '.join(str(error).split())[:200]}") from None
    if loading["missing_keys"]:
        raise CheckpointError(f"{folder} lacks {len(loading['missing_keys'])} tensors of a ControlNet; get it again")
    if not baseline.fits(base):
        raise CheckpointError(f"{folder} holds a ControlNet for another base than the {base.scale.name} scale's")
    baseline.requires_grad_(False).eval()
    return baseline
