"""A study out of a table's run or of folders of images: checked, stripped of metadata, under names that tell nothing.

Folders of images are laid out as ``METHOD/control/SET.png`` and ``METHOD/diversity/SET/NUMBER.png``; the photos beside
them as ``REFERENCES/control/source/SET.png``, ``.../target/SET.png`` and ``REFERENCES/diversity/source/SET.png``.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from facecrafter.errors import ConfigError, DataError, OutputError
from facecrafter.evaluation import result
from facecrafter.evaluation.result_folder import Scores, png, read_scores
from facecrafter.faces.photo import find_photos, load_photo
from facecrafter.io import check_free, write_whole
from facecrafter.study import manifest
from facecrafter.study.config import BETWEEN, Kind, StudyConfig, check_new
from facecrafter.study.database import FILE
from facecrafter.study.manifest import Group, ImageSet, Manifest

log = logging.getLogger(__name__)

SMALLEST_SIDE = 32  # pixels of an image that a person can judge


@dataclass(frozen=True)
class Source:
    """One set before its images are read: the files of the photos, and of each method's images."""

    name: str
    references: Mapping[str, Path]
    images: tuple[tuple[Path, ...], ...]


@dataclass(frozen=True)
class Candidates:
    """All sets of one kind that there are, and who made them."""

    methods: tuple[str, ...]
    sets: Sequence[Source]


def build(
    config: StudyConfig, out: Path, overwrite: bool = False, progress: Callable[[float], object] | None = None
) -> Manifest:
    """Write a study's folder.

    Args:
        config: with ``runs``, or ``methods`` and ``references``.
        out: the folder.
        overwrite: replace a study that is there, unless it has answers.
        progress: called with the share of sets done, after each.

    Raises:
        ConfigError: it says of no images, of too few methods, or what no new study can have.
        DataError: images or photos are missing, too few, or of different sizes; the message names the file.
        PhotoError: an image cannot be read.
        OutputError: there is a study already, or answers to another one, or the folder cannot be written.
    """
    check_free([out / manifest.MANIFEST], overwrite)
    check_new(config)
    if not config.runs and not config.methods:
        raise ConfigError("the study has no images; give --run FOLDER of a table, or --methods and --references")
    candidates: dict[Kind, Candidates] = {}
    for kind in config.kinds:
        found = _of_run(config, kind) if config.runs else _of_folders(config, kind)
        if len(found.methods) < 2:
            raise ConfigError(f"a choice needs two methods or more, and {kind} images are of {len(found.methods)} only")
        _check_names(found.methods)
        candidates[kind] = found
    _check_sets(candidates, config)
    groups: dict[Kind, Group] = {}
    for kind, found in candidates.items():
        chosen = _drawn(found, config, kind)
        groups[kind] = _written(out, found.methods, chosen, progress, len(chosen) * len(config.kinds))
    made = Manifest(config=config, groups=groups)
    _check_answers(out, made)
    manifest.write(out, made)
    return manifest.read(out)


def _check_names(methods: Sequence[str]) -> None:
    for name in methods:
        if BETWEEN in name:
            raise ConfigError(
                f"the method's name '{name}' has '{BETWEEN}' in it, which parts names in the export; rename it"
            )


def _check_answers(out: Path, made: Manifest) -> None:
    """Refuse another study where answers were given: without the old one's file nobody could read them.

    Raises:
        OutputError: there are.
    """
    if (out / FILE).is_file() and (out / manifest.MANIFEST).is_file() and manifest.read(out).digest != made.digest:
        raise OutputError(
            f"{out / FILE} holds the answers of the study that is there; build this one in another folder, or export "
            "them and delete that file"
        )


