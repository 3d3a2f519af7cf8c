"""The folder of a data set while it is made: a prepared folder, whose index also has what was asked for.

What is done is known from the folder alone: a shard is whole where its tar has the digest that the list beside it has.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from facecrafter import weights
from facecrafter.data import shards
from facecrafter.data.prepare.folder import about_estimator, begin
from facecrafter.data.prepare.reader import Accepted, Rejected, Result
from facecrafter.data.shards import FORMAT, INDEX, INDEX_COLUMNS, MASK_SIZE, META, REJECTED, shard_path, write_whole
from facecrafter.datasets.basis import Basis
from facecrafter.datasets.plan import Plan
from facecrafter.errors import DataError
from facecrafter.estimators import emotion_estimator
from facecrafter.estimators.identity import DIMENSIONS
from facecrafter.io import LOCK, command, whole

AGAIN = "delete it and run 'dataset make' again, which makes it again"
# What the index has beside the columns of every prepared folder.
ASKED_COLUMNS = {
    "cell": "int32",
    "attempt": "int32",
    "seed": "int64",
    "likeness": "float32",
    "asked_yaw": "float32",
    "asked_pitch": "float32",
    "asked_expression": "string",
    "asked_emotion": "string",
    "asked_valence": "float32",
    "asked_arousal": "float32",
}
FREE = ("asked_valence", "asked_arousal")  # None where the emotion is free
ROW = {name: kind for name, kind in {**INDEX_COLUMNS, **ASKED_COLUMNS}.items() if name != "shard"}
SHARDS_A_GROUP = 64  # of the index
# What `dataset audit` and `dataset card` write beside the set.
AUDIT_PAGE, AUDIT, CARD = "audit.html", "audit.json", "README.md"


def settings_of(plan: Plan, size: int, basis: Basis) -> dict[str, Any]:
    """The content of ``meta.json``. A run goes on with a folder only where it agrees in all of it.

    Args:
        plan: what is made.
        size: side of the images in pixels.
        basis: what images depend on beside the plan.
    """
    config = plan.config
    return {
        "format": FORMAT,
        "size": size,
        "shard_size": config.shard_size,
        "mask_size": MASK_SIZE,
        "recognisers": {
            name: {
                "dimension": DIMENSIONS[name],
                "sha256": basis.recogniser if name == "arcface" else weights.entry(name).sha256,
            }
            for name in config.recognisers
        },
        "landmarks": {"name": "face_landmarker", "sha256": weights.entry("face_landmarker").sha256},
        "emotion": about_estimator(emotion_estimator.estimator()),
        "dataset": {
            "plan": plan.digest,
            "model": config.model,
            "images": plan.images,
            "apart": config.least,
            "sources": plan.sources,
            **basis.content(),
        },
    }


def check_place(out: Path) -> None:
    """Refuse what is no place for a data set, before anything is written.

    Raises:
        DataError: it is a file, holds something else, or cannot be read.
    """
    try:
        if out.exists() and not out.is_dir():
            raise DataError(f"{out} is a file; name a folder to make the data set in")
        if out.is_dir() and not (out / META).is_file() and any(_foreign(one) for one in out.iterdir()):
            raise DataError(f"{out} is not empty and no data set; name a new folder")
    except OSError as error:
        raise unreadable(out, error) from None


def unreadable(out: Path, error: OSError) -> DataError:
    """The error for a folder that the system refuses to read."""
    return DataError(f"the folder {out} cannot be read ({(error.strerror or str(error)).lower()}); choose another one")


def _foreign(path: Path) -> bool:
    return path.suffix != ".partial" and path.name != LOCK


def open_folder(out: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Begin a folder, or see that it is one that the same run has begun.

    Raises:
        DataError: it was begun with another plan or on another basis, or is no data set.
    """
    if (out / META).is_file():
        if not overwrite:
            before, now = read_settings(out)["dataset"], settings["dataset"]
            _check_same(out, before, now)
            if "sources" not in before:  # begun when sets did not say
                settings = {**settings, "dataset": {name: now[name] for name in now if name != "sources"}}
        elif not _is_data_set(out):
            raise DataError(f"{out} is no data set of 'dataset make', and --overwrite is for these; name a new folder")
    if overwrite:
        for name in (AUDIT_PAGE, AUDIT, CARD):  # of what was there
            (out / name).unlink(missing_ok=True)
    begin(out, settings, overwrite)


