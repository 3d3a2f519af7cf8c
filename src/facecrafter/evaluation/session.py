"""Where a table is made: its data, its eyes and its cache, and what both tables do with them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards
from facecrafter.errors import DataError
from facecrafter.evaluation import frechet, generators, results
from facecrafter.evaluation.config import FOLDER, MethodConfig, TableConfig
from facecrafter.evaluation.images import Made, make
from facecrafter.evaluation.judges import Judges
from facecrafter.evaluation.measurements import Images, Measurements, features, look
from facecrafter.evaluation.metrics import Column
from facecrafter.generator import Generator, Portrait, Request


class Session:
    """Makes images and looks at them, each once: what an earlier run did comes out of the cache.

    Args:
        config: the table.
        progress: show bars.

    Attributes:
        prepared: the data set.
        eyes: the judges.

    Raises:
        ConfigError: a method does not take one of its settings.
        DataError: the data set cannot be read.
        WeightsError: an estimator cannot be loaded.
    """

    def __init__(self, config: TableConfig, progress: bool = True) -> None:
        self.config, self.progress, self._start = config, progress, time.monotonic()
        for entry in config.methods:
            generators.check_settings(entry)
        self.prepared = shards.load(config.data, recogniser=config.condition)
        self.judges = Judges(config.judges)
        self._real: dict[str, Any] = {}

    def portrait(self, row: int) -> Portrait:
        """An image of the data set."""
        return Portrait.of(self.prepared, int(row))

    def make(self, method: Generator, requests: Sequence[Request]) -> Made:
        """See :func:`facecrafter.evaluation.images.make`."""
        config = self.config
        return make(method, requests, config.cache_folder, config.batch_size, config.bfloat16, self.progress)

    def look(self, images: Images) -> Measurements:
        """See :func:`facecrafter.evaluation.measurements.look`."""
        return look(self.judges, images, self.config.cache_folder, self.progress)

    def features(self, images: Images) -> NDArray[np.float64]:
        """See :func:`facecrafter.evaluation.measurements.features`."""
        return features(self.judges, images, self.config.cache_folder, self.progress)

    def real(self) -> frechet.Gaussian:
        """Features of real images, drawn from the whole of `real_data`, or of `data` without it: a Frechet distance
        asks what images look like and not whom they show.

        Raises:
            DataError: the folder cannot be read, or has fewer than the config asks for.
        """
        folder, count = self.config.real_data or self.config.data, self.config.real
        prepared = self.prepared if self.config.real_data is None else shards.load(self.config.real_data)
        if len(prepared) < count:
            raise DataError(f"{count} real images are asked for, and {folder} has {len(prepared)}; set `real` lower")
        rows = np.sort(np.random.default_rng([self.config.seed, 2]).choice(len(prepared), count, replace=False))
        images = prepared.images[rows]
        digest = hashlib.sha256(images.data).hexdigest()[:8]
        self._real = {"images": count, "of": str(folder), "digest": digest}
        return frechet.statistics(self.features(images))

    def rows(
        self, requests: Sequence[Request], controls: bool, measure: Callable[[MethodConfig, Generator], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The table's methods one after another, so that only one is in memory.

        Args:
            requests: what the table asks of each.
            controls: whether that is more than identity.
            measure: a row of the table but for what is known of every method.
        """
        config = self.config
        results.write_requests(config.out, requests)

        def opened(entry: MethodConfig) -> Generator:
            about = self.prepared.estimator
            return generators.open_generator(entry, requests, config.condition, config.batch_size, controls, about)

        for entry in config.methods:
            if entry.kind == FOLDER:
                opened(entry)  # what is missing there is told before hours go by
        rows = []
        for entry in config.methods:
            method = opened(entry)
            about = {"name": entry.name, "kind": entry.kind, "extra_parameters": method.extra_parameters}
            rows.append({**about, "key": method.key, **measure(entry, method), "note": generators.note(entry, method)})
        return rows

    def written(
        self,
        entry: MethodConfig,
        made: Made,
        requests: Sequence[Request],
        seen: Measurements,
        columns: Sequence[Column],
        scores: dict[str, NDArray[np.float64]],
    ) -> dict[str, Any]:
        """Write a method's images and scores; what its row says of them."""
        out = self.config.out
        places = results.write_images(out, entry.slug, made.paths)
        results.write_scores(out, entry.slug, places, requests, seen.found, columns, scores)
        lost = [place for place, found in zip(places, seen.found, strict=True) if not found]
        counts = {"pictures": len(places), "failures": len(lost), "without_face": lost}
        return {**counts, "seconds_a_picture": None if entry.kind == FOLDER else made.seconds}

    def finish(self, columns: Sequence[Column], roles: Sequence[str], **told: Any) -> dict[str, Any]:
        """Write ``result.json`` and give it back.

        Args:
            columns: of the table.
            roles: the eyes that were used.
            told: what else it says.
        """
        from facecrafter.provenance import environment

        config = self.config
        meta = shards.read_meta(config.data)
        result = {
            "table": config.table,
            "environment": environment(),
            "config": json.loads(config.model_dump_json()),
            "seed": config.seed,
            "seconds": time.monotonic() - self._start,
            "estimators": {role: self.judges.names[role] for role in roles},
            "real": self._real,
            "conditions": {
                "identity": config.condition,
                "landmarks": meta["landmarks"]["name"],
                "emotion": meta["emotion"]["name"],
            },
            "columns": [column.told() for column in columns],
            **told,
        }
        results.write_result(config.out, result)
        return result
