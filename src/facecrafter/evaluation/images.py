"""Images made once: a file is named by what it was made from, so nothing that is there is made again.

A file lies in ``CACHE/pictures/METHOD/REQUEST.png``. METHOD is a digest of the method's key, of whether it computed in
bfloat16 and of the code that makes images, REQUEST one of all that a method could read of the request. A run that was
killed therefore goes on, and a table of other metrics, or with more people, makes only what is new.

The images say in their metadata that they were generated. They carry no watermark: the metrics are of what a method
makes, not of what is written into it afterwards, and baselines have none.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from facecrafter import __version__
from facecrafter.errors import OutputError, PhotoError
from facecrafter.faces.photo import read_text
from facecrafter.io import whole
from facecrafter.pipelines.images import STATEMENT
from facecrafter.provenance import IMAGES, code
from facecrafter.request import Generator, Portrait, Request, images_of

SECONDS = "Seconds"  # the time that an image took, in its metadata


@dataclass(frozen=True)
class Made:
    """Images of a method.

    Attributes:
        paths: one a request; requests that are alike share a file.
        seconds: that an image took on average, whether in this run or in an earlier one.
    """

    paths: list[Path]
    seconds: float


def make(
    method: Generator,
    requests: Sequence[Request],
    cache: Path,
    batch_size: int = 16,
    bfloat16: bool = False,
    progress: bool = True,
    device: str = "cpu",
) -> Made:
    """The images of some requests; those that are not in the cache are made, batch by batch.

    Args:
        method: what makes them.
        requests: what to make.
        cache: the folder of everything made so far.
        batch_size: images made at once.
        bfloat16: let the method's networks compute in bfloat16.
        progress: show a bar.
        device: the kind of device that they compute on.

    Raises:
        OutputError: the cache cannot be written.
        FaceCrafterError: what the method says of a request; images made before it are kept.
    """
    import torch
    from tqdm import tqdm

    made_by = f"{method.key} {'bfloat16' if bfloat16 else ''} {code(*IMAGES)}"
    folder = cache / "pictures" / _digest(made_by.encode())
    paths = [folder / f"{request.digest[:32]}.png" for request in requests]
    took = {path: seconds for path in dict.fromkeys(paths) if (seconds := _seconds(path)) is not None}
    missing = {path: request for path, request in zip(paths, requests, strict=True) if path not in took}
    wanted = list(missing)
    with tqdm(total=len(set(paths)), initial=len(took), desc=method.name, disable=not progress) as bar:
        for first in range(0, len(wanted), batch_size):
            batch = wanted[first : first + batch_size]
            start = time.monotonic()
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                images = images_of(method, [missing[path] for path in batch])
            seconds = (time.monotonic() - start) / len(batch)
            for path, image in zip(batch, images, strict=True):
                write(path, _png(image, seconds))
                took[path] = seconds
            bar.update(len(batch))
    return Made(paths, math.fsum(took.values()) / max(1, len(took)))


def portrait_name(portrait: Portrait) -> str:
    """A file name without ending for a portrait: readable, and different for different photos of a data set."""
    stem = portrait.file.rpartition("/")[2]
    stem = stem if "#" in stem else stem.rpartition(".")[0] or stem
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "-" for letter in stem)
    return f"{plain[:60]}-{_digest(portrait.file.encode())[:6]}"


def request_name(request: Request) -> str:
    """The file name of a request's image in a folder of images made elsewhere: identity, target and seed."""
    parts = [portrait_name(one) for one in (request.identity, request.conditions.get("landmark")) if one]
    return "__".join([*parts, str(request.seed)]) + ".png"


def write(path: Path, content: bytes) -> None:
    """Write a file whole, though other processes may write it too.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path, shared=True) as partial:
            partial.write_bytes(content)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise OutputError(f"{path} could not be written ({why}); put that right and run it again, it goes on") from None


def _png(image: NDArray[np.uint8], seconds: float) -> bytes:
    text, content = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("Software", f"FaceCrafter {__version__}")
    text.add_text("Description", STATEMENT)
    text.add_text(SECONDS, repr(seconds))
    Image.fromarray(image).save(content, "PNG", pnginfo=text, compress_level=3)
    return content.getvalue()


def _seconds(path: Path) -> float | None:
    """How long an image took; None where there is none, or its file is damaged."""
    try:
        return float(read_text(path)[SECONDS])
    except (PhotoError, ValueError, KeyError):
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
