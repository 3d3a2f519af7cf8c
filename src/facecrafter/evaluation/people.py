"""Whether people who do not exist show what they were asked for, by a network that guided none of them.

The directions of `data synthesise` are fitted to the project's estimator, which also chooses and labels the images.
face-api's network had no part in that.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data import shards
from facecrafter.errors import DataError
from facecrafter.estimators.face_api import CLASSES, FaceApiReader
from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.words import share_cell
from facecrafter.faces.emotion import EMOTIONS


@dataclass(frozen=True)
class Asked:
    """An image of a person who was asked for an emotion.

    Attributes:
        person: who it is.
        emotion: what was asked.
        likeliest: what the project's estimator read when the image was made, all eight as common as each other.
        read: what the network reads.
    """

    person: str
    emotion: str
    likeliest: str
    read: str


@dataclass(frozen=True)
class _Stored:
    """The same before it is read: the image ``(S, S, 3)`` uint8 RGB, and its landmarks ``(478, 3)`` in pixels."""

    person: str
    emotion: str
    likeliest: str
    image: NDArray[np.uint8]
    points: NDArray[np.float32]


def read(folder: Path, people: int, reader: FaceApiReader | None = None, progress: bool = True) -> list[Asked]:
    """What the network reads in the images of a folder that were asked for an emotion.

    Args:
        folder: what `data synthesise` wrote.
        people: how many at most, the first in the folder.
        reader: the network; None for the one with the published weights.
        progress: show a bar.

    Raises:
        DataError: another folder, or a damaged one.
        WeightsError: the published weights are not installed, or are others.
    """
    from tqdm import tqdm

    if "synthesis" not in shards.read_meta(folder):
        raise DataError(f"{folder} is prepared from photos; name a folder that `facecrafter data synthesise` wrote")
    reader, index = reader or FaceApiReader(), shards.read_index(folder)
    wanted = set(list(dict.fromkeys(index["person"]))[:people])
    rows: dict[int, dict[str, int]] = {}
    for row, (shard, key) in enumerate(zip(index["shard"], index["key"], strict=True)):
        rows.setdefault(shard, {})[key] = row
    needed = [
        shard for shard, keys in rows.items() if not wanted.isdisjoint(index["person"][row] for row in keys.values())
    ]
    found: list[Asked] = []
    for shard in tqdm(needed, desc="reading shards", disable=not progress):
        stored = _stored(shards.shard_path(folder, shard), rows[shard], wanted)
        likely = reader.read([one.image for one in stored], [one.points for one in stored]).argmax(1).tolist()
        found += [
            Asked(one.person, one.emotion, one.likeliest, CLASSES[place])
            for one, place in zip(stored, likely, strict=True)
        ]
    return found


def _stored(path: Path, rows: Mapping[str, int], people: set[str]) -> list[_Stored]:
    """The images of a shard that people were asked for an emotion in."""
    found: list[_Stored] = []

    def keep(_: int, parts: Mapping[str, bytes]) -> None:
        about = json.loads(parts["json"])
        origin = about["synthesis"]
        if about["person"] not in people or origin["asked"] not in EMOTIONS:
            return
        with (
            Image.open(io.BytesIO(parts["png"]), formats=["PNG"]) as image,
            np.load(io.BytesIO(parts["npz"])) as arrays,
        ):
            shown = np.asarray(image.convert("RGB"))
            found.append(_Stored(about["person"], origin["asked"], origin["likeliest"], shown, arrays["points"]))

    shards.each_sample(path, rows, keep)
    return found


def as_markdown(found: Sequence[Asked]) -> str:
    """A Markdown table: the share of each emotion that is read as asked, by either network, and its mean over the seven
    that both know, with 95 % bootstrap intervals over people."""
    lines = [["asked", "images", "read as asked by the project's estimator", "by face-api"], ["---", *["---:"] * 3]]
    for name in EMOTIONS:
        ours = [one for one in found if one.emotion == name]
        known = _share([one.read == name for one in ours], ours) if name in CLASSES else "not known to it"
        lines.append([name, str(len(ours)), _share([one.likeliest == name for one in ours], ours), known])
    both = [one for one in found if one.emotion in CLASSES]
    agree = [one.likeliest == one.emotion for one in both], [one.read == one.emotion for one in both]
    lines.append(["all seven", str(len(both)), *(_share(one, both) for one in agree)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _share(agree: Sequence[bool], images: Sequence[Asked]) -> str:
    return share_cell(bootstrap.mean(np.array(agree, bool), [one.person for one in images]))
