"""A prepared folder as a training run wants it: latents encoded once, mirrored twins, conditions by index."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facecrafter.controls import CONTROLS, Control
from facecrafter.data import shards
from facecrafter.data.pairs import PairSampler
from facecrafter.errors import DataError
from facecrafter.estimators.differentiable import Crop
from facecrafter.io import whole

# What a control reads of all images is kept in memory up to this size, and encoded again each time beyond it.
_KEPT_LIMIT = 2 * 2**30
# What is encoded in one call: 64 images of 128 px, or 4 of 512. An encoder's activations grow with the pixels, and 64
# images of 512 px took 22 GB.
PIXELS_AT_ONCE = 64 * 128 * 128
ON_A_GPU = 16  # times as many there, which a few images would not fill
PLACED_AT_ONCE = 4096  # images that are read to be kept on an accelerator


def images_at_once(size: int, device: torch.device) -> int:
    """How many images of so many pixels a side are encoded in one call."""
    return max(1, PIXELS_AT_ONCE * (ON_A_GPU if device.type == "cuda" else 1) // size**2)


class Encoded:
    """What a control's module reads of N images: encoded when it is first wanted, and kept where there is room.

    Args:
        control: the control.
        readings: ``(N, ...)``.
        size: side of the images in pixels.
        options: of the encoding, see :class:`facecrafter.controls.base.Control`.
    """

    def __init__(self, control: Control, readings: NDArray[np.float32], size: int, options: Mapping[str, Any]) -> None:
        self.control, self.readings, self.size, self.options = control, readings, size, options
        self._kept: NDArray[Any] | None = None
        self._is_kept = np.zeros(len(readings), bool)
        self.placed: Tensor | None = None  # all of them, on an accelerator

    def rows(self, rows: Tensor) -> Tensor:
        """Some of them, ``(B, ...)``."""
        if self.placed is not None:
            return self.control.present(self.placed[rows.to(self.placed.device)])
        distinct, places = np.unique(rows.cpu().numpy(), return_inverse=True)
        return self.control.present(torch.from_numpy(self._encoded(distinct)[places]))

    def place(self, device: torch.device, room: int) -> None:
        """Keep all of them on an accelerator, if they take less than ``room`` bytes."""
        if self.placed is None and len(self.readings) * self._one(0).nbytes < room:
            self.placed = torch.from_numpy(self._encoded(np.arange(len(self.readings)))).to(device)

    def _encoded(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        if self._kept is not None and self._is_kept[rows].all():
            return self._kept[rows]
        with ThreadPoolExecutor() as pool:  # drawing releases the interpreter's lock
            made = np.stack(list(pool.map(self._one, rows.tolist())))
        if self._kept is None and len(self.readings) * made[0].nbytes < _KEPT_LIMIT:
            self._kept = np.zeros((len(self.readings), *made.shape[1:]), made.dtype)
        if self._kept is not None:
            self._kept[rows], self._is_kept[rows] = made, True
        return made

    def _one(self, row: int) -> NDArray[Any]:
        if self._kept is not None and self._is_kept[row]:
            return np.asarray(self._kept[row])
        return np.asarray(self.control.encode([self.readings[row]], self.size, self.options)[0])


class _PersonsPhotos:
    """Which other photos a person has: the photos sorted by person, and where in that order each one is."""

    def __init__(self, persons: Sequence[str]) -> None:
        _, numbers = np.unique(persons, return_inverse=True)
        order = np.argsort(numbers, kind="stable")
        sizes = np.bincount(numbers)
        starts = (np.cumsum(sizes) - sizes)[numbers]
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        self.order, self.size, self.start, self.place = (
            torch.from_numpy(one) for one in (order, sizes[numbers], starts, places - starts)
        )

    def to(self, device: torch.device) -> None:
        """From now on photos are looked up there."""
        for name, tensor in vars(self).items():
            setattr(self, name, tensor.to(device))

    def another(self, own: Tensor, pick: Tensor) -> Tensor:
        """Numbers ``(B,)`` of other photos of the same people; of the same photo where there is no other.

        Args:
            own: numbers of photos, ``(B,)``.
            pick: ``(B,)`` in [0, 1), which of the others.
        """
        others, place = self.size[own] - 1, self.place[own]
        chosen = (pick.double() * others).long()
        chosen = torch.where(others > 0, chosen + (chosen >= place), place)
        return self.order[self.start[own] + chosen]


class TrainingSet:
    """All samples of a prepared folder, each also mirrored: sample ``i + N`` is sample ``i`` mirrored.

    Args:
        prepared: the folder's content.
        keep: ``(N,)`` bool, which samples to use; None for all.
        options: of the encodings by control; a control's own where they are left out.
        pairs: draws inputs and identity images together, on the same samples; None to draw them apart.
        controls: what its samples can be given beside identity.
    """

    def __init__(
        self,
        prepared: shards.Prepared,
        keep: NDArray[np.bool_] | None = None,
        options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        pairs: PairSampler | None = None,
        controls: Mapping[str, Control] = CONTROLS,
    ) -> None:
        chosen = np.arange(len(prepared.files)) if keep is None else np.flatnonzero(keep)
        if len(chosen) == 0:
            raise DataError("no sample is left to train on; prepare more photos, or set held_out: false")
        self.count = len(chosen)
        self.prepared, self.pixels, self.rows = prepared, prepared.images, chosen
        self._digests = None if prepared.digests is None else prepared.digests[chosen]
        self.identity = torch.from_numpy(prepared.identity[chosen])
        self.points = prepared.points[chosen]
        self.masks = torch.from_numpy(prepared.masks[chosen])
        self.persons = [prepared.persons[index] for index in chosen]
        self.pairs = pairs
        self.latents: Tensor | None = None
        self._latents_of: Path | None = None  # the file that keeps them
        self._photos = _PersonsPhotos(self.persons)
        # Of several folders: whose samples are whose, and the share of each in a batch.
        sources = np.zeros(self.count, np.int64) if prepared.sources is None else prepared.sources[chosen]
        self.by_source = [torch.from_numpy(np.flatnonzero(sources == one)) for one in range(len(prepared.shares))]
        self.encoded = {
            name: Encoded(
                control,
                control.read(prepared)[chosen],
                prepared.images.shape[1],
                {**control.options, **options.get(name, {})},
            )
            for name, control in controls.items()
        }
        self._grids: dict[int, Tensor] = {}  # by the side of the crop, of all samples and their twins
        # On an accelerator with room for them: all images, so that a batch moves indices only.
        self._placed_images: Tensor | None = None

    def __len__(self) -> int:
        return 2 * self.count

    @property
    def shares(self) -> Sequence[float]:
        """Of the folders that the samples come from, in a batch."""
        return self.prepared.shares

    def images(self, indices: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` in [-1, 1]; indices from N on give mirrored ones."""
        return self._mirrored(self._shown(indices % self.count), indices) / 127.5 - 1

    def conditions(self, name: str, indices: Tensor) -> Tensor:
        """What a control's module reads of samples, ``(B, ...)``, mirrored with their images; nothing of none."""
        if len(indices) == 0:
            return torch.zeros(0)
        encoded = self.encoded[name]
        own = encoded.rows(indices % self.count)
        twins = (indices >= self.count).view(-1, *[1] * (own.ndim - 1)).to(own.device)
        return torch.where(twins, encoded.control.mirror(own), own)

    def identities(self, indices: Tensor, swap: Tensor, pick: Tensor) -> Tensor:
        """Identity embeddings ``(B, D)``.

        Args:
            indices: ``(B,)`` samples.
            swap: ``(B,)`` bool, whether to take another photo of the same person, where there is one.
            pick: ``(B,)`` in [0, 1), which other photo.
        """
        own = indices % self.count
        return self.identity[torch.where(swap, self._photos.another(own, pick), own)]

    def face_masks(self, indices: Tensor) -> Tensor:
        """Face masks ``(B, M, M)`` in [0, 1], mirrored with their images, on the device that masks were placed on. It
        is not waited for if the indices are there too."""
        indices = indices.to(self.masks.device)
        masks = self.masks[indices % self.count].float() / 255
        return torch.where((indices >= self.count).view(-1, 1, 1), masks.flip(2), masks)

    def crop_grids(self, crop: Crop, indices: Tensor) -> Tensor:
        """Where a recogniser's crop of each face lies, ``(B, 2, 3)``; see
        :meth:`facecrafter.estimators.differentiable.Crop.grid`."""
        if crop.size not in self._grids:
            side, five = self.pixels.shape[1], crop.points(self.points)
            known = crop.grid(np.concatenate([five, crop.mirrored(five, side)]), side)
            self._grids[crop.size] = torch.from_numpy(known).to(self.identity.device)
        return self._grids[crop.size][indices]

    def usual_crop_grid(self, crop: Crop) -> Tensor:
        """Where it lies on average, ``(2, 3)``: for images whose pose was left free."""
        side = self.pixels.shape[1]
        five = crop.points(self.points).mean(0)
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
        if self._latents_of == path:
            return
        if path.is_file():
            self.latents, self._latents_of = load_file(path)["latents"].to(device), path
            return
        made = []
        at_once = images_at_once(self.pixels.shape[1], device)
        for start in tqdm(range(0, len(self), at_once), desc="encoding", disable=not progress):
            batch = self.images(torch.arange(start, min(start + at_once, len(self)))).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                mean = autoencoder.encode(batch).latent_dist.mode()
            made.append((mean.float() * autoencoder.config.scaling_factor).half().cpu())
        latents = torch.cat(made).contiguous()  # convolutions may leave channels last
        cache.mkdir(parents=True, exist_ok=True)
        with whole(path, shared=True) as partial:
            save_file({"latents": latents}, partial)
        self.latents, self._latents_of = latents.to(device), path

    def place(self, device: torch.device, controls: Collection[str] = ()) -> None:
        """Keep images, face masks and what some controls read on an accelerator, each where it takes at most a quarter
        of its free memory; from then on batches are made there. On a CPU nothing happens.

        Args:
            device: where training runs.
            controls: the names of those that are wanted.
        """
        if device.type != "cuda":
            return
        room = torch.cuda.mem_get_info(device)[0] // 4
        if self._placed_images is None and self.count * self.pixels[0].nbytes < room:
            parts = np.split(self.rows, range(PLACED_AT_ONCE, self.count, PLACED_AT_ONCE))
            self._placed_images = torch.cat([torch.from_numpy(self.pixels[part]).to(device) for part in parts])
        if self.masks.nbytes < room:
            self.masks = self.masks.to(device)
        for name in controls:
            self.encoded[name].place(device, room)

    def place_identities(self, device: torch.device) -> None:
        """Look up who a sample shows, who else does, and where the face is, on a device: that on which indices are
        drawn."""
        self.identity = self.identity.to(device)
        self._photos.to(device)
        self._grids = {size: grids.to(device) for size, grids in self._grids.items()}

    def _shown(self, rows: Tensor) -> Tensor:
        """Images ``(B, S, S, 3)`` uint8 by number."""
        if self._placed_images is not None:
            return self._placed_images[rows.to(self._placed_images.device)]
        return torch.from_numpy(self.pixels[self.rows[rows.cpu().numpy()]])

    def _mirrored(self, images: Tensor, indices: Tensor) -> Tensor:
        """``(B, S, S, 3)`` to ``(B, 3, S, S)`` float, left and right exchanged where the index names a twin."""
        images = images.permute(0, 3, 1, 2).float()
        twins = (indices >= self.count).view(-1, 1, 1, 1).to(images.device)
        return torch.where(twins, images.flip(3), images)
