"""A prepared folder as a training run wants it: latents encoded once, mirrored twins, conditions by index."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facecrafter.data import shards
from facecrafter.data.pairs import PairSampler
from facecrafter.errors import DataError
from facecrafter.files import whole
from facecrafter.perception import landmarks
from facecrafter.perception.differentiable import Crop

# Landmark images are kept in memory up to this size, and drawn anew each time beyond it.
_DRAWN_LIMIT = 2 * 2**30


class TrainingSet:
    """All samples of a prepared folder, each also mirrored: sample ``i + N`` is sample ``i`` seen in a mirror.

    Args:
        prepared: the folder's content.
        keep: ``(N,)`` bool, which samples to use; None for all.
        landmark_size: side of the landmark images.
        pairs: draws inputs and identity pictures together, on the same samples; None to draw them apart.
    """

    def __init__(
        self,
        prepared: shards.Prepared,
        keep: NDArray[np.bool_] | None = None,
        landmark_size: int = 128,
        pairs: PairSampler | None = None,
    ) -> None:
        chosen = np.arange(len(prepared.files)) if keep is None else np.flatnonzero(keep)
        if len(chosen) == 0:
            raise DataError("no sample is left to train on; prepare more photos, or set held_out: false")
        self.count = len(chosen)
        self.images, self.rows = prepared.images, chosen
        self.identity = torch.from_numpy(prepared.identity[chosen])
        self.emotion = torch.from_numpy(prepared.emotion[chosen])
        self.points = prepared.points[chosen]
        self.masks = prepared.masks[chosen]
        self.persons = [prepared.persons[index] for index in chosen]
        self.landmark_size, self.pairs = landmark_size, pairs
        self.latents: Tensor | None = None
        by_person: dict[str, list[int]] = defaultdict(list)
        for index, person in enumerate(self.persons):
            by_person[person].append(index)
        self._others = [by_person[person] for person in self.persons]
        cells = self.count * landmark_size**2 * 3
        self._drawn = (
            np.zeros((self.count, landmark_size, landmark_size, 3), np.uint8) if cells < _DRAWN_LIMIT else None
        )
        self._is_drawn = np.zeros(self.count, bool)

    def __len__(self) -> int:
        return 2 * self.count

    def pictures(self, indices: Tensor) -> Tensor:
        """Pictures ``(B, 3, S, S)`` in [-1, 1]; indices from N on give mirrored ones."""
        rows = self.rows[(indices % self.count).numpy()]
        return self._mirrored(torch.from_numpy(self.images[rows]), indices) / 127.5 - 1

    def landmark_images(self, indices: Tensor) -> Tensor:
        """Landmark images ``(B, 3, L, L)`` in [0, 1], mirrored with their pictures."""
        rows, places = np.unique((indices % self.count).numpy(), return_inverse=True)
        with ThreadPoolExecutor() as pool:  # drawing releases the interpreter's lock
            drawn = np.stack(list(pool.map(self._landmark_image, rows.tolist())))
        return self._mirrored(torch.from_numpy(drawn[places]), indices) / 255

    def identities(self, indices: Tensor, swap: Tensor, pick: Tensor) -> Tensor:
        """Identity embeddings ``(B, D)``.

        Args:
            indices: ``(B,)`` samples.
            swap: ``(B,)`` bool, whether to take another photo of the same person, where there is one.
            pick: ``(B,)`` in [0, 1), which other photo.
        """
        sources = []
        for index, swapped, share in zip((indices % self.count).tolist(), swap.tolist(), pick.tolist(), strict=True):
            others = [other for other in self._others[index] if other != index] if swapped else []
            sources.append(others[int(share * len(others))] if others else index)
        return self.identity[sources]

    def emotions(self, indices: Tensor) -> Tensor:
        """Emotions ``(B, 10)``; a mirror does not change them."""
        return self.emotion[indices % self.count]

    def face_masks(self, indices: Tensor) -> Tensor:
        """Face masks ``(B, M, M)`` in [0, 1], mirrored with their pictures."""
        masks = torch.from_numpy(self.masks[(indices % self.count).numpy()]).float() / 255
        return torch.where((indices >= self.count).view(-1, 1, 1), masks.flip(2), masks)

    def crop_grids(self, crop: Crop, indices: Tensor) -> Tensor:
        """Where a recogniser's crop of each face lies, ``(B, 2, 3)``; see
        :meth:`facecrafter.perception.differentiable.Crop.grid`."""
        side = self.images.shape[1]
        grids = []
        for index in indices.tolist():
            five = crop.points(self.points[index % self.count])
            grids.append(crop.grid(crop.mirrored(five, side) if index >= self.count else five, side))
        return torch.from_numpy(np.stack(grids))

    def usual_crop_grid(self, crop: Crop) -> Tensor:
        """Where it lies on average, ``(2, 3)``: for pictures whose pose was left free."""
        side = self.images.shape[1]
        five = np.mean([crop.points(points) for points in self.points], axis=0)
        return torch.from_numpy(crop.grid((five + crop.mirrored(five, side)) / 2, side))

    @torch.no_grad()
    def encode(self, autoencoder: Any, cache: Path, device: torch.device, progress: bool = True) -> None:
        """Compute the latents of all samples and their twins, or read them from a run before that used the same
        autoencoder on the same samples.

        Args:
            autoencoder: frozen; its means are kept, in half precision.
            cache: a folder for them.
            device: where to compute.
            progress: show a bar.
        """
        from safetensors.torch import load_file, save_file
        from tqdm import tqdm

        key = hashlib.sha256(
            b"".join(value.float().cpu().numpy().tobytes() for value in autoencoder.state_dict().values())
        )
        for rows in np.array_split(self.rows, max(1, self.count // 256)):
            key.update(self.images[rows].tobytes())
        path = cache / f"latents-{key.hexdigest()[:16]}.safetensors"
        if path.is_file():
            self.latents = load_file(path)["latents"]
            return
        made = []
        for start in tqdm(range(0, len(self), 64), desc="encoding", disable=not progress):
            batch = self.pictures(torch.arange(start, min(start + 64, len(self)))).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                mean = autoencoder.encode(batch).latent_dist.mode()
            made.append((mean.float() * autoencoder.config.scaling_factor).half().cpu())
        self.latents = torch.cat(made).contiguous()  # convolutions may leave channels last
        cache.mkdir(parents=True, exist_ok=True)
        with whole(path, shared=True) as partial:
            save_file({"latents": self.latents}, partial)

    def _landmark_image(self, index: int) -> NDArray[np.uint8]:
        if self._drawn is not None and self._is_drawn[index]:
            return self._drawn[index]
        image = landmarks.draw(self.points[index], self.images.shape[1], self.landmark_size)
        if self._drawn is not None:
            self._drawn[index], self._is_drawn[index] = image, True
        return image

    def _mirrored(self, pictures: Tensor, indices: Tensor) -> Tensor:
        """``(B, S, S, 3)`` to ``(B, 3, S, S)`` float, left and right exchanged where the index names a twin."""
        pictures = pictures.permute(0, 3, 1, 2).float()
        return torch.where((indices >= self.count).view(-1, 1, 1, 1), pictures.flip(3), pictures)
