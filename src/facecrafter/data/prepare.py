"""Photos and videos to a prepared folder: find, align, estimate, and write shards, in parallel and resumable."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from facecrafter import weights
from facecrafter.data import shards, video
from facecrafter.data.shards import FORMAT, INDEX, INDEX_COLUMNS, MASK_SIZE, META, REJECTED, shard_path, write_whole
from facecrafter.errors import ConfigError, DataError, FaceCrafterError, reason_of
from facecrafter.estimators import emotion_estimator, identity
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces import emotion
from facecrafter.faces.face import ALIGNED_SIZE, Choice, load_photo
from facecrafter.faces.segmentation import face_mask
from facecrafter.interruption import stating, uninterrupted_start
from facecrafter.io import LOCK, alone, name_as_text

UNPACKED = "unpacked.partial"
_KINDS_OF_FILES = (META, INDEX, REJECTED, "shard-*.tar", "shard-*.json", "begun-*.tar", "*.partial")
_GOES_ON = "run the same command again, it goes on from there"

# What a machine has run out of, whichever file was open then.
_EXHAUSTED = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})
_LESS_MEMORY = "free some, or run it again with fewer workers, it goes on from there"


@dataclass(frozen=True)
class Report:
    """What a run of :func:`prepare` did.

    Attributes:
        folder: the prepared folder.
        photos: photos and video frames found in the source: those prepared and those rejected.
        prepared: photos and frames in the shards.
        rejected: photos, frames and damaged videos listed in ``rejected.csv``.
        resumed: how many of ``photos`` an earlier run had finished.
        seconds: wall-clock time.
    """

    folder: Path
    photos: int
    prepared: int
    rejected: int
    resumed: int
    seconds: float


@dataclass(frozen=True)
class _Photo:
    """A file of the source, or a frame of a video."""

    key: str
    path: Path
    file: str  # inside the source
    person: str
    video: video.VideoSource | None = None
    images: int = 1  # a video's frames, by its header
    seconds: float | None = None  # when a frame is shown

    def at(self, seconds: float) -> _Photo:
        """A frame of this video; its name is the video's with the time as a media fragment."""
        key, file = f"{self.key}-{round(seconds * 1000):08d}", f"{self.file}#t={seconds:.3f}"
        return replace(self, key=key, file=file, images=1, seconds=seconds)


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know."""

    size: int
    choose: Choice
    recognisers: tuple[str, ...]
    arcface: Path | None
    interval: float = 1.0
    emonet: Path | None = None


@dataclass(frozen=True)
class _Row:
    """A prepared image: its row of the index, less the shard."""

    key: str
    person: str
    file: str
    yaw: float
    pitch: float
    roll: float
    valence: float
    arousal: float
    emotion: str
    others: int


@dataclass(frozen=True)
class _Accepted:
    row: _Row
    parts: dict[str, bytes]


@dataclass(frozen=True)
class _Rejected:
    file: str
    reason: str


_Result = _Accepted | _Rejected


class _Halted(DataError):
    """The machine failed, and not the photo: the run ends."""


def prepare(
    source: Path,
    out: Path,
    *,
    size: int = 128,
    workers: int = 0,
    recognisers: Sequence[str] = ("dlib",),
    arcface: Path | None = None,
    choose: Choice = "centre",
    shard_size: int = 512,
    progress: bool = True,
    overwrite: bool = False,
    interval: float = 1.0,
    emonet: Path | None = None,
) -> Report:
    """Turn photos, and frames of videos, into a prepared folder, which :func:`facecrafter.data.shards.load` reads.

    A run that was stopped goes on where it stopped when it is called again: after Ctrl-C, SIGTERM or an error with the
    file it was at, after a kill with the shard. The bytes written depend on the photos and the
    settings alone, not on the number of workers. A script calls it under ``if __name__ == "__main__":``, as workers are
    spawned.

    Args:
        source: a folder of people (``Name/photo.jpg``), of loose photos (each its own person), or a tar or zip of one,
            with videos in place of photos or among them.
            A photo's person is the name of the folder it lies in; whose videos are whose is told in
            :func:`facecrafter.data.video.source`, which knows MEAD's folders.
        out: a new or empty folder, or one that the same command has begun.
        size: side of the stored images in pixels, 32 to 1024.
        workers: processes, each with one thread; 0 for one a core, 1 for none beside this one.
        recognisers: whose embeddings to store: ``sface``, ``dlib``, ``arcface``.
        arcface: the path of ``arcface.onnx``, if that recogniser is asked for.
        choose: which of several faces is meant.
        shard_size: images a shard. A video is never divided between two.
        progress: show a bar on the terminal.
        overwrite: clear what an earlier run has prepared in ``out``, instead of going on with it.
        interval: seconds from one frame of a video to the next that is taken.
        emonet: EmoNet's file, to read emotions with it in place of the project's own estimator.

    Raises:
        DataError: no photos, not one face, ``out`` is something else or was begun with other settings, or cannot be
            written (a full disk); or memory, open files or the like ran out.
        ConfigError: a setting out of its range, or another preparation is going on in ``out``.
        WeightsError: a recogniser that is unknown or whose weights are missing.
        KeyboardInterrupt: after Ctrl-C, with a note that says how many files are done.
    """
    start, source, out = time.monotonic(), Path(source), Path(out)
    job = _Job(size, choose, tuple(dict.fromkeys(recognisers)), arcface, interval, emonet)
    _check(job, workers, shard_size)
    _check_folders(source, out)
    with alone(out, "preparation"), _memory_told(), _photos_of(source, out, interval) as photos:
        _begin(out, _settings(job, shard_size, photos), overwrite)
        parts = _parts(photos, shard_size)
        with stating(lambda: _kept(out, parts)):
            made = _prepare_all(job, out, parts, workers, progress)
            prepared, rejected = _write_index(out, len(parts))
        _clear_begun(out)
    if not prepared:
        raise DataError(f"not one of the {rejected} files in {source} gave a face; {out / REJECTED} says why")
    total = prepared + rejected
    return Report(out, total, prepared, rejected, total - made, time.monotonic() - start)


def _prepare_all(job: _Job, out: Path, parts: list[list[_Photo]], workers: int, progress: bool) -> int:
    """Write every shard that is not there yet; how many images and rejections are new."""
    todo = [number for number in range(len(parts)) if not _finished(out, number)]
    begun = {number: _read_begun(out, number, parts[number]) for number in todo}
    left = {number: parts[number][len(begun[number]) :] for number in todo}
    images, open_images = sum(map(_count_images, parts)), sum(map(_count_images, left.values()))
    if todo:  # what training unpacked before is no longer all
        (out / shards.IMAGES).unlink(missing_ok=True)
    # A worker takes seconds to start, so a few photos do not pay for one.
    count = workers or max(1, min(os.cpu_count() or 1, open_images // 32))
    made = 0
    with (
        _bar(progress, images, images - open_images) as advance,
        _readers(job, count if open_images else 1) as read,
    ):
        for number in todo:
            found = begun.pop(number)
            with _kept_when_stopped(out, number, found):
                for photo, results in zip(left[number], read(left[number]), strict=True):
                    found.append(advance(photo, results))
                    made += len(results)
                _write_shard(out, number, list(chain.from_iterable(found)))
    return made


def renew_emotions(folder: Path, emonet: Path | None = None, progress: bool = True) -> Report:
    """Ask the emotion estimator again about the faces of a prepared folder, and leave all else as it is.

    It sees the images as they are stored. A killed run goes on where it stopped; until it is done, the folder counts
    as unfinished.

    Args:
        folder: what :func:`prepare` finished.
        emonet: EmoNet's file, in place of the project's own estimator.
        progress: show a bar on the terminal.

    Raises:
        DataError: not a prepared folder, an unfinished one, a damaged shard, or a folder that cannot be written.
        ConfigError: another preparation is going on in it.
        WeightsError: EmoNet's file is missing, damaged or another one.
    """
    start, folder = time.monotonic(), Path(folder)
    shards.read_meta(folder)  # what is no prepared folder gets no lock
    with alone(folder, "preparation"):
        estimator = emotion_estimator.estimator(emonet)
        with stating(lambda: _renewed(folder, estimator)):
            prepared, rejected, made = _renew_all(folder, estimator, progress)
    return Report(folder, prepared, prepared, rejected, prepared - made, time.monotonic() - start)


def _renew_all(folder: Path, estimator: emotion_estimator.EmotionEstimator, progress: bool) -> tuple[int, int, int]:
    """Rewrite every shard's emotions; how many images and rejected files there are, and how many are new."""
    from tqdm import tqdm

    meta, asked = shards.read_meta(folder), _about_estimator(estimator)
    begun = {**asked, "unfinished": True}
    if not meta["emotion"].get("unfinished"):
        shards.read_index(folder)  # whoever has none was never finished
    if meta["emotion"] != begun:
        write_whole(folder / META, (json.dumps({**meta, "emotion": begun}, indent=2) + "\n").encode())
    # While there is no index, the folder is not finished.
    (folder / INDEX).unlink(missing_ok=True)
    parts = len(list(folder.glob("shard-*.tar")))
    made = 0
    for number in tqdm(range(parts), desc="emotions", unit="shard", disable=not progress):
        beside = _read_list(folder, number)
        if beside.get("emotion") == asked:
            continue
        felt = _renew_shard(folder, number, estimator)
        for row in beside["rows"]:
            one = felt[row["key"]]
            row |= {"valence": one.valence, "arousal": one.arousal, "emotion": one.label}
        write_whole(shard_path(folder, number, "json"), (json.dumps({**beside, "emotion": asked}) + "\n").encode())
        made += len(felt)
    prepared, rejected = _write_index(folder, parts)
    write_whole(folder / META, (json.dumps({**meta, "emotion": asked}, indent=2) + "\n").encode())
    return prepared, rejected, made