def _check_sets(candidates: Mapping[Kind, Candidates], config: StudyConfig) -> None:
    """Refuse fewer sets than the study has, of all kinds at once and before an image is written.

    Raises:
        DataError: there are; the message gives the number of each kind, and how many the study can have.
    """
    counts = {kind: len(found.sets) for kind, found in candidates.items()}
    most = min(counts.values())
    if most >= config.sets:
        return
    there = " and ".join(f"{count} sets of {kind} images" for kind, count in counts.items())
    if counts.get("diversity") == 0:
        there += f" ({config.images_a_set} a set and method in diversity)"
        way = "lower `images_a_set`, or "
    else:
        way = f"set `sets` to {most} or less, or " if most else ""
    raise DataError(
        f"there are {there} that every method has, and the study asks for {config.sets}; {way}make more images"
    )


def _drawn(found: Candidates, config: StudyConfig, kind: Kind) -> list[Source]:
    """As many sets as the study has, drawn by its seed."""
    chosen = np.random.default_rng([config.seed, len(kind)]).permutation(len(found.sets))[: config.sets]
    return [found.sets[index] for index in sorted(chosen)]


def _written(
    out: Path,
    methods: tuple[str, ...],
    sources: Sequence[Source],
    progress: Callable[[float], object] | None,
    total: int,
) -> Group:
    """The images of some sets, stripped and written. All of the methods' are of one size; photos may be of another."""
    size: tuple[int, int] | None = None
    sets = []
    for source in sources:
        images = []
        for paths in source.images:
            names = []
            for path in paths:
                name, found = _stripped(out, path)
                size = size or found
                if found != size:
                    shown, wanted = ("x".join(map(str, one)) for one in (found, size))
                    raise DataError(f"{path} is {shown}, and others are {wanted}; make all images of one size")
                names.append(name)
            images.append(tuple(names))
        references = {key: _stripped(out, path)[0] for key, path in source.references.items()}
        sets.append(ImageSet(name=source.name, references=references, images=tuple(images)))
        if progress:
            progress(1 / total)
    assert size is not None
    return Group(methods=methods, size=size, sets=tuple(sets))


def _stripped(out: Path, path: Path) -> tuple[str, tuple[int, int]]:
    """Write an image's pixels, and nothing else of its file, under a digest of them; its name, width and height."""
    pixels = load_photo(path)
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise DataError(f"{path} has {width}x{height} pixels, too few to judge; make it {SMALLEST_SIDE} or more")
    name = f"{hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:24]}.png"
    if not (out / manifest.IMAGES / name).exists():
        write_whole(out / manifest.IMAGES / name, png(pixels))
    return name, (width, height)


# --- a table's run ----------------------------------------------------------------------------------------------------


def _of_run(config: StudyConfig, kind: Kind) -> Candidates:
    """The sets in the run of the table of a kind.

    Raises:
        ConfigError: none of the runs, or several, are of this kind.
        DataError: a run cannot be read, or lacks a method's scores.
    """
    for folder in config.runs:
        if not (folder / result.RESULT).is_file():
            which = folder.name if folder.name in get_args(Kind) else "control|diversity"
            raise DataError(
                f"{folder} has no {result.RESULT}; make it with: facecrafter evaluate {which} CONFIG, as docs/study.md "
                "shows, or give images with --methods and --references"
            )
    tables = {folder: result.read(folder) for folder in config.runs}
    fitting = [(folder, one) for folder, one in tables.items() if one.kind == kind]
    if len(fitting) != 1 or not isinstance(fitting[0][1], result.TableResult):
        raise ConfigError(
            f"the questions about {kind} images need one run of `evaluate {kind}`, and {len(fitting)} are given; "
            "name it with --run, or leave these questions out"
        )
    folder, table = fitting[0]
    scores = []
    for method in table.methods:
        found = read_scores(folder, method.slug, table.columns)
        if found is None:
            raise DataError(f"{folder} has no scores of {method.name}; run the evaluation again")
        scores.append(found)
    sets = _requests(folder, scores) if kind == "control" else _people(folder, scores, config.images_a_set)
    return Candidates(tuple(method.name for method in table.methods), sets)


