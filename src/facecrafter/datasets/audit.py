"""What a data set holds: counts, asked against measured, how far people are apart, who resembles a training person.

Read from the folder alone, a shard at a time. Distances are of images drawn evenly where there are many.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data import shards
from facecrafter.data.synthesis import directions
from facecrafter.datasets.identities import named_means
from facecrafter.datasets.output import digest_of, read_list, read_settings, samples
from facecrafter.errors import ConfigError, DataError
from facecrafter.estimators.identity import unit
from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.record import Interval, Number, Record
from facecrafter.faces.emotion import EMOTIONS, Emotion, emotion_of
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.faces.skin import TONES, skin_tone, typology_angle

Array = NDArray[np.float64]

FAR = 1e-4  # share of pairs of two people that a recogniser may take for one
MOST = 20_000  # images whose distances are measured
PAIRS = 1_000_000  # of two people, drawn
ALIKE = 4.0  # two images of a person in a cell whose small copies differ less (RMS of 255) show the same
SMALL = 32  # side of these copies
JUDGE = "sface"
AGE_BANDS = (18, 25, 35, 50, 65)


class Followed(Record):
    """Asked against measured, over the images that are there.

    Attributes:
        images: how many ask for it.
        correlation, slope: of measured by asked; None where one value is asked for.
        error: mean absolute difference.
    """

    images: int
    correlation: Number
    slope: Number
    error: Interval


class Neighbour(Record):
    """The training person who is nearest to someone.

    Attributes:
        person: by the name in the training's folder.
        cosine: of the mean embeddings.
    """

    person: str
    cosine: float


class Audit(Record):
    """What ``audit.json`` holds.

    Attributes:
        digest: of the set that was audited.
        images, people: how many.
        sources: how many of the plan's people come from where; None where the set does not say.
        rejected: images that missed their cell at every attempt.
        cells: by name, how many images are there and how many are missing.
        followed: by what is asked for.
        emotions: share read as asked, by the emotion as the plan words it; empty where none is asked for in words.
        judge: the recogniser of the distances.
        within, between: cosine of two images of one person, and of two people.
        threshold: the cosine that :data:`FAR` of the pairs of two people reach; None where pairs are too few.
        recognised: share of a person's pairs that reach it, with an interval over people.
        pairs: of two people, drawn.
        identity: cosine of the images to the embedding that was asked for.
        training: how many training people were compared; 0 for none.
        neighbours: the nearest training person of everyone, by their digests; the nearest first.
        nearest: cosine of people to the nearest training person: median and highest.
        apart: the plan's least distance, 1 - cosine.
        resembling: people nearer than that to a training person, by their digests.
        identical, alike: images whose pixels another image has, and that another one of the person's cell is like.
        ages, sexes, tones: people by apparent age, apparent sex and skin tone in the image.
    """

    digest: str
    images: int
    people: int
    sources: dict[str, int] | None = None
    rejected: int
    cells: dict[str, list[int]]
    followed: dict[str, Followed]
    emotions: dict[str, Interval]
    judge: str
    within: Number
    between: Number
    threshold: Number
    recognised: Interval
    pairs: int
    identity: Number
    training: int
    neighbours: dict[str, Neighbour]
    nearest: list[float]
    apart: float
    resembling: list[str]
    identical: int
    alike: int
    ages: dict[str, int]
    sexes: dict[str, int]
    tones: dict[str, int]


@dataclass
class _Held:
    """What is gathered of a data set in one pass."""

    persons: list[str] = field(default_factory=list)
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    angles: list[tuple[float, float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    likeness: list[float] = field(default_factory=list)
    drawn: list[tuple[str, NDArray[np.float32]]] = field(default_factory=list)
    sums: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    shapes: dict[str, list[tuple[str, float, float]]] = field(default_factory=lambda: defaultdict(list))
    tones: dict[str, str] = field(default_factory=dict)
    pixels: Counter[bytes] = field(default_factory=Counter)
    small: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)
    alike: int = 0


def audit(out: Path, training: Path | None = None, seed: int = 0) -> Audit:
    """Audit a data set.

    Args:
        out: the folder of ``dataset make``.
        training: a prepared folder of the people that the model was trained on.
        seed: of the draws.

    Raises:
        DataError: it is no finished data set, a shard is damaged, or it has no image.
    """
    meta, count = open_set(out)
    recogniser = next(iter(meta["recognisers"]))
    judge = JUDGE if JUDGE in meta["recognisers"] else recogniser
    held, rejected, missing = _gather(out, count, meta, judge)
    if not held.persons:
        raise DataError(f"{out} has no image to audit: all {rejected} missed their cell; widen accept in the plan")
    _check_index(out, len(held.persons))
    people = sorted(held.sums)
    own = {name: unit(np.stack([held.sums[person][name] for person in people])) for name in meta["recognisers"]}
    apart = meta["dataset"]["apart"]
    neighbours, compared = _neighbours(own[recogniser], people, training, recogniser)
    cosines = [one.cosine for one in neighbours.values()]
    return Audit(
        digest=digest_of(out, meta),
        images=len(held.persons),
        people=len(people),
        sources=meta["dataset"].get("sources"),
        rejected=rejected,
        cells=_cells(held, missing),
        followed=_followed(held),
        emotions=_emotions(held),
        judge=judge,
        identity=float(np.mean(held.likeness)),
        training=compared,
        neighbours=neighbours,
        nearest=[float(np.median(cosines)), max(cosines)] if cosines else [],
        apart=apart,
        resembling=sorted(person for person, one in neighbours.items() if one.cosine > 1 - apart),
        identical=sum(number for number in held.pixels.values() if number > 1),
        alike=held.alike,
        tones={name: list(held.tones.values()).count(name) for name in TONES},
        **_distances(held.drawn, seed),
        **_apparent(own),
    )


def open_set(out: Path) -> tuple[dict[str, Any], int]:
    """The settings of a finished data set and how many shards it has.

    Raises:
        DataError: it is none, is damaged, or not finished.
    """
    meta = read_settings(out)
    count = -(-meta["dataset"]["images"] // meta["shard_size"])
    if not (out / shards.INDEX).is_file():
        raise DataError(f"{out} is not finished; run 'dataset make' on it again, it goes on where it stopped")
    return meta, count


def _check_index(out: Path, images: int) -> None:
    """Refuse an index that is not of the images that are there.

    Raises:
        DataError: it is not, or is damaged.
    """
    import pyarrow.parquet as pq

    path = out / shards.INDEX
    try:
        same = pq.read_metadata(path).num_rows == images
    except shards.DAMAGE:
        same = False
    if not same:
        raise DataError(f"{path} is damaged; run 'dataset make' on the folder again, which writes it again")


def _gather(out: Path, count: int, meta: Mapping[str, Any], judge: str) -> tuple[_Held, int, Counter[str]]:
    """One pass over the shards; what was rejected, in all and by cell."""
    held, missing = _Held(), Counter[str]()
    every = max(1, meta["dataset"]["images"] // MOST)
    from tqdm import tqdm

    for number in tqdm(range(count), desc="shards"):
        beside = read_list(out, number)
        missing.update(one["reason"].rpartition(": ")[0] for one in beside["rejected"])
        rows = {row["key"]: row for row in beside["rows"]}
        for key, parts in samples(out, number, beside["sha256"]):
            try:
                _take(held, rows[key], parts, judge, len(held.persons) % every == 0)
            except shards.DAMAGE:
                raise DataError(f"the sample {key} of {shards.shard_path(out, number)} is damaged") from None
    return held, missing.total(), missing


def _take(held: _Held, row: Mapping[str, Any], parts: Mapping[str, bytes], judge: str, draw: bool) -> None:
    person = row["person"]
    if person not in held.sums:
        held.small = {}  # a person's images follow each other
    with Image.open(io.BytesIO(parts["png"]), formats=["PNG"]) as file:
        image = np.asarray(file.convert("RGB"))
    with np.load(io.BytesIO(parts["npz"])) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    vectors = shards.identities(found)
    sums = held.sums.setdefault(person, {name: np.zeros(len(one)) for name, one in vectors.items()})
    for name, one in vectors.items():
        sums[name] += one
    held.persons.append(person)
    held.asked.append(row)
    held.angles.append((row["yaw"], row["pitch"]))
    held.labels.append(row["emotion"])
    held.likeness.append(row["likeness"])
    if draw:
        held.drawn.append((person, vectors[judge]))
    if person not in held.tones:
        held.tones[person] = skin_tone(typology_angle(image, found["points"]))
    for name, value in json.loads(parts["json"])["asked"]["blendshapes"].items():
        held.shapes[name].append((person, value, float(found["blendshapes"][BLENDSHAPES.index(name)])))
    held.pixels[hashlib.sha256(image.tobytes()).digest()[:16]] += 1
    held.alike += _is_alike(held.small.setdefault(row["cell"], []), image)


def _is_alike(others: list[NDArray[np.float32]], image: NDArray[np.uint8]) -> bool:
    """Whether an image is like one of the same person in the same cell; its small copy joins theirs."""
    small = np.asarray(Image.fromarray(image).resize((SMALL, SMALL), Image.Resampling.BOX), np.float32)
    like = any(float(np.sqrt(np.square(small - other).mean())) < ALIKE for other in others)
    others.append(small)
    return like


def _cells(held: _Held, missing: Counter[str]) -> dict[str, list[int]]:
    there = Counter(
        f"yaw {one['asked_yaw']:g}, pitch {one['asked_pitch']:g}, {one['asked_expression']}, {one['asked_emotion']}"
        for one in held.asked
    )
    return {name: [there[name], missing[name]] for name in dict.fromkeys([*there, *missing])}


def _followed(held: _Held) -> dict[str, Followed]:
    found = {}
    for place, name in enumerate(("yaw", "pitch")):
        triples = [
            (person, one[f"asked_{name}"], angles[place])
            for person, one, angles in zip(held.persons, held.asked, held.angles, strict=True)
        ]
        found[name] = _against(triples)
    for name in ("valence", "arousal"):
        triples = [
            (person, one[f"asked_{name}"], one[name])
            for person, one in zip(held.persons, held.asked, strict=True)
            if one[f"asked_{name}"] is not None
        ]
        if triples:
            found[name] = _against(triples)
    return {**found, **{name: _against(triples) for name, triples in sorted(held.shapes.items())}}


def _against(triples: Sequence[tuple[str, float, float]]) -> Followed:
    """Of the person, what is asked and what is measured."""
    people = [person for person, _, _ in triples]
    asked, read = (np.array([one[place] for one in triples], np.float64) for place in (1, 2))
    several = np.ptp(asked) > 0
    return Followed(
        images=len(triples),
        correlation=float(np.corrcoef(asked, read)[0, 1]) if several and np.ptp(read) > 0 else None,
        slope=float(np.polyfit(asked, read, 1)[0]) if several else None,
        error=bootstrap.mean(np.abs(read - asked), people),
    )


def _emotions(held: _Held) -> dict[str, Interval]:
    """Share of the images of each emotion in words whose likeliest class is that of the words."""
    labels: dict[str, str] = {}
    for word in {one["asked_emotion"] for one in held.asked}:
        with suppress(ConfigError):  # a point, or free
            labels[word] = cast(Emotion, emotion_of(word)).label
    found = {}
    for word in sorted(labels, key=lambda word: (EMOTIONS.index(labels[word]), word)):
        rows = [place for place, one in enumerate(held.asked) if one["asked_emotion"] == word]
        right = np.array([held.labels[place] == labels[word] for place in rows])
        found[word] = bootstrap.mean(right, [held.persons[place] for place in rows])
    return found


def _distances(drawn: Sequence[tuple[str, NDArray[np.float32]]], seed: int) -> dict[str, Any]:
    """Within and between people, by the judge's cosine."""
    rng = np.random.default_rng(seed)
    people = np.array([person for person, _ in drawn])
    vectors = np.stack([vector for _, vector in drawn])
    within, whose = _within(people, vectors, rng)
    one, other = rng.integers(0, len(people), (2, PAIRS))
    apart = people[one] != people[other]
    one, other = one[apart], other[apart]
    blocks = np.array_split(np.arange(len(one)), max(1, len(one) // 100_000))
    between = np.concatenate([np.einsum("nd,nd->n", vectors[one[at]], vectors[other[at]]) for at in blocks])
    # Few people have few different pairs, however many are drawn.
    different = (len(people) ** 2 - sum(number**2 for number in Counter(people.tolist()).values())) // 2
    threshold = float(np.quantile(between, 1 - FAR)) if different * FAR >= 10 else None
    recognised = Interval(None, None, None)
    if threshold is not None and len(within):
        recognised = bootstrap.mean(within >= threshold, whose)
    return {
        "within": float(within.mean()) if len(within) else None,
        "between": float(between.mean()) if len(between) else None,
        "threshold": threshold,
        "recognised": recognised,
        "pairs": min(len(between), different),
    }


def _within(people: NDArray[Any], vectors: NDArray[np.float32], rng: np.random.Generator) -> tuple[Array, list[str]]:
    """Cosines of pairs of a person's images, each image with the next in a drawn order, and whose they are."""
    order = rng.permutation(len(people))
    order = order[np.argsort(people[order], kind="stable")]
    same = people[order[:-1]] == people[order[1:]]
    first, second = order[:-1][same], order[1:][same]
    values = np.einsum("nd,nd->n", vectors[first], vectors[second]).astype(np.float64)
    return values, people[first].tolist()


def _neighbours(
    own: NDArray[np.float32], people: Sequence[str], training: Path | None, recogniser: str
) -> tuple[dict[str, Neighbour], int]:
    """The nearest training person of everyone, the nearest first, and how many were compared."""
    if training is None:
        return {}, 0
    names, theirs = named_means(training, recogniser)
    found: list[Neighbour] = []
    for part in np.array_split(own, max(1, len(own) // 1024)):
        cosines = part @ theirs.T
        found += [
            Neighbour(person=names[place], cosine=float(cosine))
            for place, cosine in zip(cosines.argmax(1), cosines.max(1), strict=True)
        ]
    pairs = sorted(zip(people, found, strict=True), key=lambda pair: -pair[1].cosine)
    return dict(pairs), len(names)


def _apparent(own: Mapping[str, NDArray[np.float32]]) -> dict[str, dict[str, int]]:
    """People by apparent age and sex, where both embeddings are there that these are read from."""
    if not {"dlib", "sface"} <= own.keys():
        return {"ages": {}, "sexes": {}}
    fitted = directions.load(directions.ASSET)
    both = np.concatenate([own["dlib"], own["sface"]], axis=1).astype(np.float64)
    ages = np.exp(fitted.age(both)) - directions.YOUNGEST
    female = fitted.sex(both) > 0.5
    return {
        "ages": {name: int(((ages >= low) & (ages < high)).sum()) for name, low, high in _bands()},
        "sexes": {"female": int(female.sum()), "male": int((~female).sum())},
    }


def _bands() -> Iterator[tuple[str, float, float]]:
    yield f"below {AGE_BANDS[0]}", -np.inf, AGE_BANDS[0]
    for low, high in pairwise(AGE_BANDS):
        yield f"{low} to {high - 1}", low, high
    yield f"{AGE_BANDS[-1]} and more", AGE_BANDS[-1], np.inf
