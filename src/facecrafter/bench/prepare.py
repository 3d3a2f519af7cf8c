"""Data preparation beside its limit: what its estimators take when nothing else is done."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facecrafter.errors import DataError, FaceCrafterError


@dataclass(frozen=True)
class Preparing:
    """What preparing photos costs.

    Attributes:
        photos: how many were prepared.
        estimators: seconds a photo of each estimator by itself, on one thread.
        rates: photos a second of ``data prepare``, by the number of processes.
        shares: each rate as a share of what so many processes would do if they ran the estimators and nothing else.
    """

    photos: int
    estimators: dict[str, float]
    rates: dict[int, float]
    shares: dict[int, float]


def preparing(source: Path, photos: int = 400, workers: Sequence[int] = (1, 2), recogniser: str = "dlib") -> Preparing:
    """Prepare some photos with several numbers of processes, and time the estimators alone on the same.

    Args:
        source: a folder of photos, or of folders of photos; every so-manieth is taken.
        photos: how many, at most.
        workers: numbers of processes.
        recogniser: whose embeddings are stored.

    Raises:
        DataError: no photos there, or not one face.
        WeightsError: an unknown recogniser.
    """
    from facecrafter.data.prepare import prepare
    from facecrafter.faces.photo import find_photos

    found, _ = find_photos(source)
    if not found:
        raise DataError(f"there are no photos in {source}; name a folder of .jpg or .png files")
    chosen = found[:: max(1, len(found) // photos)][:photos]
    estimators = _alone(chosen, recogniser)
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "photos"
        inside.mkdir()
        for number, path in enumerate(chosen):
            shutil.copyfile(path, inside / f"{number:06d}{path.suffix}")
        for count in workers:
            out = Path(folder) / f"out-{count}"
            report = prepare(inside, out, workers=count, recognisers=[recogniser], progress=False)
            rates[count] = report.photos / report.seconds
    together = sum(estimators.values())
    return Preparing(len(chosen), estimators, rates, {count: rate * together / count for count, rate in rates.items()})


def lines(cost: Preparing) -> list[str]:
    """The result in words."""
    parts = ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in cost.estimators.items())
    outcome = [f"estimators by themselves, ms a photo: {parts}; together {1000 * sum(cost.estimators.values()):.1f}"]
    for count, rate in cost.rates.items():
        outcome.append(
            f"{count} process{'es' * (count > 1)}: {rate:.1f} photos/s, {cost.shares[count]:.0%} of the limit"
        )
    return outcome


def _alone(photos: Sequence[Path], recogniser: str) -> dict[str, float]:
    """Seconds a photo of each estimator, one photo at a time as preparation does it."""
    from facecrafter.data.prepare.workers import single_thread
    from facecrafter.data.shards import MASK_SIZE
    from facecrafter.estimators import emotion_estimator, identity
    from facecrafter.estimators.face_finder import FaceFinder
    from facecrafter.faces.face import ALIGNED_SIZE, load_photo
    from facecrafter.faces.segmentation import face_mask

    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[..., Any], *given: Any) -> Any:
        start = time.perf_counter()
        made = work(*given)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        return made

    with single_thread(), FaceFinder() as finder:
        estimator, network = emotion_estimator.estimator(), identity.recogniser(recogniser)

        def read(path: Path) -> None:
            with suppress(FaceCrafterError):  # no face in it
                image = timed("reading", load_photo, path)
                face = timed("finding", finder.find, image, ALIGNED_SIZE, "centre")
                timed("emotion", estimator.estimate, [face])
                timed("mask", face_mask, face, MASK_SIZE)
                timed("identity", network.embed, [face])

        read(photos[0])  # loads what is loaded once
        seconds.clear()
        for path in photos:
            read(path)
    return {name: total / len(photos) for name, total in seconds.items()}
