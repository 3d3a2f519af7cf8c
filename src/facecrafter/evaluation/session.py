"""Where a table is made: its data, its judges and its cache, and what both tables do with them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards
from facecrafter.errors import DataError
from facecrafter.evaluation import differences, frechet, generators, result_folder
from facecrafter.evaluation.config import FOLDER, MethodConfig, TableConfig
from facecrafter.evaluation.images import Made, make
from facecrafter.evaluation.judges import Judges
from facecrafter.evaluation.measurements import Images, Measurements, features, measure
from facecrafter.evaluation.result import Column, MethodResult, RealImages, TableResult
from facecrafter.provenance import environment
from facecrafter.request import Generator, Portrait, Request


class Session:
    """Makes images and measures them, each once: what an earlier run did comes out of the cache.

    Args:
        config: the table.
        progress: show bars.
        device: where the methods compute; None for that of the tables.
        frechet: whether Frechet distances are wanted, which need a network of their own.

    Attributes:
        made_with: the commit, the versions and the hardware, as they were at the start.
        prepared: the data set.
        judges: the estimators.

    Raises:
        ConfigError: a method does not take one of its settings.
        DataError: the data set cannot be read.
        WeightsError: an estimator cannot be loaded.
    """

    def __init__(
        self, config: TableConfig, progress: bool = True, device: str | None = None, frechet: bool = True
    ) -> None:
        self.device = device or generators.table_device()
        self.made_with = environment(self.device)  # before hours go by in which files may change
        self.config, self.progress, self._start = config, progress, time.monotonic()
        for entry in config.methods:
            generators.check_settings(entry)
        self.prepared = shards.load(config.data, recogniser=config.condition)
        self.judges = Judges(config.judges, frechet)
        self._real: RealImages | None = None

    def portrait(self, row: int) -> Portrait:
        """An image of the data set."""
        return Portrait.of(self.prepared, int(row))

    def make(self, method: Generator, requests: Sequence[Request]) -> Made:
        """The images of requests by a method, out of the cache or made now."""
        config, device = self.config, self.device.partition(":")[0]
        return make(method, requests, config.cache_folder, config.batch_size, config.bfloat16, self.progress, device)

    def measure(self, images: Images) -> Measurements:
        """What the judges measure on images, out of the cache or measured now."""
        return measure(self.judges, images, self.config.cache_folder, self.progress)

    def features(self, images: Images) -> NDArray[np.float64]:
        """Features of images for a Frechet distance, out of the cache or computed now."""
        return features(self.judges, images, self.config.cache_folder, self.progress)

    def real(self) -> frechet.Gaussian:
        """Features of real images, drawn from the whole of `real_data`, or of `data` without it: a Frechet distance
        asks what images show and not whom.

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
        self._real = RealImages(images=count, of=str(folder), digest=digest)
        return frechet.statistics(self.features(images))

    def rows(
        self, requests: Sequence[Request], controls: bool, measure: Callable[[MethodConfig, Generator], MethodResult]
    ) -> list[MethodResult]:
        """The table's methods one after another, so that only one is in memory.

        Args:
            requests: what the table asks of each.
            controls: whether that is more than identity.
            measure: a row of the table.
        """
        config = self.config
        result_folder.write_requests(config.out, requests)

        def opened(entry: MethodConfig) -> Generator:
            about = self.prepared.estimator
            return generators.open_generator(entry, requests, config.condition, config.batch_size, controls, about)

        for entry in config.methods:
            if entry.kind == FOLDER:
                opened(entry)  # what is missing there is an error before hours go by
        return [measure(entry, opened(entry)) for entry in config.methods]

    def written(
        self,
        entry: MethodConfig,
        method: Generator,
        made: Made,
        requests: Sequence[Request],
        measured: Measurements,
        columns: Sequence[Column],
        scores: dict[str, NDArray[np.float64]],
    ) -> dict[str, Any]:
        """Write a method's images and scores; what its row says of it and of them."""
        out = self.config.out
        places = result_folder.write_images(out, entry.slug, made.paths)
        result_folder.write_scores(out, entry.slug, places, requests, measured.found, columns, scores)
        side = self.prepared.images.shape[1]
        sizes = f"Its images are of {method.size} px, the photos of {side}." if method.size != side else ""
        lost = [place for place, found in zip(places, measured.found, strict=True) if not found]
        return {
            "name": entry.name,
            "kind": entry.kind,
            "key": method.key,
            "extra_parameters": method.extra_parameters,
            "images": len(places),
            "failures": len(lost),
            "without_face": lost,
            "seconds_an_image": None if entry.kind == FOLDER else made.seconds,
            "note": " ".join(filter(None, (generators.note(entry, method), sizes))),
        }

    def finish(
        self, columns: Sequence[Column], roles: Sequence[str], methods: Sequence[MethodResult], **measured: Any
    ) -> TableResult:
        """Write ``result.json`` and give it back.

        Args:
            columns: of the table.
            roles: the judges that were used.
            methods: its rows, whose scores are written.
            measured: what else it says.
        """
        config = self.config
        meta = shards.read_meta(config.data)
        scores = {one.name: result_folder.read_scores(config.out, one.slug, columns) for one in methods}
        result = TableResult(
            kind=config.table,
            environment=self.made_with,
            config=config.model_dump(mode="json"),
            seed=config.seed,
            seconds=time.monotonic() - self._start,
            estimators={role: self.judges.names[role] for role in roles},
            real=self._real,
            conditions={
                "identity": config.condition,
                "landmarks": meta["landmarks"]["name"],
                "emotion": meta["emotion"]["name"],
            },
            columns=list(columns),
            methods=list(methods),
            differences=differences.paired(scores, columns),
            **measured,
        )
        result.write(config.out)
        return result
