"""The prepared folder: what is in it, how a shard is written, and how everything is read back.

A prepared folder holds

- ``shard-00000.tar`` ...: WebDataset shards. A sample is ``KEY.png`` (the aligned image, lossless), ``KEY.npz``
  (arrays named in :func:`encode`) and ``KEY.json`` (person, file, box, others; of a video also the frame's time
  and what its folders say).
- ``shard-00000.json`` ...: that shard's rows of the index and its rejected files, so that a killed run can go on.
- ``begun-00002.tar``: only in a folder whose preparation was stopped: ``found.json`` lists what came of that shard's
  files so far, and the samples follow.
- ``index.parquet``: a row an image, in the order of the keys; see :data:`INDEX_COLUMNS`. It is written last.
- ``rejected.csv``: ``file,reason`` of every photo that was left out.
- ``meta.json``: the format, the settings and the estimators with the sha256 of their weights.
- ``lock``: empty; held by a preparation that is going on.
- ``cache/``: what training works out once; it can be deleted.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import tarfile
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.errors import DataError
from facecrafter.faces.face import Face
from facecrafter.io import command, whole

FORMAT = 1
META = "meta.json"
INDEX = "index.parquet"
REJECTED = "rejected.csv"
MASK_SIZE = 64
AGAIN = (
    "run the command that made the folder again (of 'data prepare', 'data synthesise', 'data warp' or 'dataset make')"
)
GO_ON = "put that right and run the same command again, it goes on from there"
IMAGES = "cache/pictures.npy"  # all of them decoded, in index order
MEMORY = 2**30  # where they take more bytes than this, they are not held in memory but mapped from that file
Keep = Callable[[int, Mapping[str, bytes]], None]
# numpy reads an array's header with Python's parser, which fails now and then in two threads at once (Python 3.11).
_PARSING = threading.Lock()
HELD_OUT_SHARE = 20  # one person in so many is held out of training

INDEX_COLUMNS = {
    "key": "string",
    "shard": "int32",
    "person": "string",
    "file": "string",
    "yaw": "float32",
    "pitch": "float32",
    "roll": "float32",
    "valence": "float32",
    "arousal": "float32",
    "emotion": "string",
    "others": "int32",
}

# What reading a damaged tar, zip, PNG, JSON, Parquet file or array raises.
_FORMATS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError)
_VALUES = (ArithmeticError, AttributeError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)
# A damaged header may ask for any number of bytes.
DAMAGE = (*_FORMATS, *_VALUES, OSError, EOFError, MemoryError)

# A file in a shard has a few hundred kB at most. A sparse one takes no room in its tar, whatever its size.
MOST_BYTES = 2**28


@dataclass(frozen=True)
class Prepared:
    """Everything of a prepared folder in memory, in index order.

    Attributes:
        images: ``(N, S, S, 3)`` uint8 RGB, aligned.
        points: ``(N, 478, 3)`` float32 landmarks in pixels of ``images``.
        blendshapes: ``(N, 52)`` float32 in [0, 1].
        angles: ``(N, 3)`` float32 yaw, pitch and roll in degrees.
        identity: ``(N, D)`` float32 of unit length.
        emotion: ``(N, 10)`` float32: valence, arousal, eight probabilities.
        masks: ``(N, 64, 64)`` uint8, 0 to 255: the face's share of each place.
        persons: whose face it is.
        files: the photo's path inside the source folder; of a frame the video's, and ``#t=`` with the seconds.
        digests: ``(N, 32)`` uint8, the sha256 of each image's PNG; None for images that are in no folder.
        estimator: the name of the estimator that gave ``emotion``; None for images that are in no folder.
        sources, shares: of several folders that are one set (:func:`facecrafter.data.sources.joined`): ``(N,)``, from
            which of them each sample is, or None for one folder; and the share of each in a batch.
    """

    images: NDArray[np.uint8]
    points: NDArray[np.float32]
    blendshapes: NDArray[np.float32]
    angles: NDArray[np.float32]
    identity: NDArray[np.float32]
    emotion: NDArray[np.float32]
    masks: NDArray[np.uint8]
    persons: list[str]
    files: list[str]
    digests: NDArray[np.uint8] | None = None
    estimator: str | None = None
    sources: NDArray[np.int64] | None = None
    shares: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return len(self.persons)


def held_out(persons: Sequence[str], share: int = HELD_OUT_SHARE) -> NDArray[np.bool_]:
    """Which rows belong to held-out people of all training: ``(N,)``. Whole people, one in ``share``, by name."""
    place = {person: int(hashlib.sha256(person.encode()).hexdigest()[:8], 16) % share for person in set(persons)}
    return np.array([place[person] == 0 for person in persons], np.bool_)


def encode(
    face: Face,
    identity: Mapping[str, NDArray[np.float32]],
    emotion: NDArray[np.float32],
    mask: NDArray[np.uint8],
    png: bytes | None = None,
) -> tuple[bytes, bytes]:
    """A face as the bytes of its PNG and of its arrays.

    The arrays are ``points`` (478, 3) in pixels of the image, ``blendshapes`` (52,), ``pose`` (4, 4),
    ``identity_NAME`` (D,) a recogniser, ``emotion`` (10,) and ``mask`` (64, 64) uint8. A PNG of the image that there
    is already is used as it is.
    """
    packed = io.BytesIO()
    arrays: dict[str, Any] = {f"identity_{name}": vector for name, vector in identity.items()}
    arrays |= {
        "points": face.points,
        "blendshapes": face.blendshapes,
        "pose": face.pose,
        "emotion": emotion,
        "mask": mask,
    }
    np.savez(packed, **arrays)
    return png or _png(face.image), packed.getvalue()


def _png(image: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG", compress_level=3)
    return content.getvalue()


def decode(parts: Mapping[str, bytes]) -> Face:
    """The face of a sample, at its stored size.

    Raises:
        DAMAGE: the sample is not what :func:`encode` wrote.
    """
    about = json.loads(parts["json"])
    with Image.open(io.BytesIO(parts["png"]), formats=["PNG"]) as file, np.load(io.BytesIO(parts["npz"])) as arrays:
        image, box = np.asarray(file), tuple(about["box"])
        return Face(image, arrays["points"], arrays["blendshapes"], arrays["pose"], box, about["others"])


def identities(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The embeddings ``(D,)`` among a sample's arrays, by the recogniser's name."""
    return {name.removeprefix("identity_"): arrays[name] for name in arrays if name.startswith("identity_")}


