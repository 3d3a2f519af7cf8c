"""Sets of people for Table 2: whose images are made, from folders in the layouts that their makers publish."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.faces.photo import find_photos

log = logging.getLogger(__name__)
AGEDB_NAME = re.compile(r"\d+_(?P<person>.+)_\d+_[mf]", re.IGNORECASE)

Item = TypeVar("Item")


class Photo(NamedTuple):
    """A photo and whose it is."""

    person: str
    path: Path


def plain(folder: Path, people: int | None = None, seed: int = 0, every: bool = False) -> list[Photo]:
    """People of a folder of photos: a folder inside is a person, and so is a photo that is in none.

    Args:
        folder: searched with all that is in it; hidden files and files that are no images by their name are left.
        people: how many to draw; None for all.
        seed: of the draw.
        every: all photos of a person, and not one, which is drawn too.

    Returns:
        in the order of people and paths.

    Raises:
        DataError: there is no such folder, it has no images, or fewer people than asked for.
    """
    return _photos(folder, people, seed, every, lambda path: path.stem if path.parent == folder else path.parent.name)


def synth(folder: Path, people: int = 500, seed: int = 0) -> list[Photo]:
    """Synth-500, the made-up people of Arc2Face's evaluation: a folder of images, one a person.

    Arc2Face's README links it under "Test Data". Any such folder serves, and another folder is another set. See
    :func:`plain`.
    """
    return plain(folder, people, seed)


def agedb(folder: Path, people: int = 500, seed: int = 0, every: bool = False) -> list[Photo]:
    """AgeDB (Moschoglou et al., 2017): photos ``NUMBER_Name_AGE_GENDER.jpg`` of 568 people, in one folder or several.

    A seed draws the people. The 500 images of Arc2Face's evaluation (AgeDB-500) are published too, linked in its README
    under "Test Data": read that folder as :func:`plain`. Files with other names are left.
    """

    def person(path: Path) -> str | None:
        known = AGEDB_NAME.fullmatch(path.stem)
        return known["person"] if known else None

    return _photos(folder, people, seed, every, person)


def of_prepared(prepared: Prepared, people: int | None = None, seed: int = 0) -> list[tuple[str, int]]:
    """People of a prepared folder who are held out of training, each with one row of it, drawn; see :func:`plain`.

    Raises:
        DataError: nobody is held out, or fewer people than asked for.
    """
    rows = np.flatnonzero(held_out(prepared.persons)).tolist()
    return _drawn(((prepared.persons[row], row) for row in rows), people, seed, False, "the prepared folder")


LAYOUTS: dict[str, Callable[..., list[Photo]]] = {"plain": plain, "synth": synth, "agedb": agedb}


def _photos(
    folder: Path, people: int | None, seed: int, every: bool, person: Callable[[Path], str | None]
) -> list[Photo]:
    """The images of a folder by whom a rule says they show; None for those to leave."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; name one with photos of people")
    paths, passed = find_photos(folder)
    for _, reason in passed:
        log.warning("%s", reason)
    found = ((name, path) for path in paths if (name := person(path)) is not None)
    return [Photo(name, path) for name, path in _drawn(found, people, seed, every, str(folder))]


def _drawn(
    images: Iterable[tuple[str, Item]], people: int | None, seed: int, every: bool, place: str
) -> list[tuple[str, Item]]:
    """People drawn by a seed, with one image each, drawn too, or with all of them."""
    by_person: dict[str, list[Item]] = {}
    for person, image in images:
        by_person.setdefault(person, []).append(image)
    if not by_person:
        raise DataError(f"{place} has no images of people in the layout asked for; name another folder or layout")
    names = sorted(by_person)
    count = len(names) if people is None else people
    if count > len(names):
        raise DataError(f"{count} people are asked for, and {place} has {len(names)}; lower `identities`, or add some")
    random = np.random.default_rng(seed)
    chosen = sorted(names[index] for index in random.permutation(len(names))[:count])

    def kept(of: Sequence[Item]) -> Sequence[Item]:
        return of if every else [of[int(random.integers(len(of)))]]

    return [(person, image) for person in chosen for image in kept(by_person[person])]