def _is_data_set(out: Path) -> bool:
    """Whether a folder says that it is a data set, be it one that is damaged or of another version."""
    try:
        return isinstance(json.loads((out / META).read_text(encoding="utf-8"))["dataset"], dict)
    except shards.DAMAGE:
        return False


def read_settings(out: Path) -> dict[str, Any]:
    """What ``meta.json`` of a data set says, see :func:`settings_of`.

    Raises:
        DataError: it is no data set, or its settings are damaged or of another version.
    """
    again = command("dataset", "make", "PLAN", out)
    try:
        if not (out / META).is_file():
            raise DataError(f"{out} is no data set; make one with: {again}")
    except OSError as error:
        raise unreadable(out, error) from None
    try:
        meta = shards.read_meta(out)
        fits = "dataset" not in meta or _fits(meta)
    except (DataError, *shards.DAMAGE):
        fits = False
    if not fits:
        raise DataError(f"{out / META} is damaged, or of another version; make the set again in a new folder")
    if "dataset" not in meta:
        raise DataError(f"{out} is a prepared folder and no data set of 'dataset make'; name another one")
    return meta


def digest_of(out: Path, meta: Mapping[str, Any]) -> str:
    """What tells a finished set from every other: a hash of its plan, its basis, and its index.

    Raises:
        DataError: the index cannot be read.
    """
    try:
        index = (out / INDEX).read_bytes()
    except OSError as error:
        raise unreadable(out, error) from None
    return hashlib.sha256(json.dumps(meta["dataset"], sort_keys=True).encode() + index).hexdigest()


def _fits(meta: Mapping[str, Any]) -> bool:
    """Whether settings have what is read of them.

    Raises:
        DAMAGE: something is missing.
    """
    about = meta["dataset"]
    weighed = [meta["landmarks"], meta["emotion"], *meta["recognisers"].values()]
    texts = [about["plan"], about["model"], *(about.get(one.name, one.default) for one in fields(Basis))]
    numbers = [meta["shard_size"], about["images"], *about.get("sources", {}).values()]
    return (
        all(isinstance(number, int) and number > 0 for number in numbers)
        and all(isinstance(text, str) for text in (*texts, *(one["sha256"] for one in weighed)))
        and isinstance(about["apart"], int | float)
        and 0 <= about["apart"] <= 2
    )


def _check_same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    basis = Basis(**{one.name: now[one.name] for one in fields(Basis) if one.name in now})
    other = "another plan" if before.get("plan") != now["plan"] else basis.difference(before, now["model"])
    if other:
        raise DataError(f"{out} was begun with {other}; make this one in a new folder, or give --overwrite")


