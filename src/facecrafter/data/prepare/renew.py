"""The emotions of a prepared folder, estimated again."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from facecrafter.data import shards
from facecrafter.data.prepare.folder import GOES_ON, about_estimator, read_list, write_index
from facecrafter.data.prepare.run import Report
from facecrafter.data.shards import INDEX, META, shard_path, write_whole
from facecrafter.errors import DataError
from facecrafter.estimators import emotion_estimator
from facecrafter.faces import emotion
from facecrafter.faces.face import Face
from facecrafter.interruption import stating
from facecrafter.io import alone


def renew_emotions(folder: Path, emonet: Path | None = None, progress: bool = True) -> Report:
    """Ask the emotion estimator again about the faces of a prepared folder, and leave all else as it is.

    It sees the images as they are stored. A killed run goes on where it stopped; until it is done, the folder counts
    as unfinished.

    Args:
        folder: what :func:`facecrafter.data.prepare.run.prepare` finished.
        emonet: EmoNet's file, in place of the project's own estimator.
        progress: show a bar on the terminal.

    Raises:
        DataError: not a prepared folder, an unfinished one, a data set of ``dataset make``, a damaged shard, or a
            folder that cannot be written.
        ConfigError: another preparation is going on in it.
        WeightsError: EmoNet's file is missing, damaged or another one.
    """
    start, folder = time.monotonic(), Path(folder)
    meta = shards.read_meta(folder)  # what is no prepared folder gets no lock
    if "dataset" in meta:
        raise DataError(
            f"{folder} is a data set of 'dataset make', whose images were chosen by their emotions; to have them "
            "chosen by the project's estimator as it is now, make the set again in a new folder"
        )
    with alone(folder, "preparation"):
        estimator = emotion_estimator.estimator(emonet)
        with stating(lambda: _renewed(folder, estimator)):
            prepared, rejected, made = _renew_all(folder, estimator, progress)
    return Report(folder, prepared, prepared, rejected, prepared - made, time.monotonic() - start)


def _renew_all(folder: Path, estimator: emotion_estimator.EmotionEstimator, progress: bool) -> tuple[int, int, int]:
    """Rewrite every shard's emotions; how many images and rejected files there are, and how many are new."""
    from tqdm import tqdm

    meta, asked = shards.read_meta(folder), about_estimator(estimator)
    begun = {**asked, "unfinished": True}
    indexed: list[int] = []
    if not meta["emotion"].get("unfinished"):
        indexed = shards.read_index(folder)["shard"]  # whoever has none was never finished
    parts = _check_shards(folder, asked, max(indexed, default=-1) + 1)
    if meta["emotion"] != begun:
        write_whole(folder / META, (json.dumps({**meta, "emotion": begun}, indent=2) + "\n").encode())
    # While there is no index, the folder is not finished.
    (folder / INDEX).unlink(missing_ok=True)
    made = 0
    for number in tqdm(range(parts), desc="emotions", unit="shard", disable=not progress):
        beside = read_list(folder, number)
        if beside.get("emotion") == asked:
            continue
        emotions = _renew_shard(folder, number, estimator)
        for row in beside["rows"]:
            one = emotions[row["key"]]
            row |= {"valence": one.valence, "arousal": one.arousal, "emotion": one.label}
        write_whole(shard_path(folder, number, "json"), (json.dumps({**beside, "emotion": asked}) + "\n").encode())
        made += len(emotions)
    prepared, rejected = write_index(folder, parts)
    write_whole(folder / META, (json.dumps({**meta, "emotion": asked}, indent=2) + "\n").encode())
    return prepared, rejected, made


def _check_shards(folder: Path, asked: dict[str, Any], indexed: int) -> int:
    """How many shards there are, all of which can be read. It comes before anything is written, for a folder whose
    emotions are renewed in part is one that the command that made it does not go on with.

    Args:
        folder: the prepared folder.
        asked: whose emotions are wanted; shards that have them are not read again.
        indexed: how many shards the index knows of.

    Raises:
        DataError: one is damaged or missing.
    """
    names = {path.stem for suffix in ("tar", "json") for path in folder.glob(f"shard-*.{suffix}")}
    parts = max(len(names), indexed)
    for number in range(parts):
        try:
            beside = read_list(folder, number)
        except DataError:
            raise _damaged(shard_path(folder, number, "json")) from None
        path = shard_path(folder, number)
        if beside.get("emotion") == asked and path.is_file():
            continue
        if [key for key, _ in _read_shard(path)[0]] != [row["key"] for row in beside["rows"]]:
            raise _damaged(path)
    return parts


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged or missing; delete it and {shards.AGAIN}, with --overwrite if that is refused")


def _renewed(folder: Path, estimator: emotion_estimator.EmotionEstimator) -> str:
    """How many shards have the estimator's emotions, for a run that was stopped."""
    asked, lists, done = about_estimator(estimator), list(folder.glob("shard-*.json")), 0
    for path in lists:
        with suppress(*shards.DAMAGE):  # which is an error of its own where the work comes to it
            done += json.loads(path.read_text(encoding="utf-8")).get("emotion") == asked
    return f"the emotions of {done} of {len(lists)} shards in {folder} are new; {GOES_ON}"


def _renew_shard(
    folder: Path, number: int, estimator: emotion_estimator.EmotionEstimator
) -> dict[str, emotion.Emotion]:
    """Rewrite one shard's emotions; what they are now, by key."""
    path = shard_path(folder, number)
    samples, faces = _read_shard(path)
    emotions = estimator.estimate(faces)
    renewed = [
        (key, {**parts, "npz": shards.with_emotion(parts["npz"], one.vector)})
        for (key, parts), one in zip(samples, emotions, strict=True)
    ]
    write_whole(path, shards.pack(renewed))
    return {key: one for (key, _), one in zip(samples, emotions, strict=True)}


def _read_shard(path: Path) -> tuple[list[tuple[str, dict[str, bytes]]], list[Face]]:
    """The samples of a shard, and their faces.

    Raises:
        DataError: it is damaged or missing.
    """
    try:
        samples = list(shards.read_shard(path))
        return samples, [shards.decode(parts) for _, parts in samples]
    except shards.DAMAGE:
        raise _damaged(path) from None