def with_emotion(packed: bytes, emotion: NDArray[np.float32]) -> bytes:
    """The arrays of a sample with another emotion ``(10,)`` among them."""
    renewed = io.BytesIO()
    with np.load(io.BytesIO(packed)) as arrays:
        np.savez(renewed, **{**arrays, "emotion": emotion})
    return renewed.getvalue()


def shard_path(folder: Path, number: int, suffix: str = "tar", kind: str = "shard") -> Path:
    """The path of a shard, of the list beside it, or of what there is of one that was ``begun``."""
    return folder / f"{kind}-{number:05d}.{suffix}"


def pack(samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> bytes:
    """Samples ``(key, {suffix: content})`` as a WebDataset tar. The same samples always give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for key, parts in samples:
            for suffix, content in parts.items():
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def read_shard(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of a shard one after another, as ``(key, {suffix: content})``, undecoded."""
    with tarfile.open(path, "r:") as archive:
        members = ((entry.name.partition("."), archive.extractfile(entry)) for entry in _small(archive))
        for key, group in groupby(members, key=lambda member: member[0][0]):
            yield key, {name[2]: file.read() for name, file in group if file}


def _small(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for entry in archive:
        if entry.size > MOST_BYTES:
            raise tarfile.ReadError(f"{entry.name} is larger than any file of a shard")
        yield entry


def read_meta(folder: Path) -> dict[str, Any]:
    """The settings that a folder was prepared with.

    Raises:
        DataError: it is not a prepared folder, or of another format version.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        version = meta["format"]
        if version == FORMAT:
            _check_meta(meta)
    except (FileNotFoundError, NotADirectoryError):
        again = command("data", "prepare", "SRC", folder)
        raise DataError(f"{folder} is not a prepared folder; make one with: {again}") from None
    except DAMAGE:
        raise DataError(f"{folder / META} is damaged; make the folder again") from None
    if version != FORMAT:
        raise DataError(f"{folder} has format {version} and this version reads {FORMAT}; make the folder again")
    return meta


def _check_meta(meta: Mapping[str, Any]) -> None:
    """Refuse settings that :func:`load` cannot read by.

    Raises:
        DAMAGE: a size, a dimension or the estimator's name is missing or impossible.
    """
    if not isinstance(meta["emotion"]["name"], str):
        raise ValueError("the emotion estimator has no name")
    dimensions = [about["dimension"] for about in meta["recognisers"].values()]
    numbers = [meta["size"], *dimensions]
    if not dimensions or not all(isinstance(number, int) and 0 < number <= 8192 for number in numbers):
        raise ValueError("a size is missing or impossible")


def _check_index(columns: Mapping[str, Sequence[Any]]) -> None:
    """Refuse an index with holes, or with two rows of one key.

    Raises:
        ValueError: it has them.
    """
    if any(value is None for column in columns.values() for value in column):
        raise ValueError("a value is missing")
    if len(set(zip(columns["shard"], columns["key"], strict=True))) != len(columns["key"]):
        raise ValueError("a key is there twice")


def read_index(folder: Path) -> dict[str, list[Any]]:
    """The columns of the index by name; see :data:`INDEX_COLUMNS`.

    Raises:
        DataError: the folder was never finished, or its index is damaged.
    """
    import pyarrow.parquet

    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"{folder} is not finished; {AGAIN}, it goes on where it stopped")
    try:
        columns: dict[str, list[Any]] = pyarrow.parquet.read_table(path, columns=list(INDEX_COLUMNS)).to_pydict()
        _check_index(columns)
    except DAMAGE:
        raise DataError(f"{path} is damaged; {AGAIN} to renew it") from None
    return columns


def load(folder: Path, recogniser: str | None = None) -> Prepared:
    """Read a whole prepared folder into memory, about 55 kB an image at 128 px. Where the images take more than
    :data:`MEMORY`, they are decoded into one file in the folder's cache, which is mapped.

    Args:
        folder: what ``facecrafter data prepare`` wrote.
        recogniser: whose embeddings become ``identity``; None for the first that there is.

    Raises:
        DataError: not a prepared folder, an unfinished one, one of another format, a damaged shard, or a recogniser
            that it was not prepared for.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    recogniser = recogniser or next(iter(meta["recognisers"]))
    if recogniser not in meta["recognisers"]:
        names = ", ".join(meta["recognisers"])
        raise DataError(
            f"{folder} has no '{recogniser}' embeddings, only {names}; prepare it again with '{recogniser}'"
        )
    index = read_index(folder)
    count, size = len(index["key"]), meta["size"]
    rows: dict[int, dict[str, int]] = {}
    for row, (key, shard) in enumerate(zip(index["key"], index["shard"], strict=True)):
        rows.setdefault(shard, {})[key] = row
    shape, digests = (count, size, size, 3), np.empty((count, 32), np.uint8)
    prepared = Prepared(
        images=_unpacked(folder, rows, shape) if math.prod(shape) > MEMORY else np.empty(shape, np.uint8),
        points=np.empty((count, 478, 3), np.float32),
        blendshapes=np.empty((count, 52), np.float32),
        angles=np.stack([index["yaw"], index["pitch"], index["roll"]], axis=1).astype(np.float32),
        identity=np.empty((count, meta["recognisers"][recogniser]["dimension"]), np.float32),
        emotion=np.empty((count, 10), np.float32),
        masks=np.empty((count, MASK_SIZE, MASK_SIZE), np.uint8),
        persons=index["person"],
        files=index["file"],
        digests=digests,
        estimator=meta["emotion"]["name"],
    )

    def keep(row: int, parts: Mapping[str, bytes]) -> None:
        if not isinstance(prepared.images, np.memmap):
            _decode_image(prepared.images, row, parts)
        digests[row] = np.frombuffer(hashlib.sha256(parts["png"]).digest(), np.uint8)
        with _PARSING, np.load(io.BytesIO(parts["npz"])) as arrays:
            prepared.points[row] = arrays["points"]
            prepared.blendshapes[row] = arrays["blendshapes"]
            prepared.emotion[row] = arrays["emotion"]
            prepared.masks[row] = arrays["mask"]
            prepared.identity[row] = arrays[f"identity_{recogniser}"]

    _read_all(folder, rows, keep)
    return prepared


def _unpacked(folder: Path, rows: Mapping[int, Mapping[str, int]], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """All images ``(N, S, S, 3)`` in one file, mapped into memory: every process of a run shares the pages, and no
    more of it is read than is asked for. It is made when it is first wanted."""
    path = folder / IMAGES
    if not path.is_file():
        try:
            path.parent.mkdir(exist_ok=True)
            with whole(path, shared=True) as partial:
                _unpack(partial, folder, rows, shape)
        except OSError as error:
            raise unwritable(path, error) from None
    try:
        mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        fits = mapped.shape == shape and mapped.dtype == np.uint8
    except DAMAGE:
        fits = False
    if not fits:
        raise DataError(f"{path} is damaged; delete it, it is made again")
    return mapped


def _unpack(path: Path, folder: Path, rows: Mapping[int, Mapping[str, int]], shape: tuple[int, ...]) -> None:
    """Decode all images into a file. It is no longer mapped when this returns: Windows moves no mapped file."""
    images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    _read_all(folder, rows, lambda row, parts: _decode_image(images, row, parts))
    images.flush()


def _decode_image(images: NDArray[np.uint8], row: int, parts: Mapping[str, bytes]) -> None:
    with Image.open(io.BytesIO(parts["png"]), formats=["PNG"]) as image:
        images[row] = np.asarray(image)


def _read_all(folder: Path, rows: Mapping[int, Mapping[str, int]], keep: Keep) -> None:
    """Give every sample of every shard to a function, with its row."""
    with ThreadPoolExecutor() as pool:  # decoding PNGs releases the interpreter's lock
        list(pool.map(lambda shard: each_sample(shard_path(folder, shard), rows[shard], keep), rows))


def each_sample(path: Path, rows: Mapping[str, int], keep: Keep) -> None:
    """Give every sample of one shard to a function, with its row; DataError where it is damaged or missing."""
    try:
        missing = set(rows)
        for key, parts in read_shard(path):
            keep(rows[key], parts)
            missing.discard(key)
    except DAMAGE:
        missing = set(rows)
    if missing:
        raise DataError(f"{path} is damaged or missing; delete it and {AGAIN}") from None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        DataError: the disk is full, or the place cannot be written to.
    """
    try:
        with whole(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> DataError:
    """The error for a file that the system refuses to write."""
    why = error.strerror or str(error)
    return DataError(f"{path} cannot be written ({why}); {GO_ON}")
