"""What the judges measured on images, measured once: kept by the images' content, the judges' names and their code."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facecrafter.data.shards import DAMAGE
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.evaluation.images import write
from facecrafter.evaluation.judges import DetectedFace, Judge, Judges, detect
from facecrafter.faces.face import load_photo
from facecrafter.provenance import READINGS, code

Array = NDArray[np.float64]
Images = Sequence[Path | NDArray[np.uint8]] | NDArray[np.uint8]
Row = dict[str, NDArray[np.generic]]

# Measured together; a run that is stopped loses no more than this.
CHUNK = 128
ROLES = ("pose", "expression", "identity", "emotion")


@dataclass(frozen=True)
class Measurements:
    """What P images show, as :class:`facecrafter.evaluation.judges.Measurements` has it, less the faces.

    Attributes:
        found: ``(P,)`` bool; the other rows are NaN where it is not.
        pose: ``(P, 3)`` radians.
        expression: ``(P, K)``.
        identity: ``(P, D)`` of unit length.
        emotion: ``(P, 10)``: valence, arousal and the eight probabilities.
    """

    found: NDArray[np.bool_]
    pose: Array
    expression: Array
    identity: Array
    emotion: Array

    def rows(self, index: NDArray[np.int64] | slice) -> Measurements:
        """Some of the images."""
        return Measurements(*(getattr(self, field.name)[index] for field in fields(self)))


def joined(parts: Sequence[Measurements]) -> Measurements:
    """Measurements of some images after those of others."""
    return Measurements(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Measurements))
    )


def measure(judges: Judges, images: Images, cache: Path, progress: bool = True) -> Measurements:
    """What the judges measure on images: paths, or ``(H, W, 3)`` uint8 RGB.

    Raises:
        PhotoError: a file that is not an image.
        OutputError: the cache cannot be written.
    """
    names = [field.name for field in fields(Measurements)]

    def read(shown: Sequence[NDArray[np.uint8]]) -> list[Row]:
        measured = judges.measure(shown)
        return [{name: np.asarray(getattr(measured, name)[index]) for name in names} for index in range(len(shown))]

    rows = _each(images, cache / "measurements" / _named({role: judges.names[role] for role in ROLES}), read, progress)
    return Measurements(*(np.stack([row[name] for row in rows]) for name in names))  # type: ignore[arg-type]


def by_judge(judge: Judge[DetectedFace], images: Images, cache: Path, progress: bool = True) -> Array:
    """What one more judge reads in the faces of images ``(P, K)``, NaN where no face was found; see :func:`measure`."""

    def read(shown: Sequence[NDArray[np.uint8]]) -> list[Row]:
        with FaceFinder() as finder:
            detected = [detect(finder, one) for one in shown]
        rows = np.full((len(shown), judge.width), np.nan)
        rows[[one is not None for one in detected]] = judge.read([one for one in detected if one])
        return [{"read": row} for row in rows]

    rows = _each(images, cache / "independent" / _named(judge.name), read, progress)
    return np.stack([row["read"] for row in rows]).astype(np.float64)


def features(judges: Judges, images: Images, cache: Path, progress: bool = True) -> Array:
    """Features ``(P, F)`` of images for a Frechet distance; see :func:`measure`."""

    def read(shown: Sequence[NDArray[np.uint8]]) -> list[Row]:
        return [{"features": row} for row in judges.features(shown)]

    rows = _each(images, cache / "features" / _named(judges.names["frechet"]), read, progress)
    return np.stack([row["features"] for row in rows]).astype(np.float64)


def _each(
    images: Images,
    folder: Path,
    read: Callable[[Sequence[NDArray[np.uint8]]], list[Row]],
    progress: bool,
) -> list[Row]:
    """A row of arrays for each image, out of the folder or read now and put there."""
    from tqdm import tqdm

    rows: list[Row] = []
    with tqdm(total=len(images), desc=f"measuring ({folder.parent.name})", disable=not progress) as bar:
        for start in range(0, len(images), CHUNK):
            some = images[start : start + CHUNK]
            shown = [load_photo(one) if isinstance(one, Path) else one for one in some]
            places = [folder / f"{_digest(str(one.shape), one)}.npz" for one in shown]
            known = {place: row for place in places if (row := _stored(place)) is not None}
            new = {place: one for place, one in zip(places, shown, strict=True) if place not in known}
            for place, row in zip(new, read(list(new.values())) if new else [], strict=True):
                known[place] = row
                write(place, _packed(row))
            rows.extend(known[place] for place in places)
            bar.update(len(some))
    return rows


def _stored(place: Path) -> Row | None:
    """The row in a file; None where there is none, or a damaged one."""
    try:
        with np.load(place) as arrays:
            return dict(arrays)
    except DAMAGE:
        return None


def _packed(row: Row) -> bytes:
    content = io.BytesIO()
    np.savez(content, **row)  # type: ignore[arg-type]
    return content.getvalue()


def _named(judges: object) -> str:
    """The folder of what judges of these names measure, as they are today."""
    return _digest([judges, code(*READINGS)])


def _digest(of: object, image: NDArray[np.uint8] | None = None) -> str:
    key = hashlib.sha256(json.dumps(of, sort_keys=True).encode())
    key.update(b"" if image is None else np.ascontiguousarray(image).tobytes())
    return key.hexdigest()[:32]
