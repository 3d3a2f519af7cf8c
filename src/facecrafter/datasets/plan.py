"""``plan.parquet``: a row an image, written and read in parts, so that memory does not grow with their number.

Beside it lies ``plan.people.parquet`` with the identities. The metadata of the first hold the config, the cells and the
digest of the second. Rows are in the order of people, and of cells within a person.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facecrafter import weights
from facecrafter.data.shards import DAMAGE
from facecrafter.datasets.cells import Cell, cells_of, counts_of
from facecrafter.datasets.checks import check_settings
from facecrafter.datasets.config import PlanConfig
from facecrafter.datasets.identities import Chosen, Person, choose, people_path
from facecrafter.errors import DataError
from facecrafter.faces.rig import load
from facecrafter.io import in_folder, unwritten, whole

if TYPE_CHECKING:
    import pyarrow

FORMAT = "facecrafter-plan-2"
KEY = b"facecrafter"
ID_DIGITS = 24
SEED_DIGITS = 15  # of a hash: seeds below 2^60
GROUP = 65_536  # rows that are written, and read, at once
PEOPLE_GROUP = 64


@dataclass(frozen=True)
class Row:
    """An image that is asked for.

    Attributes:
        id: 24 digits of a hash of the person, the cell, which of the person's images in it, and how it is sampled.
        person, cell: numbers.
        seed: of its first attempt.
    """

    id: str
    person: int
    cell: int
    seed: int


def seed_of(identifier: str, attempt: int) -> int:
    """The seed of an image's attempt, from 0, in [0, 2^60)."""
    digits = identifier if attempt == 0 else hashlib.sha256(f"{identifier} {attempt}".encode()).hexdigest()
    return int(digits[:SEED_DIGITS], 16)


@dataclass(frozen=True)
class Written:
    """A plan that was written.

    Attributes:
        path: of it.
        cells: how many.
        images: how many.
        chosen: who is in it.
    """

    path: Path
    cells: int
    images: int
    chosen: Chosen


def write_plan(config: PlanConfig, out: Path) -> Written:
    """Write a plan and its identities.

    Args:
        config: what the data set is to hold.
        out: the file to write, a ``.parquet``.

    Raises:
        ConfigError: a cell that cannot be filled, or a setting that no image could be made with.
        DataError: a source of identities that cannot be read, or has too few people.
        OutputError: a file cannot be written.
    """
    check_settings(config)
    cells = cells_of(config)
    chosen = choose(config)
    counts = counts_of(config, cells, len(chosen.people))
    try:
        with whole(people_path(in_folder(out))) as partial:
            _write_people(chosen.people, partial)
        about = {
            "format": FORMAT,
            "config": config.model_dump(mode="json"),
            "cells": [asdict(cell) for cell in cells],
            "counts": counts.tolist(),
            "people": {"count": len(chosen.people), "sha256": weights.sha256(people_path(out))},
            "images": int(counts.sum()),
            "rig": load().digest,
        }
        with whole(out) as partial:
            _write_rows(partial, about, _parts(config, cells, counts, chosen.people))
    except OSError as error:
        raise unwritten(out, error) from None
    return Written(out, len(cells), int(counts.sum()), chosen)