def _renewed(folder: Path, estimator: emotion_estimator.EmotionEstimator) -> str:
    """How many shards have the estimator's emotions, for a run that was stopped."""
    asked, lists, done = _about_estimator(estimator), list(folder.glob("shard-*.json")), 0
    for path in lists:
        with suppress(*shards.DAMAGE):  # which is an error of its own where the work comes to it
            done += json.loads(path.read_text(encoding="utf-8")).get("emotion") == asked
    return f"the emotions of {done} of {len(lists)} shards in {folder} are new; {_GOES_ON}"


def _renew_shard(
    folder: Path, number: int, estimator: emotion_estimator.EmotionEstimator
) -> dict[str, emotion.Emotion]:
    """Rewrite one shard's emotions; what they are now, by key."""
    path = shard_path(folder, number)
    try:
        samples = list(shards.read_shard(path))
        faces = [shards.decode(parts) for _, parts in samples]
    except shards.DAMAGE as error:
        raise DataError(f"{path} is damaged ({reason_of(error)}); delete it and prepare the folder again") from None
    felt = estimator.estimate(faces)
    renewed = [
        (key, {**parts, "npz": shards.with_emotion(parts["npz"], one.vector)})
        for (key, parts), one in zip(samples, felt, strict=True)
    ]
    write_whole(path, shards.pack(renewed))
    return {key: one for (key, _), one in zip(samples, felt, strict=True)}