def _requests(folder: Path, scores: Sequence[Scores]) -> list[Source]:
    """A set a request that every method answered, whether a face was found in its image or not."""
    sets = []
    for request in scores[0]:
        if all(request in one for one in scores):
            identity, target, seed = request
            references = {"source": folder / identity, **({"target": folder / target} if target else {})}
            name = "__".join(Path(part).stem for part in (identity, target) if part)
            sets.append(Source(f"{name}__{seed}", references, tuple((folder / one[request].image,) for one in scores)))
    return sets


def _people(folder: Path, scores: Sequence[Scores], count: int) -> list[Source]:
    """A set a person: the images of ``count`` requests that every method answered, the same for all."""
    by_person: dict[str, list[tuple[str, str, int]]] = {}
    for request in scores[0]:
        if all(request in one for one in scores):
            by_person.setdefault(request[0], []).append(request)
    return [
        Source(
            Path(identity).stem,
            {"source": folder / identity},
            tuple(tuple(folder / one[request].image for request in requests[:count]) for one in scores),
        )
        for identity, requests in by_person.items()
        if len(requests) >= count
    ]


# --- folders of images ------------------------------------------------------------------------------------------------


def _of_folders(config: StudyConfig, kind: Kind) -> Candidates:
    """The sets of the first method's folder, which all others must have too.

    Raises:
        ConfigError: there is no folder of reference photos, and a question shows them.
        DataError: a folder, an image or a photo is missing; the message names it.
    """
    wanted = {shown for one in config.questions if one.images == kind for shown in one.shows}
    if wanted and config.references is None:
        raise ConfigError("folders of images need --references, the folder of source and target photos")
    found = {name: _sets_of(folder / kind, kind, config.images_a_set) for name, folder in config.methods.items()}
    names = list(next(iter(found.values())))
    for method, sets in found.items():
        differing = sorted(set(names) ^ set(sets))
        if differing:
            folder = config.methods[method] / kind
            raise DataError(
                f"{folder} and {next(iter(config.methods.values())) / kind} do not hold the same sets: "
                f"'{differing[0]}' is in one of them only"
            )
    folders = {shown: config.references / kind / shown for shown in sorted(wanted) if config.references}
    photos = {shown: _sets_of(folder, "control", 1) for shown, folder in folders.items()}
    for shown, known in photos.items():
        missing = [name for name in names if name not in known]
        if missing:
            raise DataError(f"{folders[shown]} has no photo of the set '{missing[0]}'")
    sources = [
        Source(name, {shown: photos[shown][name][0] for shown in photos}, tuple(sets[name] for sets in found.values()))
        for name in names
    ]
    return Candidates(tuple(found), sources)


def _sets_of(folder: Path, kind: Kind, count: int) -> dict[str, tuple[Path, ...]]:
    """The images in a folder by the names of their sets."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; docs/study.md shows how images are laid out")
    if kind == "control":
        named: dict[str, tuple[Path, ...]] = {}
        for path in find_photos(folder)[0]:
            if path.parent == folder:
                if path.stem in named:
                    raise DataError(
                        f"{named[path.stem][0]} and {path.name} are both of the set '{path.stem}'; keep one"
                    )
                named[path.stem] = (path,)
        return named
    sets = {}
    left_out = 0
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        images = sorted(find_photos(inner)[0], key=_by_number)
        if len(images) < count:
            raise DataError(f"{inner} holds {len(images)} images, and a set of the study has {count}")
        sets[inner.name] = tuple(images[:count])
        left_out += len(images) - count
    if left_out:
        log.warning("%s: a set has %d images, and %d further ones are left out", folder, count, left_out)
    return sets


def _by_number(path: Path) -> list[tuple[int, str]]:
    """A key that puts 2 before 10."""
    parts = re.split(r"([0-9]+)", path.as_posix())
    return [(int(part), "") if part[:1].isdigit() else (-1, part) for part in parts]
