"""A prepared folder while it is written: its settings, its shards, and what is kept of one that was begun."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import Any

from facecrafter import weights
from facecrafter.data import shards
from facecrafter.data.prepare.reader import Accepted, Job, Rejected, Result, Row
from facecrafter.data.prepare.source import UNPACKED, Photo, holds_other_files
from facecrafter.data.shards import FORMAT, INDEX, INDEX_COLUMNS, MASK_SIZE, META, REJECTED, shard_path, write_whole
from facecrafter.errors import DataError
from facecrafter.estimators import emotion_estimator, identity

_KINDS_OF_FILES = (META, INDEX, REJECTED, "shard-*.tar", "shard-*.json", "begun-*.tar", "*.partial")
GOES_ON = "run the same command again, it goes on from there"


def settings_of(job: Job, shard_size: int, photos: list[Photo]) -> dict[str, Any]:
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
        "emotion": about_estimator(emotion_estimator.estimator(job.emonet)),
        "photos": {"count": len(photos), "sha256": names.hexdigest()},
    }


def begin(out: Path, settings: dict[str, Any], overwrite: bool) -> None:
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
            differs = _difference(name, before, settings)
            raise DataError(f"{out} was begun {differs}; name another folder, or give --overwrite")


def check_kind(out: Path, kind: str, what: str) -> None:
    """Refuse an ``out`` that is something else than a folder of one command.

    Args:
        out: where it is to write.
        kind: what its settings have, and no other command's.
        what: is made, for the messages.

    Raises:
        DataError: it is a file, holds something else, or was made by another command.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder for {what}")
    if holds_other_files(out):
        raise DataError(f"{out} is not empty and no folder of {what}; name a new one")
    if (out / META).is_file() and kind not in shards.read_meta(out):
        raise DataError(f"{out} is another kind of prepared folder; name a new one for {what}")


def about_estimator(estimator: emotion_estimator.EmotionEstimator) -> dict[str, Any]:
    """What ``meta.json`` has of an estimator."""
    return {"name": estimator.name, "sha256": weights.sha256(estimator.path)}


def _difference(name: str, begun: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """In what the setting of a name differs."""
    before, now = begun.get(name), settings[name]
    if name == "photos":
        return "from other photos than there are now"
    if not isinstance(before, dict):
        return f"with {name} {before}, not {now}"
    if name == "recognisers" and list(before) != list(now):
        return f"with the recognisers {', '.join(before)}, not {', '.join(now)}"
    if name == "synthesis" and before.get("seed") != now["seed"]:
        return f"with the seed {before.get('seed')}, not {now['seed']}"
    if name == "synthesis" and before.get("directions") != now["directions"]:
        return "with another file of directions"
    if name == "synthesis" and before.get("generator") == now["generator"]:
        return "by another version, which chose people otherwise"
    if name == "warped":
        part = next((part for part in ("seed", "copies") if before.get(part) != now[part]), None)
        return f"with {part} {before.get(part)}, not {now[part]}" if part else "by another version, or with another rig"
    if name == "emotion" and "dataset" in begun:  # whose images were chosen by it
        return "with another emotion estimator"
    if name == "emotion":
        return "with another emotion estimator (`data prepare DIR --only emotion` renews its labels)"
    return f"with other weights for {name}"


def is_finished(out: Path, number: int) -> bool:
    """Whether a shard and the list beside it are there."""
    return shard_path(out, number).is_file() and shard_path(out, number, "json").is_file()


def write_shard(out: Path, number: int, results: list[Result], more: Mapping[str, Any] | None = None) -> None:
    """Write a shard and the list beside it, which may say ``more``. The tar comes last, and one that is there goes
    first: while it is missing, the shard is not done."""
    accepted = [result for result in results if isinstance(result, Accepted)]
    rejected = [result for result in results if isinstance(result, Rejected)]
    rows, reasons = [asdict(result.row) for result in accepted], [asdict(result) for result in rejected]
    beside = {"rows": rows, "rejected": reasons, **(more or {})}
    try:
        shard_path(out, number).unlink(missing_ok=True)
    except OSError as error:
        raise shards.unwritable(shard_path(out, number), error) from None
    write_whole(shard_path(out, number, "json"), (json.dumps(beside) + "\n").encode())
    write_whole(shard_path(out, number), shards.pack((result.row.key, result.parts) for result in accepted))


def read_list(out: Path, number: int) -> dict[str, Any]:
    """The list beside a shard.

    Raises:
        DataError: it is damaged.
    """
    path = shard_path(out, number, "json")
    try:
        beside = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(Row)}
        if not all(row.keys() == names for row in beside["rows"]):
            raise ValueError("a row has other columns")
        if not all(row.keys() == {"file", "reason"} for row in beside["rejected"]):
            raise ValueError("a rejected file has other columns")
    except shards.DAMAGE:
        raise DataError(f"{path} is damaged; delete it and {shards.AGAIN}") from None
    return dict(beside)


@contextmanager
def kept_when_stopped(out: Path, number: int, found: list[list[Result]]) -> Iterator[None]:
    """Keep what was found for a shard, a list a file, where something ends the work on it. What is there was written
    whole; where it cannot be written, or somebody does not want to wait for it, an earlier one stays."""
    try:
        yield
    except BaseException:
        if found and not is_finished(out, number):
            with suppress(DataError, MemoryError):  # a full disk, say, of which the first error tells
                write_whole(shard_path(out, number, kind="begun"), _pack_begun(found))
        raise


def _pack_begun(found: list[list[Result]]) -> bytes:
    """What was found for a shard so far: first a list of its files' rows and rejections, then the accepted samples."""
    listed = [[{"rejected": isinstance(one, Rejected), **_listed(one)} for one in results] for results in found]
    accepted = [one for one in chain.from_iterable(found) if isinstance(one, Accepted)]
    samples = ((one.row.key, one.parts) for one in accepted)
    return shards.pack(chain([("found", {"json": json.dumps(listed).encode()})], samples))


def _listed(result: Result) -> dict[str, Any]:
    return asdict(result if isinstance(result, Rejected) else result.row)


def read_begun(out: Path, number: int, photos: list[Photo]) -> list[list[Result]]:
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


def _unlisted(listed: dict[str, Any], parts: dict[str, dict[str, bytes]]) -> Result:
    """What :func:`_listed` wrote, with its sample."""
    values = dict(listed)
    if values.pop("rejected"):
        return Rejected(**values)
    row = Row(**values)
    return Accepted(row, parts[row.key])


def clear_begun(out: Path) -> None:
    """Delete what is no longer needed once all shards are written."""
    for path in out.glob("begun-*.tar*"):
        path.unlink()


def kept(out: Path, parts: list[list[Photo]]) -> str:
    """How many of the source's files the folder has the results of, for a run that was stopped."""
    done = sum(
        len(photos) if is_finished(out, number) else len(read_begun(out, number, photos))
        for number, photos in enumerate(parts)
    )
    return f"{done} of {sum(map(len, parts))} files are done and kept in {out}; {GOES_ON}"


def write_index(out: Path, parts: int) -> tuple[int, int]:
    """Gather the lists beside the shards into the index and ``rejected.csv``; how many rows each has."""
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    for number in range(parts):
        beside = read_list(out, number)
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