def write(out: Path, number: int, results: Sequence[Result]) -> None:
    """Write a shard and the list beside it, the tar last.

    Raises:
        DataError: the disk is full, or the place cannot be written to.
    """
    accepted = [result for result in results if isinstance(result, Accepted)]
    content = shards.pack((one.row.key, one.parts) for one in accepted)
    beside = {
        "rows": [{**asdict(one.row), **_asked(one)} for one in accepted],
        "rejected": [asdict(one) for one in results if isinstance(one, Rejected)],
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_whole(shard_path(out, number, "json"), (json.dumps(beside) + "\n").encode())
    write_whole(shard_path(out, number), content)


def _asked(image: Accepted) -> dict[str, Any]:
    about = json.loads(image.parts["json"])
    asked = about["asked"]
    same = {name: asked[name] for name in ("cell", "attempt", "seed")}
    named = {f"asked_{name}": asked[name] for name in ("yaw", "pitch", "expression", "emotion", "valence", "arousal")}
    return {**same, "likeness": about["likeness"], **named}


def is_done(out: Path, number: int) -> bool:
    """Whether a shard is there with the content that the list beside it gives."""
    path = shard_path(out, number)
    try:
        beside = read_list(out, number)
        return path.stat().st_size == beside["bytes"] and weights.sha256(path) == beside["sha256"]
    except (OSError, DataError):
        return False


def read_list(out: Path, number: int) -> dict[str, Any]:
    """The list beside a shard.

    Raises:
        DataError: it is damaged or missing.
    """
    path = shard_path(out, number, "json")
    try:
        beside = json.loads(path.read_text(encoding="utf-8"))
        rows = all(_has(row, ROW) for row in beside["rows"])
        if not rows or not all(_has(one, {"file": "string", "reason": "string"}) for one in beside["rejected"]):
            raise ValueError("a row has other columns")
        if not _is(beside["bytes"], "int64") or not _is(beside["sha256"], "string"):
            raise ValueError("there is no digest")
    except shards.DAMAGE:
        raise DataError(f"{path} is damaged or missing; {AGAIN}") from None
    return dict(beside)


def _has(row: Mapping[str, Any], kinds: Mapping[str, str]) -> bool:
    """Whether a row has the columns and values that the index takes."""
    return row.keys() == kinds.keys() and all(
        (value is None and name in FREE) or _is(value, kinds[name]) for name, value in row.items()
    )


def _is(value: Any, kind: str) -> bool:
    """Whether a value of JSON fits a column of that kind."""
    if kind == "string":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int if kind.startswith("int") else int | float):
        return False
    return kind == "float32" or abs(value) < 2 ** (int(kind.removeprefix("int")) - 1)


def samples(out: Path, number: int, digest: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of a shard, see :func:`facecrafter.data.shards.read_shard`.

    Raises:
        DataError: its content is not what was written.
    """
    path = shard_path(out, number)
    try:
        same = weights.sha256(path) == digest
    except OSError:
        same = False
    if not same:
        raise DataError(f"{path} is damaged or missing; {AGAIN}")
    yield from shards.read_shard(path)


@dataclass(frozen=True)
class Counts:
    """What a finished folder has.

    Attributes:
        images: how many.
        rejected: images that missed their cell at every attempt.
        attempts: how often an image that is there was made, in all.
        cells: images by the number of their cell.
    """

    images: int
    rejected: int
    attempts: int
    cells: Counter[int]


def write_index(out: Path, count: int) -> Counts:
    """Gather the lists beside the shards into the index and ``rejected.csv``, a few shards at a time.

    Raises:
        DataError: a list is damaged, or a file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [(name, pa.type_for_alias(kind)) for name, kind in {**INDEX_COLUMNS, **ASKED_COLUMNS}.items()]
    schema = pa.schema(columns)
    cells: Counter[int] = Counter()
    images = rejected = attempts = 0
    try:
        with (
            whole(out / INDEX) as index,
            whole(out / REJECTED) as listed,
            pq.ParquetWriter(index, schema) as writer,
            open(listed, "w", encoding="utf-8", newline="") as file,
        ):
            table = csv.DictWriter(file, ["file", "reason"], lineterminator="\n")
            table.writeheader()
            for first in range(0, count, SHARDS_A_GROUP):
                rows: list[dict[str, Any]] = []
                for number in range(first, min(first + SHARDS_A_GROUP, count)):
                    beside = read_list(out, number)
                    rows.extend({"shard": number, **row} for row in beside["rows"])
                    table.writerows(beside["rejected"])
                    rejected += len(beside["rejected"])
                images += len(rows)
                attempts += sum(row["attempt"] + 1 for row in rows)
                cells.update(row["cell"] for row in rows)
                writer.write_table(pa.Table.from_pylist(rows, schema))
    except OSError as error:
        raise shards.unwritable(out / INDEX, error) from None
    return Counts(images, rejected, attempts, cells)
