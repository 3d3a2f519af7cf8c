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
from facecrafter.estimators.differentiable import Crop
from facecrafter.faces import landmarks
from facecrafter.io import whole

# Landmark images are kept in memory up to this size, and drawn again each time beyond it.
_DRAWN_LIMIT = 2 * 2**30
# What is encoded in one call: 64 images of 128 px, or 4 of 512. An encoder's activations grow with the pixels, and 64
# images of 512 px took 22 GB.
PIXELS_AT_ONCE = 64 * 128 * 128


class TrainingSet:
    """All samples of a prepared folder, each also mirrored: sample ``i + N`` is sample ``i`` seen in a mirror.

    Args:
        prepared: the folder's content.
        keep: ``(N,)`` bool, which samples to use; None for all.
        landmark_size: side of the landmark images.
        pairs: draws inputs and identity images together, on the same samples; None to draw them apart.
    """

    draws = True  # whether landmark images are drawings, which an accelerator can keep

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
        self.pixels, self.rows = prepared.images, chosen
        self._digests = None if prepared.digests is None else prepared.digests[chosen]
        self.identity = torch.from_numpy(prepared.identity[chosen])
        self.emotion = torch.from_numpy(prepared.emotion[chosen])
        self.points, self.blendshapes = prepared.points[chosen], prepared.blendshapes[chosen]
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
        self._grids: dict[tuple[int, int], NDArray[np.float32]] = {}
        # On an accelerator with room for them: all images and landmark images, so that a batch moves indices only.
        self._placed_images: Tensor | None = None
        self._placed_drawings: Tensor | None = None

    def __len__(self) -> int:
        return 2 * self.count

    def images(self, indices: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` in [-1, 1]; indices from N on give mirrored ones."""
        return self._mirrored(self._shown(indices % self.count), indices) / 127.5 - 1

    def landmark_images(self, indices: Tensor) -> Tensor:
        """Landmark images ``(B, 3, L, L)`` in [0, 1], mirrored with their images."""
        chosen = indices % self.count
        if self._placed_drawings is not None:
            return self._mirrored(self._placed_drawings[chosen.to(self._placed_drawings.device)], indices) / 255
        rows, places = np.unique(chosen.numpy(), return_inverse=True)
        return self._mirrored(torch.from_numpy(self._draw(rows)[places]), indices) / 255

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
        """Face masks ``(B, M, M)`` in [0, 1], mirrored with their images."""
        masks = torch.from_numpy(self.masks[(indices % self.count).numpy()]).float() / 255
        return torch.where((indices >= self.count).view(-1, 1, 1), masks.flip(2), masks)

    def crop_grids(self, crop: Crop, indices: Tensor) -> Tensor:
        """Where a recogniser's crop of each face lies, ``(B, 2, 3)``; see
        :meth:`facecrafter.estimators.differentiable.Crop.grid`."""
        return torch.from_numpy(np.stack([self._crop_grid(crop, index) for index in indices.tolist()]))

    def usual_crop_grid(self, crop: Crop) -> Tensor:
        """Where it lies on average, ``(2, 3)``: for images whose pose was left free."""
        side = self.pixels.shape[1]
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
        key.update(str(autoencoder.config.scaling_factor).encode())
        key.update(self.pixels[self.rows].tobytes() if self._digests is None else self._digests.tobytes())
        path = cache / f"latents-{key.hexdigest()[:16]}.safetensors"
        if path.is_file():
            self.latents = load_file(path)["latents"].to(device)
            return
        made = []
        at_once = max(1, PIXELS_AT_ONCE // self.pixels.shape[1] ** 2)
        for start in tqdm(range(0, len(self), at_once), desc="encoding", disable=not progress):
            batch = self.images(torch.arange(start, min(start + at_once, len(self)))).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                mean = autoencoder.encode(batch).latent_dist.mode()
            made.append((mean.float() * autoencoder.config.scaling_factor).half().cpu())
        latents = torch.cat(made).contiguous()  # convolutions may leave channels last
        cache.mkdir(parents=True, exist_ok=True)
        with whole(path, shared=True) as partial:
            save_file({"latents": latents}, partial)
        self.latents = latents.to(device)

    def _crop_grid(self, crop: Crop, index: int) -> NDArray[np.float32]:
        known = self._grids.get((crop.size, index))
        if known is None:
            side, five = self.pixels.shape[1], crop.points(self.points[index % self.count])
            known = crop.grid(crop.mirrored(five, side) if index >= self.count else five, side)
            self._grids[crop.size, index] = known
        return known

    def place(self, device: torch.device, drawings: bool = True) -> None:
        """Keep images and landmark images on an accelerator, where they take at most a quarter of its free memory;
        from then on batches are made there. On a CPU nothing happens.

        Args:
            device: where training runs.
            drawings: whether landmark images are wanted too.
        """
        if device.type != "cuda":
            return
        room = torch.cuda.mem_get_info(device)[0] // 4
        if self.count * self.pixels[0].nbytes < room:
            self._placed_images = torch.from_numpy(self.pixels[self.rows]).to(device)
        if drawings and self.draws and self.count * self.landmark_size**2 * 3 < room:
            self._placed_drawings = torch.from_numpy(self._draw(np.arange(self.count))).to(device)

    def _shown(self, rows: Tensor) -> Tensor:
        """Images ``(B, S, S, 3)`` uint8 by number."""
        if self._placed_images is not None:
            return self._placed_images[rows.to(self._placed_images.device)]
        return torch.from_numpy(self.pixels[self.rows[rows.numpy()]])

    def _draw(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Landmark images ``(B, L, L, 3)`` by number."""
        if self._drawn is not None and self._is_drawn[rows].all():
            return self._drawn[rows]
        with ThreadPoolExecutor() as pool:  # drawing releases the interpreter's lock
            return np.stack(list(pool.map(self._landmark_image, rows.tolist())))

    def _landmark_image(self, index: int) -> NDArray[np.uint8]:
        if self._drawn is not None and self._is_drawn[index]:
            return self._drawn[index]
        image = landmarks.draw(self.points[index], self.pixels.shape[1], self.landmark_size)
        if self._drawn is not None:
            self._drawn[index], self._is_drawn[index] = image, True
        return image

    def _mirrored(self, images: Tensor, indices: Tensor) -> Tensor:
        """``(B, S, S, 3)`` to ``(B, 3, S, S)`` float, left and right exchanged where the index names a twin."""
        images = images.permute(0, 3, 1, 2).float()
        twins = (indices >= self.count).view(-1, 1, 1, 1).to(images.device)
        return torch.where(twins, images.flip(3), images)