def _check(job: _Job, workers: int, shard_size: int) -> None:
    if not 32 <= job.size <= 1024:
        raise ConfigError(f"size {job.size} is outside 32 to 1024 pixels")
    if workers < 0:
        raise ConfigError(f"workers {workers} is negative; 0 means one a core")
    if shard_size < 1:
        raise ConfigError(f"shard_size {shard_size} must be at least 1 photo")
    if job.choose not in get_args(Choice):
        raise ConfigError(f"choose '{job.choose}' is not one of {', '.join(get_args(Choice))}")
    if not job.recognisers:
        raise ConfigError("recognisers is empty; name at least one, such as sface")
    video.check_interval(job.interval)


def _count_images(photos: Iterable[_Photo]) -> int:
    return sum(photo.images for photo in photos)


def _parts(photos: list[_Photo], shard_size: int) -> list[list[_Photo]]:
    """The files of each shard, in order: as many as promise ``shard_size`` images, and always one."""
    parts: list[list[_Photo]] = []
    room = 0
    for photo in photos:
        if not parts or photo.images > room:
            parts.append([])
            room = shard_size
        parts[-1].append(photo)
        room -= photo.images
    return parts


# --- the source -------------------------------------------------------------------------------------------------------


def _check_folders(source: Path, out: Path) -> None:
    """Refuse a source that is not there or empty, and an ``out`` that is something else than a prepared folder."""
    if not source.exists():
        raise DataError(f"there is no folder or archive {source}")
    if not source.is_dir() and not source.is_file():
        raise DataError(f"{source} is a pipe or a device; name a folder or an archive")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} lies inside {source}, whose photos it is made from; name a folder outside it")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder to prepare into")
    begun = not out.is_dir() or (out / META).is_file()
    if not begun and any(path.suffix != ".partial" and path.name != LOCK for path in out.iterdir()):
        raise DataError(f"{out} is not empty and not a prepared folder; name a new one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise shards.unwritable(out, error) from None
    if source.is_dir() and next(_seen(source), None) is None:
        raise DataError(f"there are no photos in {source}")


@contextmanager
def _photos_of(source: Path, out: Path, interval: float) -> Iterator[list[_Photo]]:
    """The files of a source in a fixed order; an archive is unpacked into ``out`` for as long as it takes."""
    unpacked = out / UNPACKED
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        # Folders called as the archive and where it lies, since they may be what names a video's person.
        place = unpacked / source.resolve().parent.name / source.name.partition(".")[0]
        folder = source if source.is_dir() else _unpack(source, place)
        photos = _list_photos(folder, interval)
        if not photos:
            raise DataError(f"there are no photos in {source}")
        yield photos
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _unpack(source: Path, folder: Path) -> Path:
    """Unpack a tar or zip, and name the folder that holds its photos or people."""
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as zipped:
                zipped.extractall(folder)
        elif tarfile.is_tarfile(source):
            with tarfile.open(source) as tarred:
                _extract(tarred, folder)
        else:
            raise DataError(f"{source} is neither a folder nor a tar or zip archive of photos")
    except DataError:
        raise
    except shards.DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise shards.unwritable(folder, error) from None
        raise DataError(
            f"{source} is a damaged archive ({reason_of(error)}); fetch it again, or unpack it and name the folder"
        ) from None
    inside = [path for path in folder.iterdir() if not _hidden(path.name)] if folder.is_dir() else []
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Write a tar's files into a folder, and nothing outside it. Links become copies of what they point to in the
    archive. The filter of ``extractall`` does the like, but Debian 12's Python, 3.11.2, is too old to have it.

    Raises:
        TarError: a file's name leads out of the folder.
    """
    root = folder.resolve()
    for member in archive:
        target = (root / member.name.lstrip("/")).resolve()
        if not target.is_relative_to(root):
            raise tarfile.TarError(f"{member.name} would lie outside of it")
        try:
            content = archive.extractfile(member)
        except KeyError:  # a link to what the archive does not hold
            continue
        if content is None:  # a folder or a device
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, open(target, "wb") as file:
            shutil.copyfileobj(content, file)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _seen(folder: Path) -> Iterator[Path]:
    """Every file of a folder that is not hidden."""
    for place, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if not _hidden(name)]
        yield from (Path(place, name) for name in files if not _hidden(name))


def _list_photos(folder: Path, interval: float) -> list[_Photo]:
    """Every file that is not hidden, sorted by its path; its number in that order is its key."""
    photos = []
    for number, (file, path) in enumerate(
        sorted((path.relative_to(folder).as_posix(), path) for path in _seen(folder))
    ):
        key, film = f"{number:08d}", video.source(folder, path)
        if film is not None:
            frames = video.expected_frames(path, interval)
            photos.append(_Photo(key, path, name_as_text(file), name_as_text(film.person), film, frames))
        else:
            person = path.stem if path.parent == folder else path.parent.name
            photos.append(_Photo(key, path, name_as_text(file), name_as_text(person)))
    return photos


# --- the settings, and whether the folder was begun with them ---------------------------------------------------------


def _settings(job: _Job, shard_size: int, photos: list[_Photo]) -> dict[str, Any]:
    """What ``meta.json`` says. Two runs may share a folder only if they agree in all of it."""
    names = hashlib.sha256()
    for photo in photos:
        size = photo.path.stat().st_size if photo.path.exists() else -1  # a link to nothing
        names.update(f"{photo.file}\0{size}\0".encode())
        if photo.video is not None:  # which decides what the shards hold
            names.update(f"{photo.images}\0".encode())
    return {
        "format": FORMAT,
        "size": job.size,
        "choose": job.choose,
        "shard_size": shard_size,
        **({"interval": job.interval} if any(photo.video is not None for photo in photos) else {}),
        "mask_size": MASK_SIZE,
        "recognisers": {
            name: {
                "dimension": identity.recogniser(name, job.arcface).dimension,
                "sha256": weights.WEIGHTS[name].sha256
                if name in weights.WEIGHTS
                else weights.sha256(Path(job.arcface or "")),
            }
            for name in job.recognisers
        },
        "landmarks": {"name": "face_landmarker", "sha256": weights.WEIGHTS["face_landmarker"].sha256},
        "emotion": _about_estimator(emotion_estimator.estimator(job.emonet)),
        "photos": {"count": len(photos), "sha256": names.hexdigest()},
    }


def _begin(out: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Write ``meta.json``, or see that the one there says the same."""
    if overwrite:
        for kind in _KINDS_OF_FILES:
            for path in out.glob(kind):
                if path.name != UNPACKED:
                    path.unlink()
    if not (out / META).is_file():
        write_whole(out / META, (json.dumps(settings, indent=2) + "\n").encode())
        return
    before = shards.read_meta(out)
    for name, value in settings.items():
        if before.get(name) != value:
            raise DataError(
                f"{out} was begun {_difference(name, before.get(name), value)}; name another folder, or overwrite it"
            )


def _about_estimator(estimator: emotion_estimator.EmotionEstimator) -> dict[str, Any]:
    return {"name": estimator.name, "sha256": weights.sha256(estimator.path)}


def _difference(name: str, before: Any, now: Any) -> str:
    if name == "photos":
        return "from other photos than there are now"
    if not isinstance(before, dict):
        return f"with {name} {before}, not {now}"
    if name == "recognisers" and list(before) != list(now):
        return f"with the recognisers {', '.join(before)}, not {', '.join(now)}"
    if name == "emotion":
        return "with another emotion estimator (`data prepare DIR --only emotion` renews what it said)"
    return f"with other weights for {name}"


# --- one file ---------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads photos and videos, one at a time."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._finder = FaceFinder()
        self._recognisers = {name: identity.recogniser(name, job.arcface) for name in job.recognisers}
        self._estimator = emotion_estimator.estimator(job.emonet)

    def close(self) -> None:
        self._finder.close()

    def read(self, photo: _Photo) -> list[_Result]:
        """The rows and files of a photo or of a video's frames, or why there are none. Nothing that a photo, frame or
        video can do stops the rest.

        Raises:
            DataError: the machine failed.
        """
        if photo.video is None:
            return [_guarded(photo, lambda: self._accept(photo, load_photo(photo.path)))]
        results: list[_Result] = []
        try:
            for seconds, image in video.frames(photo.path, self._job.interval):
                _stay()
                results.append(self._read_frame(photo.at(seconds), image))
        except _Halted:
            raise
        except Exception as error:
            results.append(_rejected(photo, error))
        return results

    def _read_frame(self, frame: _Photo, image: NDArray[np.uint8]) -> _Result:
        return _guarded(frame, lambda: self._accept(frame, image))

    def _accept(self, photo: _Photo, image: NDArray[np.uint8]) -> _Accepted:
        size = self._job.size
        aligned = self._finder.find(image, max(ALIGNED_SIZE, size), self._job.choose, photo.path)
        face, stored = aligned.resized(ALIGNED_SIZE), aligned.resized(size)
        felt = self._estimator.estimate([face])[0]
        mask = np.round(face_mask(face, MASK_SIZE) * 255).astype(np.uint8)
        embeddings = {name: network.embed([face])[0] for name, network in self._recognisers.items()}
        png, arrays = shards.encode(stored, embeddings, felt.vector, mask)
        about = {"person": photo.person, "file": photo.file, "box": list(face.box), "others": face.others}
        if photo.video is not None:
            film = photo.video
            about["video"] = {"seconds": photo.seconds, "emotion": film.emotion, "level": film.level, "view": film.view}
        row = _Row(
            photo.key, photo.person, photo.file, *face.angles, felt.valence, felt.arousal, felt.label, face.others
        )  # fmt: skip
        return _Accepted(row, {"png": png, "npz": arrays, "json": json.dumps(about).encode()})


def _guarded(photo: _Photo, read: Callable[[], _Accepted]) -> _Result:
    try:
        return read()
    except Exception as error:
        return _rejected(photo, error)


def _rejected(photo: _Photo, error: Exception) -> _Rejected:
    """Why a photo, frame or video was left out, under its name inside the source.

    Raises:
        DataError: the machine failed, and not the photo.
    """
    # What reads photos and videos tells in its own words what the system said of one.
    cause = error.__context__ if isinstance(error, FaceCrafterError) else error
    if isinstance(cause, MemoryError):
        raise _Halted(f"memory ran out at {photo.file}; {_LESS_MEMORY}") from None
    if isinstance(cause, OSError) and cause.errno is not None:
        its_own = cause is not error or str(cause.filename) == str(photo.path)
        if cause.errno in _EXHAUSTED or not its_own:
            raise _Halted(f"preparation stopped at {photo.file} ({cause.strerror}); {shards.GO_ON}") from None
    reason = str(error)
    if not isinstance(error, FaceCrafterError):  # a library that chokes on one image of thousands
        reason = f"{photo.path} cannot be used: {type(error).__name__}: {error}"
    return _Rejected(photo.file, reason.replace(str(photo.path), photo.file))


# --- many at once -----------------------------------------------------------------------------------------------------

_reader: _Reader | None = None  # a worker's own
_leaving = False  # whether it was asked to end
_LAST_SECONDS = 5.0  # until it is ended where it does not come to a place to do so


def _start_worker(job: _Job) -> None:
    global _reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent sees to it
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"
    _use_one_thread()
    _reader = _Reader(job)


def _leave_with_parent() -> None:
    """End a worker whose parent was killed: the pool's queue would keep it waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    """Let a worker give up its work, see :func:`_stay`. If it was ended here, then perhaps while it sends a result, and
    the pool would wait for the other half for ever; and a pool that breaks while it is shut down prints a traceback."""
    global _leaving
    _leaving = True
    timer = threading.Timer(_LAST_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _stay() -> None:
    """Between two photos or frames.

    Raises:
        DataError: this worker was asked to end.
    """
    if _leaving:
        raise _Halted(f"a worker process was ended; {shards.GO_ON}")


def _use_one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)
    os.environ["FACECRAFTER_WORKER"] = "1"


def _read(photo: _Photo) -> list[_Result]:
    assert _reader is not None
    _stay()
    return _reader.read(photo)


@contextmanager
def _readers(job: _Job, workers: int) -> Iterator[Callable[[list[_Photo]], Iterable[list[_Result]]]]:
    """A function that reads files in order, in this process or in several."""
    if workers == 1:
        with _single_thread():
            reader = _Reader(job)
            try:
                yield lambda photos: map(reader.read, photos)
            finally:
                reader.close()
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (job,))

    def read(photos: list[_Photo]) -> Iterator[list[_Result]]:
        with uninterrupted_start():  # a worker that still imports would answer Ctrl-C with a traceback
            return pool.map(_read, photos, chunksize=4)

    try:
        yield read
    except KeyboardInterrupt:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()  # see _leave; it may be at a long video, which is read again
        raise
    except BrokenProcessPool:
        raise DataError(
            "a worker process died, perhaps for memory; run it again with fewer workers, it goes on from there"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _memory_told() -> Iterator[None]:
    """Tell in one sentence that memory ran out."""
    try:
        yield
    except MemoryError:
        raise DataError(f"memory ran out; {_LESS_MEMORY}") from None


@contextmanager
def _single_thread() -> Iterator[None]:
    """The same arithmetic as in a worker, and this process as it was afterwards."""
    import cv2

    threads, mark = cv2.getNumThreads(), os.environ.get("FACECRAFTER_WORKER")
    _use_one_thread()
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        if mark is None:
            del os.environ["FACECRAFTER_WORKER"]


@contextmanager
def _bar(show: bool, total: int, done: int) -> Iterator[Callable[[_Photo, list[_Result]], list[_Result]]]:
    """A progress bar on the terminal; its function counts what came of a file and hands it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("preparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("preparing", total=total, completed=done, note="")
        rejected = 0

        def advance(photo: _Photo, results: list[_Result]) -> list[_Result]:
            nonlocal rejected
            rejected += sum(isinstance(result, _Rejected) for result in results)
            bar.update(task, advance=photo.images, note=f"{rejected} rejected" if rejected else "")
            return results

        yield advance


# --- the folder -------------------------------------------------------------------------------------------------------


def _finished(out: Path, number: int) -> bool:
    return shard_path(out, number).is_file() and shard_path(out, number, "json").is_file()


def _write_shard(out: Path, number: int, results: list[_Result]) -> None:
    """Write a shard and the list beside it. The tar comes last: while it is missing, the shard is not done."""
    accepted = [result for result in results if isinstance(result, _Accepted)]
    rejected = [result for result in results if isinstance(result, _Rejected)]
    beside = {"rows": [asdict(result.row) for result in accepted], "rejected": [asdict(result) for result in rejected]}
    write_whole(shard_path(out, number, "json"), (json.dumps(beside) + "\n").encode())
    write_whole(shard_path(out, number), shards.pack((result.row.key, result.parts) for result in accepted))


def _read_list(out: Path, number: int) -> dict[str, Any]:
    """The list beside a shard.

    Raises:
        DataError: it is damaged.
    """
    path = shard_path(out, number, "json")
    try:
        beside = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(_Row)}
        if not all(row.keys() == names for row in beside["rows"]):
            raise ValueError("a row has other columns")
        if not all(row.keys() == {"file", "reason"} for row in beside["rejected"]):
            raise ValueError("a rejected file has other columns")
    except shards.DAMAGE:
        raise DataError(f"{path} is damaged; delete it and prepare the folder again") from None
    return dict(beside)


@contextmanager
def _kept_when_stopped(out: Path, number: int, found: list[list[_Result]]) -> Iterator[None]:
    """Keep what was found for a shard, a list a file, where something ends the work on it. What is there was written
    whole; where it cannot be written, or somebody does not want to wait for it, an earlier one stays."""
    try:
        yield
    except BaseException:
        if found and not _finished(out, number):
            with suppress(DataError, MemoryError):  # a full disk, say, of which the first error tells
                write_whole(shard_path(out, number, kind="begun"), _pack_begun(found))
        raise


def _pack_begun(found: list[list[_Result]]) -> bytes:
    """What was found for a shard so far: first a list of its files' rows and rejections, then the accepted samples."""
    listed = [[{"rejected": isinstance(one, _Rejected), **_listed(one)} for one in results] for results in found]
    accepted = [one for one in chain.from_iterable(found) if isinstance(one, _Accepted)]
    samples = ((one.row.key, one.parts) for one in accepted)
    return shards.pack(chain([("found", {"json": json.dumps(listed).encode()})], samples))


def _listed(result: _Result) -> dict[str, Any]:
    return asdict(result if isinstance(result, _Rejected) else result.row)


def _read_begun(out: Path, number: int, photos: list[_Photo]) -> list[list[_Result]]:
    """What was found for a shard before the work on it was ended, a list a file; empty where nothing was, or what is
    there is damaged or of other files."""
    path, found = shard_path(out, number, kind="begun"), []
    try:
        samples = shards.read_shard(path)
        listed = json.loads(next(samples)[1]["json"])
        parts = dict(samples)
        for results in listed:
            found.append([_unlisted(one, parts) for one in results])
    except (*shards.DAMAGE, StopIteration, TypeError):
        return []
    return found if len(found) <= len(photos) else []


def _unlisted(listed: dict[str, Any], parts: dict[str, dict[str, bytes]]) -> _Result:
    """What :func:`_listed` wrote, with its sample."""
    values = dict(listed)
    if values.pop("rejected"):
        return _Rejected(**values)
    row = _Row(**values)
    return _Accepted(row, parts[row.key])


def _clear_begun(out: Path) -> None:
    """Delete what is no longer needed once all shards are written."""
    for path in out.glob("begun-*.tar*"):
        path.unlink()


def _kept(out: Path, parts: list[list[_Photo]]) -> str:
    """How many of the source's files the folder has the results of, for a run that was stopped."""
    done = sum(
        len(photos) if _finished(out, number) else len(_read_begun(out, number, photos))
        for number, photos in enumerate(parts)
    )
    return f"{done} of {sum(map(len, parts))} files are done and kept in {out}; {_GOES_ON}"


def _write_index(out: Path, parts: int) -> tuple[int, int]:
    """Gather the lists beside the shards into the index and ``rejected.csv``; how many rows each has."""
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    for number in range(parts):
        beside = _read_list(out, number)
        rows.extend({"shard": number, **row} for row in beside["rows"])
        rejected.extend(beside["rejected"])
    listed = io.StringIO()
    writer = csv.DictWriter(listed, ["file", "reason"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rejected)
    write_whole(out / REJECTED, listed.getvalue().encode())
    if rows:
        schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in INDEX_COLUMNS.items()])
        index = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), index)
        write_whole(out / INDEX, index.getvalue())
    return len(rows), len(rejected)
