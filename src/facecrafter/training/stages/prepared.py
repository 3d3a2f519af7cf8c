"""What the stages that learn from prepared folders share: which samples are for learning, and which are held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from facecrafter.config import Strict
from facecrafter.controls import CONTROLS, Control
from facecrafter.data import shards
from facecrafter.data.dataset import TrainingSet
from facecrafter.data.pairs import PairSampler
from facecrafter.data.shards import Prepared
from facecrafter.data.sources import joined, near_held_out, resized, thinned
from facecrafter.errors import DataError
from facecrafter.models import scales
from facecrafter.training.config import ASIDE, PLACE, RunConfig

# What `data` keeps of every batch at least: figures are of real people, and real photos are what images should equal.
LEAST_REAL = 1 / 3


Made = TypeVar("Made")


class Source(Strict):
    """One more prepared folder to learn from."""

    data: Annotated[Path, PLACE]
    share: float = Field(gt=0, lt=1)  # of every batch


class PreparedConfig(RunConfig):
    """A run that learns from the images of a prepared folder."""

    scale: Literal["mini", "arc2face"] = "mini"
    held_out: bool = True  # hold out the people that evaluation uses
    beside: tuple[Source, ...] = ()  # folders of other people in every batch, as `data synthesise` makes them
    # At most so many samples, all photos of some people: what a short run has the time to encode. null for all.
    most_samples: Annotated[int | None, ASIDE] = Field(None, ge=16)

    @model_validator(mode="after")
    def _shares_fit(self) -> PreparedConfig:
        total = sum(source.share for source in self.beside)
        if total > 1 - LEAST_REAL + 1e-6:
            raise ValueError(f"the shares of `beside` sum to {total:g}, and `data` has at least a third of every batch")
        return self

    def image_size(self) -> int:
        """Side in pixels of the images that the run learns from."""
        return scales.SCALES[self.scale].size

    def read(self) -> tuple[Prepared, NDArray[np.bool_] | None]:
        """The folders' content, and which samples to learn from, ``(N,)`` bool; None for all. Where folders have images
        of several sizes, all are made as small as the smallest."""
        parts = [self._load(folder) for folder in self._folders()]
        smallest = min(part.images.shape[1] for part in parts)
        sized = zip(self._folders(), parts, strict=True)
        return self._chosen([_at_size(folder, part, smallest) for folder, part in sized])

    def read_at_scale(self) -> tuple[Prepared, NDArray[np.bool_] | None]:
        """The same, of images of the wanted size; larger ones are made smaller.

        Raises:
            DataError: they are smaller.
        """
        parts, wanted = [], self.image_size()
        for folder in self._folders():
            part = self._load(folder)
            if (size := part.images.shape[1]) < wanted:
                raise DataError(
                    f"the images in {folder} are of {size} px, and the {self.scale} scale's of {wanted}; prepare them "
                    f"with --size {wanted}"
                )
            parts.append(_at_size(folder, part, wanted))
        return self._chosen(parts)

    def _folders(self) -> list[Path]:
        return [self.data, *(source.data for source in self.beside)]

    def _load(self, folder: Path) -> Prepared:
        recogniser = scales.SCALES[self.scale].recogniser
        return _HELD.get((folder, recogniser), lambda: shards.load(folder, recogniser=recogniser))

    def _chosen(self, parts: list[Prepared]) -> tuple[Prepared, NDArray[np.bool_] | None]:
        shares = [source.share for source in self.beside]
        key = (*map(id, parts), *shares, self.held_out)
        prepared, keep = _HELD.get(key, lambda: self._joined(parts, shares))
        return prepared, _HELD.get((*key, self.most_samples), lambda: self._thinned(prepared, keep))

    def _joined(self, parts: list[Prepared], shares: list[float]) -> tuple[Prepared, NDArray[np.bool_] | None]:
        prepared = joined(parts, [1 - sum(shares), *shares])
        return prepared, ~shards.held_out(prepared.persons) & ~near_held_out(prepared) if self.held_out else None

    def _thinned(self, prepared: Prepared, keep: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        if self.most_samples is None:
            return keep
        return thinned(prepared, np.ones(len(prepared), np.bool_) if keep is None else keep, self.most_samples)


@dataclass
class _Held:
    """What was read, while several stages read the same."""

    on: bool = False
    parts: dict[Any, Any] = field(default_factory=dict)

    def get(self, key: Any, read: Callable[[], Made]) -> Made:
        if not self.on:
            return read()
        if key not in self.parts:
            self.parts[key] = read()
        made: Made = self.parts[key]
        return made


_HELD = _Held()


def _at_size(folder: Path, part: Prepared, wanted: int) -> Prepared:
    return _HELD.get((folder, wanted), lambda: resized(part, wanted))


@contextmanager
def reading_once() -> Iterator[None]:
    """Within it each prepared folder is read once and kept in memory, for stages that follow each other, and so are the
    sets made of it, with what they have on an accelerator."""
    _HELD.on = True
    try:
        yield
    finally:
        _HELD.on = False
        _HELD.parts.clear()


def training_sets(
    prepared: Prepared,
    keep: NDArray[np.bool_] | None,
    scale: str,
    pairs: PairSampler | None = None,
    controls: Mapping[str, Control] = CONTROLS,
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> tuple[TrainingSet, TrainingSet | None]:
    """What is learned from, and the held-out people; None where nobody is. Of several folders only the first one's
    people validate: they are real. Within :func:`reading_once` all stages that read the same of their images get the
    same sets.

    Args:
        prepared, keep: the content and which samples to learn from, as a config reads them.
        scale: whose encodings the controls have.
        pairs: draws inputs and identity images together.
        controls: what samples can be given beside identity.
        options: of the encodings by control, over the scale's.
    """
    # A baseline reads other things by a control's name, or at another size.
    read = ((name, id(one), *sorted(options.get(name, {}).items())) for name, one in controls.items())
    key = (id(prepared), id(keep), scale, *read)
    data, held = _HELD.get(key, lambda: _make_sets(prepared, keep, scale, controls, options))
    data.pairs = pairs
    return data, held


def _make_sets(
    prepared: Prepared,
    keep: NDArray[np.bool_] | None,
    scale: str,
    controls: Mapping[str, Control],
    options: Mapping[str, Mapping[str, Any]],
) -> tuple[TrainingSet, TrainingSet | None]:
    options = {name: {**scales.SCALES[scale].control_options(name), **options.get(name, {})} for name in controls}
    out = np.zeros(len(prepared), np.bool_) if keep is None else ~keep & shards.held_out(prepared.persons)
    if prepared.sources is not None:
        out &= prepared.sources == 0
    held = TrainingSet(prepared, out, options=options, controls=controls) if out.any() else None
    return TrainingSet(prepared, keep, options=options, controls=controls), held