def _write_people(people: Sequence[Person], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = len(people[0].embedding)
    size = people[0].neutral.size
    schema = pa.schema(
        [
            ("digest", pa.string()),
            ("source", pa.string()),
            ("embedding", pa.list_(pa.float32(), width)),
            ("neutral", pa.list_(pa.float32(), size)),
        ]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, len(people), PEOPLE_GROUP):
            some = people[first : first + PEOPLE_GROUP]
            flat = [
                np.concatenate([one.embedding for one in some]),
                np.concatenate([one.neutral.ravel() for one in some]),
            ]
            lists = [
                pa.FixedSizeListArray.from_arrays(pa.array(values), length)
                for values, length in zip(flat, (width, size), strict=True)
            ]
            columns = [pa.array([one.digest for one in some]), pa.array([one.source for one in some]), *lists]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def allotted(counts: NDArray[np.int64], people: int) -> Iterator[NDArray[np.int64]]:
    """How many images of each cell each of the people has, ``(C,)``, who take turns where they do not all have one."""
    share, rest = counts // people, counts % people
    starts = np.concatenate([[0], rest.cumsum()[:-1]]) % people
    for person in range(people):
        yield share + ((person - starts) % people < rest)


def _parts(
    config: PlanConfig, cells: Sequence[Cell], counts: NDArray[np.int64], people: Sequence[Person]
) -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    """The ids and ``(3, N)``: person, cell and which image of theirs in the cell; of :data:`GROUP` rows of a person
    at most."""
    recipe = _recipe(config)
    digests = [cell.digest for cell in cells]
    for number, own in enumerate(allotted(counts, len(people))):
        ends, start = own.cumsum(), hashlib.sha256(f"{recipe} {people[number].digest}".encode())
        for first in range(0, int(ends[-1]), GROUP):
            places = np.arange(first, min(first + GROUP, int(ends[-1])))
            rows = np.searchsorted(ends, places, side="right")
            copies = places - (ends - own)[rows]
            ids = []
            for cell, copy in zip(rows.tolist(), copies.tolist(), strict=True):
                key = start.copy()
                key.update(f" {digests[cell]} {copy}".encode())
                ids.append(key.hexdigest()[:ID_DIGITS])
            yield ids, np.stack([np.full(len(rows), number), rows, copies])


def _recipe(config: PlanConfig) -> str:
    """What all images of a plan depend on, beside the weights."""
    sampling = config.sampling.model_dump(exclude={"batch_size"})
    content = {"seed": config.seed, "sampling": sampling, "through": config.emotion_through, "rig": load().digest}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_rows(path: Path, about: Mapping[str, Any], parts: Iterator[tuple[list[str], NDArray[np.int64]]]) -> None:
    """Write the rows in groups, each of whole shards."""
    import pyarrow.parquet as pq

    cells = [Cell.read(cell) for cell in about["cells"]]
    shard = about["config"]["shard_size"]
    size = shard * max(1, GROUP // shard)
    schema = _schema(about)
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        ids: list[str] = []
        numbers: list[NDArray[np.int64]] = []
        for own, rows in parts:
            ids += own
            numbers.append(rows)
            while len(ids) >= size:
                held = np.concatenate(numbers, axis=1)
                writer.write_table(_table(ids[:size], held[:, :size], cells, schema))
                ids, numbers = ids[size:], [held[:, size:]]
        if ids:
            writer.write_table(_table(ids, np.concatenate(numbers, axis=1), cells, schema))


def _schema(about: Mapping[str, Any]) -> pyarrow.Schema:
    import pyarrow as pa

    words = pa.dictionary(pa.int32(), pa.string())
    names = {"id": pa.string(), "person": pa.int32(), "cell": pa.int32(), "copy": pa.int64(), "seed": pa.int64()}
    asked = {"yaw": pa.float32(), "pitch": pa.float32(), "expression": words, "emotion": words}
    points = {"valence": pa.float32(), "arousal": pa.float32()}
    return pa.schema([*names.items(), *asked.items(), *points.items()], {KEY: json.dumps(about)})


def _table(
    ids: Sequence[str], numbers: NDArray[np.int64], cells: Sequence[Cell], schema: pyarrow.Schema
) -> pyarrow.Table:
    import pyarrow as pa

    person, cell, copy = numbers
    columns = [pa.array(ids), pa.array(person), pa.array(cell), pa.array(copy)]
    columns.append(pa.array([seed_of(one, 0) for one in ids], pa.int64()))
    for name in ("yaw", "pitch", "expression", "emotion", "valence", "arousal"):
        values = pa.array([getattr(one, name) for one in cells])
        taken = values.take(columns[2])
        columns.append(taken.dictionary_encode() if name in ("expression", "emotion") else taken.cast(pa.float32()))
    return pa.Table.from_arrays(
        [column.cast(kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema
    )


class Plan:
    """A plan that is read, a shard at a time.

    Args:
        path: of the plan.

    Attributes:
        config, cells, counts: what it was made of; images a cell.
        images, people: how many.
        rig: the digest of the one that ids follow from.

    Raises:
        DataError: it is none, is damaged, or its identities are missing or others.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        try:
            self._rows = pq.ParquetFile(path, page_checksum_verification=True)
            about = json.loads(self._rows.schema_arrow.metadata[KEY])
            fits = about["format"] == FORMAT
            self.config = PlanConfig(**about["config"])
            self.cells = [Cell.read(cell) for cell in about["cells"]]
            self.counts, self.images = list(about["counts"]), int(about["images"])
            self.people, self._people_digest = int(about["people"]["count"]), about["people"]["sha256"]
            self.rig = str(about["rig"])
            fits = fits and self._rows.metadata.num_rows == self.images
        except FileNotFoundError:
            raise DataError(f"there is no plan {path}; write one with: facecrafter dataset plan plan.yaml") from None
        except DAMAGE:
            fits = False
        if not fits:
            raise DataError(f"{path} is no plan of this version, or damaged; write it again with 'dataset plan'")
        people = people_path(path)
        try:
            same = weights.sha256(people) == self._people_digest
        except OSError:
            same = False
        if not same:
            raise DataError(
                f"{people} is missing, cannot be read, or has not the identities of {path}; write the plan again"
            )
        self._people = pq.ParquetFile(people)

    @cached_property
    def digest(self) -> str:
        """The sha256 of the file, which holds that of the identities."""
        return weights.sha256(self.path)

    @cached_property
    def sources(self) -> dict[str, int]:
        """How many of the people come from where.

        Raises:
            DataError: the file is damaged.
        """
        try:
            return dict(Counter(self._people.read(columns=["source"])["source"].to_pylist()))
        except DAMAGE:
            raise self._damaged() from None

    def _damaged(self) -> DataError:
        return DataError(f"{people_path(self.path)} is damaged; write the plan again")

    @property
    def shards(self) -> int:
        """How many shards it makes."""
        return -(-self.images // self.config.shard_size)

    def rows(self, shard: int) -> list[Row]:
        """The rows of a shard.

        Raises:
            DataError: the file is damaged.
        """
        size = self.config.shard_size
        group, place = divmod(shard * size, size * max(1, GROUP // size))
        try:
            return [Row(**row) for row in self._group(group).slice(place, size).to_pylist()]
        except DAMAGE:
            raise DataError(f"{self.path} is damaged; write it again with 'dataset plan'") from None

    def _group(self, number: int) -> pyarrow.Table:
        """The rows that were written at once; those read last are kept.

        Raises:
            DAMAGE: the file is damaged.
        """
        if getattr(self, "_kept", (None, None))[0] != number:
            self._kept = number, self._rows.read_row_group(number, columns=["id", "person", "cell", "seed"])
        return self._kept[1]

    def persons(self, numbers: Sequence[int]) -> dict[int, Person]:
        """Some of the people by their numbers.

        Raises:
            DataError: the file is damaged.
        """
        wanted = sorted(set(numbers))
        found: dict[int, Person] = {}
        try:
            for group in sorted({number // PEOPLE_GROUP for number in wanted}):
                table = self._people.read_row_group(group)
                for number in (one for one in wanted if one // PEOPLE_GROUP == group):
                    row = table.slice(number % PEOPLE_GROUP, 1)
                    embedding, neutral = (
                        row[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
                        for name in ("embedding", "neutral")
                    )
                    found[number] = Person(embedding, neutral.reshape(-1, 3), row["source"][0].as_py())
        except DAMAGE:
            raise self._damaged() from None
        return found
